// What all pages share: the key, the parts that htmx fetches, messages. Whatever the server says is put in as text.
export const byId = (id) => document.getElementById(id);
export const show = (id, visible) => byId(id) && (byId(id).hidden = !visible);

// The key stays in this tab's session storage: no cookie, no address and no other tab has it.
const KEPT = "budwood-key";
export const key = () => sessionStorage.getItem(KEPT) ?? "";
export const headers = (more) => (key() ? { ...more, authorization: `Bearer ${key()}` } : { ...more });
const guarded = "guarded" in document.body.dataset;
let refused = false; // the key that is kept is not known: it is not sent again and again
const locked = () => guarded && (refused || !key());

export function fail(message) {
  byId("error").textContent = message;
  show("error", Boolean(message));
}

// Asked for again when the server does not know the key that is kept.
export function ask(unknown) {
  refused = unknown && Boolean(key());
  show("key-row", true);
  show("forget", Boolean(key()));
  if (refused) fail("This key is not known.");
}

export function reset(field, ...children) {
  byId(field)?.replaceChildren(...children);
}

export function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

// Drawings are made of SVG attributes: the page's policy allows no inline style.
export function svg(kind, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

export const time = (ms) => `${ms < 100 ? ms.toFixed(1) : ms.toFixed(0)} ms`;

// The message of an error in any of the three shapes that the routes have.
export async function complaint(reply) {
  const body = await reply.json().catch(() => ({}));
  const wait = reply.headers.get("retry-after");
  const said = body.error?.message ?? body.error ?? [body.title, body.detail].filter(Boolean).join(": ");
  return `${said || `The server answered ${reply.status}.`}${wait ? ` Try again in ${wait} s.` : ""}`;
}

// The events of a stream, one JSON object each, as they come.
export async function* events(reply) {
  const decoder = new TextDecoder();
  const reader = reply.body.getReader();
  let held = "";
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

// Call `begin` with each part of that name, now and whenever htmx has put in another.
export function onPart(name, begin) {
  const place = byId(`part-${name}`);
  place.addEventListener("htmx:afterSwap", () => begin(place)); // not after it settled: a click may come first
  if (place.firstElementChild) begin(place);
}

const body = document.body;
body.addEventListener("htmx:configRequest", (event) => {
  const place = event.target;
  // Nobody looks, or the reader has paused: then what is there may stay as it is.
  const idle = place.firstElementChild && (document.hidden || "paused" in body.dataset);
  if (idle || locked()) event.preventDefault();
  if (guarded && !key()) ask(false);
  Object.assign(event.detail.headers, headers());
});
let silent = false;
body.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) {
    if (guarded) show("key-row", false);
    if (silent) fail("");
    silent = false;
  }
});
body.addEventListener("htmx:responseError", async ({ detail: { xhr } }) => {
  if (xhr.status === 401) return ask(true);
  let said = {};
  try {
    said = JSON.parse(xhr.responseText);
  } catch { /* not ours; the status must do */ }
  fail([said.title ?? `The server answered ${xhr.status}`, said.detail].filter(Boolean).join(": "));
});
body.addEventListener("htmx:sendError", () => {
  silent = true;
  fail("The server does not answer.");
});

function changed() {
  refused = false;
  fail("");
  body.dispatchEvent(new Event("keyed"));
}

byId("key-row").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEPT, byId("key").value.trim());
  byId("key").value = "";
  changed();
});
byId("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEPT);
  location.reload();
});
if (guarded && !key()) ask(false);

// A link cannot send a key, so with one the report is fetched, and saved.
body.addEventListener("click", async (event) => {
  const link = event.target.closest("a.report");
  if (!link || !key()) return;
  event.preventDefault();
  const reply = await fetch(link.href, { headers: headers() });
  if (!reply.ok) return fail(await complaint(reply));
  const made = document.createElement("a");
  made.href = URL.createObjectURL(await reply.blob());
  made.download = `${decodeURIComponent(link.pathname.split("/")[2]).replace(":", "-")}-report.html`;
  made.click();
  URL.revokeObjectURL(made.href);
});
