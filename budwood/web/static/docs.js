// Shows openapi.json. Everything from the server is put in as text, never as markup.
import { ask, byId, element, fail, headers } from "./common.js";

function json(value) {
  const made = element("pre", "", element("code", JSON.stringify(value, null, 2)));
  made.tabIndex = 0; // so that the keyboard can scroll it
  return made;
}

function route(method, path, operation) {
  const title = element("summary", "", element("b", method.toUpperCase()), element("code", path));
  title.append(` ${operation.summary}`);
  const made = element("details", "", title);
  for (const parameter of operation.parameters ?? []) {
    const need = parameter.required ? "required" : "optional";
    made.append(element("p", `${parameter.name} (in the ${parameter.in}, ${need})`));
  }
  const body = operation.requestBody?.content?.["application/json"]?.schema;
  if (body) made.append(element("p", "Request"), json(body));
  const answers = Object.entries(operation.responses).map(([code, answer]) => element("li", `${code}: ${answer.description}`));
  made.append(element("p", "Answers"), element("ul", "", ...answers));
  return made;
}

function showDocument(document_) {
  const routes = Object.entries(document_.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => route(method, path, operation)),
  );
  byId("routes").replaceChildren(...routes);
  const schemas = Object.entries(document_.components.schemas).map(([name, schema]) =>
    element("details", "", element("summary", name), json(schema)),
  );
  byId("schemas").replaceChildren(...schemas);
  const { Row } = document_.components.schemas;
  const rows = Row.anyOf ?? [Row];
  const fields = (rows.find((row) => "text" in (row.properties ?? {})) ?? rows[0]).properties ?? {};
  const example = { [Object.keys(fields)[0] ?? "text"]: "Where is my parcel?" };
  const auth = document_.components.securitySchemes.bearer ? " -H 'authorization: Bearer KEY'" : "";
  byId("curl").textContent =
    `curl ${location.origin}/predict -H 'content-type: application/json'${auth} -d '${JSON.stringify(example)}'`;
}

async function load() {
  try {
    const reply = await fetch("/openapi.json", { headers: headers() });
    if (reply.status === 401) return ask(true);
    byId("key-row").hidden = true;
    showDocument(await reply.json());
  } catch {
    fail("The server does not answer.");
  }
}

document.body.addEventListener("keyed", load);
load();
