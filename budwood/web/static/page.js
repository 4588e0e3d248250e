// The page to try the model on. Everything from the server is put in as text, never as markup.
"use strict";

const byId = (id) => document.getElementById(id);
let models = [];
let key = "";

function headers(more) {
  return key ? { ...more, authorization: `Bearer ${key}` } : { ...more };
}

function show(id, visible) {
  byId(id).hidden = !visible;
}

function fail(message) {
  byId("error").textContent = message;
  show("error", Boolean(message));
}

// A bar is drawn as SVG attributes: the page's policy allows no inline style.
function bar(share) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "bar");
  svg.setAttribute("viewBox", "0 0 100 4");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const width of [100, Math.max(0, Math.min(1, share)) * 100]) {
    const rect = document.createElementNS(space, "rect");
    rect.setAttribute("width", String(width));
    rect.setAttribute("height", "4");
    svg.append(rect);
  }
  return svg;
}

function row(label, value, share) {
  const line = document.createElement("tr");
  const name = document.createElement("th");
  const cell = document.createElement("td");
  name.scope = "row";
  name.textContent = label;
  cell.textContent = value;
  cell.append(bar(share));
  line.append(name, cell);
  return line;
}

// How many objects of each label, a label, labels, a number, or a line for each property.
function inShort(answer) {
  if (answer.objects) {
    const counts = new Map();
    for (const { label } of answer.objects) counts.set(label, (counts.get(label) ?? 0) + 1);
    return [...counts].map(([label, count]) => `${count} ${label}`).join(", ") || "no objects";
  }
  if (answer.properties) return Object.entries(answer.properties).map(([name, part]) => `${name}: ${inShort(part)}`).join(", ");
  if (answer.label === undefined && answer.value !== undefined) return String(Number(answer.value.toPrecision(4)));
  return answer.label ?? (answer.labels?.length ? answer.labels.join(", ") : "no label");
}

// A number on the scale of the training rows: the interval that holds 9 of 10 true values, and the number itself.
function rangeBar(answer, span) {
  const space = "http://www.w3.org/2000/svg";
  const [low, high] = [Math.min(span[0], answer.value), Math.max(span[1], answer.value)];
  const place = (value) => (100 * (Math.max(low, Math.min(high, value)) - low)) / (high - low || 1);
  const [left, right] = (answer.interval ?? [answer.value, answer.value]).map(place);
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "bar range");
  svg.setAttribute("viewBox", "0 0 100 4");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const mark = Math.min(99, Math.max(0, place(answer.value) - 0.5));
  for (const [kind, x, width] of [["whole", 0, 100], ["within", left, right - left], ["mark", mark, 1]]) {
    const rect = document.createElementNS(space, "rect");
    rect.setAttribute("class", kind);
    rect.setAttribute("x", String(x));
    rect.setAttribute("width", String(width));
    rect.setAttribute("height", "4");
    svg.append(rect);
  }
  return svg;
}

const figure = (value) => Number(value.toPrecision(4)).toLocaleString("en");

function showRange(answer, span) {
  byId("range").replaceChildren();
  if (answer.value === undefined || !span) return;
  const parts = [answer.bin, answer.horizon === undefined ? "" : `by ${figure(answer.horizon)}`];
  if (answer.interval) parts.push(`9 of 10 true values lie between ${answer.interval.map(figure).join(" and ")}`);
  byId("range").append(parts.filter(Boolean).join("; "), rangeBar(answer, span));
}

// The page's policy allows images of its own making, and no data: address.
function showHeat(uri) {
  URL.revokeObjectURL(byId("heat-map").src);
  show("heat-map", Boolean(uri));
  if (!uri) return;
  const bytes = Uint8Array.from(atob(uri.split(",")[1]), (letter) => letter.charCodeAt(0));
  byId("heat-map").src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
}

const KINDS = 6;
const MOST_OBJECTS = 100;

function svgElement(kind, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}

// The image with a box for each object, and the same objects as a list; pointing at a line shows its box.
function showObjects(answer) {
  show("found", Boolean(answer.objects));
  byId("boxes").replaceChildren();
  byId("objects").replaceChildren();
  if (!answer.objects) return;
  const image = byId("preview");
  byId("seen").src = image.src;
  show("boxed", image.naturalWidth > 0); // a browser shows fewer formats than the server reads
  byId("boxes").setAttribute("viewBox", `0 0 ${image.naturalWidth} ${image.naturalHeight}`);
  const labels = [...new Set(answer.objects.map((item) => item.label))].sort();
  for (const item of answer.objects) {
    const [x, y, right, bottom] = item.box;
    const kind = `box kind-${labels.indexOf(item.label) % KINDS}`;
    const rect = svgElement("rect", { class: kind, x, y, width: right - x, height: bottom - y });
    const line = document.createElement("li");
    const mark = document.createElement("span");
    mark.className = kind;
    line.append(mark, `${item.label} ${(100 * item.score).toFixed(0)} %, at ${item.box.map(Math.round).join(", ")}`);
    line.tabIndex = 0;
    for (const event of ["pointerenter", "focus"]) line.addEventListener(event, () => rect.classList.add("chosen"));
    for (const event of ["pointerleave", "blur"]) line.addEventListener(event, () => rect.classList.remove("chosen"));
    byId("boxes").append(rect);
    byId("objects").append(line);
  }
}

function showAnswer(answer, seconds, reply, span) {
  byId("label").textContent = inShort(answer);
  showRange(answer, span);
  showObjects(answer);
  showHeat(answer.explanation);
  const scores = Object.entries(answer.scores ?? {});
  byId("scores").replaceChildren(...scores.map(([name, value]) => row(name, `${(value * 100).toFixed(1)} %`, value)));
  const version = reply.headers.get("x-model-version");
  const cut = answer.truncated ? " The text was longer than the model reads, and was cut." : "";
  byId("timing").textContent = `${(seconds * 1000).toFixed(1)} ms with the network, version ${version}.${cut}`;
  show("answer", true);
}

// The input as the server draws it. An SVG that is shown as an image runs nothing.
async function draw(model, body) {
  const reply = await fetch(`/models/${encodeURIComponent(model.name)}/drawing`, {
    method: "POST",
    headers: headers({ "content-type": "application/json" }),
    body,
  });
  URL.revokeObjectURL(byId("drawing").src);
  show("drawing", reply.ok);
  if (!reply.ok) return;
  byId("drawing").src = URL.createObjectURL(new Blob([await reply.arrayBuffer()], { type: "image/svg+xml" }));
  byId("drawing").alt = `Drawing of ${JSON.parse(body)[model.input]}`;
}

const chosen = () => models[Number(byId("model").value) || 0];

// A file goes as it is; anything else as JSON.
function request(model) {
  if (!model.files.length) {
    const body = JSON.stringify({ [model.input]: byId("text").value });
    return { method: "POST", headers: headers({ "content-type": "application/json" }), body };
  }
  return { method: "POST", headers: headers({ "content-type": file.type || "image/unknown" }), body: file };
}

let file = null;

function take(given) {
  if (!given) return;
  file = given;
  URL.revokeObjectURL(byId("preview").src);
  byId("preview").src = URL.createObjectURL(given);
  byId("preview").alt = given.name;
  show("preview", true);
  predict();
}

// What the chosen model reads decides which field is shown.
function showField() {
  const model = chosen();
  show("report", Boolean(model?.report));
  if (model) byId("report").href = `/models/${encodeURIComponent(model.name)}/report`;
  const reads = Boolean(chosen()?.files.length);
  const writes = Boolean(chosen()?.writes);
  show("text-row", !reads);
  document.querySelector("label[for=text]").textContent = model?.input === "smiles" ? "SMILES" : "Text";
  show("file-row", reads);
  show("explain-row", Boolean(model?.explains));
  show("writing-row", writes);
  show("classes", !writes);
  byId("text").required = !reads && !writes;
  byId("send").textContent = writes ? "Write" : "Predict";
}

// The events of a stream, one JSON object each, as they come.
async function* events(reply) {
  const decoder = new TextDecoder();
  let held = "";
  const reader = reply.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    held += decoder.decode(value, { stream: !done });
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: {")) yield JSON.parse(part.slice(6));
    }
    if (done) return;
  }
}

let writing = null;

function stop() {
  writing?.abort();
}

// The prompt, then each piece behind it; the server ends the text when this reader goes away.
async function write(model) {
  stop();
  const mine = new AbortController();
  writing = mine;
  const asked = { model: `${model.name}:${model.version}`, prompt: byId("text").value, stream: true };
  asked.max_tokens = Number(byId("max-tokens").value);
  asked.temperature = Number(byId("temperature").value);
  asked.seed = Number(byId("seed").value);
  const options = { method: "POST", headers: headers({ "content-type": "application/json" }), signal: mine.signal };
  byId("written").textContent = asked.prompt;
  byId("ended").textContent = "Writing …";
  fail("");
  show("text-answer", true);
  show("stop", true);
  try {
    const reply = await fetch("/v1/completions", { ...options, body: JSON.stringify(asked) });
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    let reason = "";
    for await (const event of events(reply)) {
      if (event.error) throw new Error(event.error.message);
      for (const choice of event.choices) {
        byId("written").append(choice.text);
        reason = choice.finish_reason ?? reason;
      }
    }
    byId("ended").textContent = reason === "stop" ? "The text has ended." : "Cut at the limit.";
  } catch (error) {
    byId("ended").textContent = mine.signal.aborted ? "Stopped." : "";
    if (!mine.signal.aborted) fail(error instanceof TypeError ? "The server does not answer." : error.message);
  } finally {
    if (writing === mine) show("stop", false);
  }
}

async function predict() {
  const model = chosen();
  if (model?.writes) {
    write(model);
    return;
  }
  if (model?.files.length && !file) {
    fail("Choose an image first.");
    return;
  }
  const button = byId("send");
  if (!model || button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  const start = performance.now();
  try {
    const asked = request(model);
    const explain = model.explains && byId("explain").checked ? "&explain=true" : "";
    show("drawing", false);
    const reply = await fetch(`/models/${encodeURIComponent(model.name)}/predict?top=${model.objects ? MOST_OBJECTS : 5}${explain}`, asked);
    const seconds = (performance.now() - start) / 1000;
    const answer = await reply.json();
    fail(reply.ok ? "" : `${answer.title}: ${answer.detail}`);
    show("answer", reply.ok);
    if (reply.ok) showAnswer(answer, seconds, reply, model.span);
    if (reply.ok && model.draws) draw(model, asked.body);
  } catch (error) {
    fail("The server does not answer.");
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

function showModels(found) {
  if (found.length === models.length) return;
  models = found;
  byId("title").textContent = found.length === 1 ? `${found[0].name} ${found[0].version}` : "";
  byId("model").replaceChildren(...found.map((model, i) => new Option(`${model.name} ${model.version}`, String(i))));
  show("model-row", found.length > 1);
  showField();
}

const LONGEST = 20;

function showCounts() {
  const model = chosen();
  const counts = Object.entries(model?.predictions ?? {}).filter(([, count]) => count > 0);
  counts.sort((a, b) => b[1] - a[1]);
  const most = counts.length ? counts[0][1] : 1;
  const shown = counts.slice(0, LONGEST).map(([name, count]) => row(name, String(count), count / most));
  byId("counts").replaceChildren(...shown);
  const left = counts.length - LONGEST;
  byId("more").textContent = counts.length === 0 ? "None yet." : left > 0 ? `and ${left} labels more` : "";
}

const milliseconds = (value) => (value === null ? "–" : `${value < 100 ? value.toFixed(1) : value.toFixed(0)} ms`);

async function refresh() {
  if (document.hidden) return;
  try {
    const reply = await fetch("/stats", { headers: headers() });
    show("key-row", reply.status === 401 || Boolean(key));
    if (!reply.ok) return;
    const live = await reply.json();
    showModels(live.models);
    models = live.models;
    byId("rate").textContent = live.requests_per_second.toFixed(1);
    byId("p50").textContent = milliseconds(live.p50_ms);
    byId("p95").textContent = milliseconds(live.p95_ms);
    byId("queue").textContent = String(live.queue_depth);
    byId("workers").textContent = String(live.workers_ready);
    showCounts();
  } catch (error) {
    byId("workers").textContent = "0";
  }
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  predict();
});
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
});
byId("model").addEventListener("change", showField);
byId("stop").addEventListener("click", stop);
// A link cannot send a key, so with one the report is fetched, and saved.
byId("report").addEventListener("click", async (event) => {
  if (!key) return;
  event.preventDefault();
  const reply = await fetch(byId("report").href, { headers: headers() });
  if (!reply.ok) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await reply.blob());
  link.download = `${chosen().name}-report.html`;
  link.click();
  URL.revokeObjectURL(link.href);
});
byId("file").addEventListener("change", (event) => take(event.target.files[0]));
byId("explain").addEventListener("change", () => file && predict());
for (const kind of ["dragover", "drop"]) {
  byId("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  if (chosen()?.files.length) take(event.clipboardData.files[0]);
});
byId("key").addEventListener("input", (event) => {
  key = event.target.value.trim();
});
byId("key").addEventListener("change", refresh);
refresh();
setInterval(refresh, 1000);
