// An answer of any task, drawn: scores as bars, numbers on their scale, objects as boxes. Texts go in as text.
import { byId, element, reset, show, svg } from "./common.js";

const figure = (value) => Number(value.toPrecision(4)).toLocaleString("en");

// How many objects of each label, a label, labels, or a number.
function inShort(answer) {
  if (answer.objects) {
    const counts = new Map();
    for (const { label } of answer.objects) counts.set(label, (counts.get(label) ?? 0) + 1);
    return [...counts].map(([label, count]) => `${count} ${label}`).join(", ") || "no objects";
  }
  if (answer.label === undefined && answer.value !== undefined) return figure(answer.value);
  return answer.label ?? (answer.labels?.length ? answer.labels.join(", ") : "no label");
}

function bar(share) {
  const width = Math.max(0, Math.min(1, share)) * 100;
  const whole = { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" };
  return svg("svg", { class: "bar", ...whole }, svg("rect", { width: 100, height: 4 }), svg("rect", { width, height: 4 }));
}

function row(label, value, drawing) {
  const name = element("th", label);
  name.scope = "row";
  return element("tr", "", name, element("td", value, ...(drawing ? [drawing] : [])));
}

// A number on the scale of the training rows: the interval that holds 9 of 10 true values, and the number itself.
function rangeBar(answer, span) {
  const [low, high] = [Math.min(span[0], answer.value), Math.max(span[1], answer.value)];
  const place = (value) => (100 * (Math.max(low, Math.min(high, value)) - low)) / (high - low || 1);
  const [left, right] = (answer.interval ?? [answer.value, answer.value]).map(place);
  const mark = Math.min(99, Math.max(0, place(answer.value) - 0.5));
  const parts = [["whole", 0, 100], ["within", left, right - left], ["mark", mark, 1]];
  const rects = parts.map(([kind, x, width]) => svg("rect", { class: kind, x, width, height: 4 }));
  const whole = { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" };
  return svg("svg", { class: "bar range", ...whole }, ...rects);
}

function interval(answer) {
  if (!answer.interval) return "";
  return `9 of 10 true values lie between ${answer.interval.map(figure).join(" and ")}`;
}

function showRange(answer, span) {
  reset("range");
  if (answer.value === undefined) return;
  const said = [answer.bin, answer.horizon === undefined ? "" : `by ${figure(answer.horizon)}`, interval(answer)];
  byId("range").append(said.filter(Boolean).join("; "), ...(span ? [rangeBar(answer, span)] : []));
}

function scoreRows(answer) {
  if (answer.properties) {
    return Object.entries(answer.properties).map(([name, part]) => {
      const sure = part.score === undefined ? interval(part) : `${(100 * part.score).toFixed(1)} %`;
      return row(name, [inShort(part), sure].filter(Boolean).join(", "), part.score === undefined ? null : bar(part.score));
    });
  }
  return Object.entries(answer.scores ?? {}).map(([name, value]) => row(name, `${(100 * value).toFixed(1)} %`, bar(value)));
}

// What an answer says of itself.
function notes(answer) {
  const said = [];
  if (answer.truncated) said.push("The text was longer than the model reads, and was cut.");
  if (answer.in_training) said.push("The model learnt from this very molecule.");
  else if (answer.in_domain === false) said.push("No molecule of the training is near: take this with care.");
  if (answer.similarity !== undefined) said.push(`Similarity to the nearest in training: ${figure(answer.similarity)}.`);
  if (answer.stripped) said.push("Salts or solvents were removed.");
  return said.join(" ");
}

const KINDS = 6;

// The image with a box for each object, and the same objects as a list; pointing at a line shows its box.
function showObjects(objects) {
  reset("boxes");
  reset("objects");
  const image = byId("preview");
  byId("seen").src = image.src;
  show("boxed", image.naturalWidth > 0); // a browser shows fewer formats than the server reads
  byId("boxes").setAttribute("viewBox", `0 0 ${image.naturalWidth} ${image.naturalHeight}`);
  const labels = [...new Set(objects.map((item) => item.label))].sort();
  for (const item of objects) {
    const [x, y, right, bottom] = item.box;
    const kind = `box kind-${labels.indexOf(item.label) % KINDS}`;
    const rect = svg("rect", { class: kind, x, y, width: right - x, height: bottom - y });
    const mark = element("span");
    mark.className = kind;
    const line = element("li", "", mark, `${item.label} ${(100 * item.score).toFixed(0)} %, at ${item.box.map(Math.round).join(", ")}`);
    line.tabIndex = 0;
    for (const event of ["pointerenter", "focus"]) line.addEventListener(event, () => rect.classList.add("chosen"));
    for (const event of ["pointerleave", "blur"]) line.addEventListener(event, () => rect.classList.remove("chosen"));
    byId("boxes").append(rect);
    byId("objects").append(line);
  }
}

// The page's policy allows images of its own making, and no data: address.
function showHeat(uri) {
  URL.revokeObjectURL(byId("heat-map").src);
  show("heat-map", Boolean(uri));
  if (!uri) return;
  const bytes = Uint8Array.from(atob(uri.split(",")[1]), (letter) => letter.charCodeAt(0));
  byId("heat-map").src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
}

// The answer in one sentence, for those who hear the page.
export function spoken(answer) {
  const sure = answer.score === undefined ? interval(answer) : `${(100 * answer.score).toFixed(0)} %`;
  if (answer.properties) return Object.entries(answer.properties).map(([name, part]) => `${name}: ${inShort(part)}`).join("; ");
  return [inShort(answer), sure].filter(Boolean).join(", ");
}

export function showAnswer(answer, span) {
  byId("label").textContent = answer.properties ? "" : inShort(answer);
  byId("notes").textContent = notes(answer);
  showRange(answer, span);
  if (byId("found")) showObjects(answer.objects ?? []);
  if (byId("heat-map")) showHeat(answer.explanation);
  const rows = scoreRows(answer);
  reset("scores", ...rows);
  show("score-table", rows.length > 0);
  const plain = { ...answer };
  if (plain.explanation) plain.explanation = `${plain.explanation.slice(0, 40)}…`;
  byId("json").textContent = JSON.stringify(plain, null, 2);
  show("answer", true);
}
