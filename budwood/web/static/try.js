// The playground: it asks the routes that everybody asks, and shows the curl line that does the same.
import { showAnswer, spoken } from "./answer.js";
import { byId, complaint, events, fail, headers, key, onPart, show, time } from "./common.js";

let model = {};
let file = null;
let writing = null;
let newest = 0;
const MOST_OBJECTS = 100;

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const number = (id) => Number(byId(id).value);

function address() {
  if (model.kind === "write") return "/v1/completions";
  const top = "objects" in model ? MOST_OBJECTS : byId("top") && number("top");
  const query = new URLSearchParams({ ...(top && { top }), ...(byId("explain")?.checked && { explain: true }) });
  return `/models/${model.address}/predict${query.size ? `?${query}` : ""}`;
}

function body() {
  const text = byId("text").value;
  if (model.kind !== "write") return { [model.input]: text };
  const numbers = { max_tokens: number("max-tokens"), temperature: number("temperature"), top_p: number("top-p") };
  return { model: model.full, prompt: text, ...numbers, seed: number("seed"), stream: true };
}

// The key itself is never shown: the shell has it in a variable.
function curl() {
  const parts = [`curl ${model.kind === "write" ? "-N " : ""}${quote(location.origin + address())}`];
  if (key()) parts.push('-H "authorization: Bearer $KEY"');
  if (model.kind === "file") {
    parts.push(`-H 'content-type: ${file?.type || "image/jpeg"}'`, `--data-binary @${quote(file?.name ?? "photo.jpg")}`);
  } else {
    parts.push("-H 'content-type: application/json'", `-d ${quote(JSON.stringify(body()))}`);
  }
  byId("curl").textContent = parts.join(" \\\n  ");
}

function take(given) {
  if (!given) return;
  file = given;
  URL.revokeObjectURL(byId("preview").src);
  byId("preview").src = URL.createObjectURL(given);
  byId("preview").alt = given.name;
  show("preview", true);
  curl();
  predict();
}

// The input as the server draws it. An SVG that is shown as an image runs nothing.
async function draw() {
  const asked = { method: "POST", headers: headers({ "content-type": "application/json" }), body: JSON.stringify(body()) };
  const reply = await fetch(`/models/${model.address}/drawing`, asked);
  URL.revokeObjectURL(byId("drawing").src);
  show("drawing", reply.ok);
  if (!reply.ok) return;
  byId("drawing").src = URL.createObjectURL(new Blob([await reply.arrayBuffer()], { type: "image/svg+xml" }));
  byId("drawing").alt = `Drawing of ${byId("text").value}`;
}

async function predict() {
  if (model.kind === "file" && !file) return fail("Choose an image first.");
  const mine = ++newest; // an answer that was overtaken by a later question is not shown
  const sent = model.kind === "file" ? file : JSON.stringify(body());
  const kind = model.kind === "file" ? file.type || "image/unknown" : "application/json";
  byId("send").setAttribute("aria-disabled", "true");
  const start = performance.now();
  try {
    const reply = await fetch(address(), { method: "POST", headers: headers({ "content-type": kind }), body: sent });
    const answer = reply.ok ? await reply.json() : null;
    const ms = performance.now() - start;
    if (mine !== newest) return;
    fail(reply.ok ? "" : await complaint(reply));
    show("answer", reply.ok);
    if (!reply.ok) return;
    if (byId("preview")) await byId("preview").decode().catch(() => {}); // boxes need its size
    byId("timing").textContent = `${time(ms)} with the network, version ${reply.headers.get("x-model-version")}`;
    showAnswer(answer, model.span);
    byId("said").textContent = spoken(answer);
    if ("draws" in model) await draw();
  } catch {
    fail("The server does not answer.");
  } finally {
    byId("send").removeAttribute("aria-disabled");
  }
}

// The prompt, then each piece behind it; the server ends the text when this reader goes away.
async function write() {
  writing?.abort();
  const mine = new AbortController();
  writing = mine;
  const asked = body();
  byId("written").textContent = asked.prompt;
  byId("timing").textContent = "Writing …";
  fail("");
  show("answer", true);
  show("stop", true);
  const start = performance.now();
  let first = 0;
  let end = "";
  try {
    const options = { method: "POST", headers: headers({ "content-type": "application/json" }), signal: mine.signal };
    const reply = await fetch("/v1/completions", { ...options, body: JSON.stringify(asked) });
    if (!reply.ok) throw new Error(await complaint(reply));
    for await (const event of events(reply)) {
      if (event.error) throw new Error(event.error.message);
      for (const choice of event.choices) {
        first ||= performance.now() - start;
        byId("written").append(choice.text);
        end = choice.finish_reason === "stop" ? "The text has ended" : choice.finish_reason ? "Cut at the limit" : end;
      }
    }
  } catch (error) {
    end = mine.signal.aborted ? "Stopped" : "";
    if (!mine.signal.aborted) fail(error instanceof TypeError ? "The server does not answer." : error.message);
  }
  if (writing !== mine) return;
  show("stop", false);
  byId("timing").textContent = end && `${end}: first words after ${time(first)}, all after ${time(performance.now() - start)}.`;
}

function copy() {
  navigator.clipboard.writeText(byId("curl").textContent).then(
    () => (byId("copied").textContent = "Copied"),
    () => (byId("copied").textContent = "The browser does not allow it"),
  );
}

function listen(form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (model.kind === "write") write();
    else predict();
  });
  form.addEventListener("input", curl);
  byId("text")?.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  byId("stop").addEventListener("click", () => writing?.abort());
  byId("file")?.addEventListener("change", (event) => take(event.target.files[0]));
  byId("explain")?.addEventListener("change", () => file && predict());
  for (const kind of ["dragover", "drop"]) {
    byId("drop")?.addEventListener(kind, (event) => {
      event.preventDefault();
      take(event.dataTransfer.files[0]);
    });
  }
  show("copy", Boolean(navigator.clipboard)); // only a secure address, such as this machine's own, has it
  byId("copy").addEventListener("click", copy);
}

document.addEventListener("paste", (event) => {
  if (model.kind === "file") take(event.clipboardData.files[0]);
});
onPart("try", (place) => {
  const found = place.querySelector("#playground");
  model = { ...found.dataset, span: JSON.parse(found.dataset.span) };
  file = null;
  listen(byId("form"));
  curl();
});
