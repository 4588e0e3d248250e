// Shows openapi.json. Everything from the server is put in as text, never as markup.
"use strict";

const byId = (id) => document.getElementById(id);

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function json(value) {
  return element("pre", "", element("code", JSON.stringify(value, null, 2)));
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
  const row = document_.components.schemas.Row.properties ?? {};
  const example = Object.fromEntries(Object.keys(row).map((name) => [name, "Where is my parcel?"]));
  const auth = document_.components.securitySchemes.bearer ? " -H 'authorization: Bearer KEY'" : "";
  byId("curl").textContent =
    `curl ${location.origin}/predict -H 'content-type: application/json'${auth} -d '${JSON.stringify(example)}'`;
}

async function load() {
  const key = byId("key").value.trim();
  try {
    const reply = await fetch("/openapi.json", { headers: key ? { authorization: `Bearer ${key}` } : {} });
    byId("key-row").hidden = reply.status !== 401;
    byId("error").hidden = reply.ok || !key;
    byId("error").textContent = reply.ok ? "" : "This key is not known.";
    if (reply.ok) showDocument(await reply.json());
  } catch (error) {
    byId("error").hidden = false;
    byId("error").textContent = "The server does not answer.";
  }
}

byId("key-row").addEventListener("submit", (event) => {
  event.preventDefault();
  load();
});
load();
