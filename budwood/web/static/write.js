// Suggestions of several generators as one types. Each keystroke ends the requests before it, so the server is free again.
import { byId, complaint, events, headers, onPart, time } from "./common.js";

const PAUSE = 120; // milliseconds without a keystroke before anything is asked
let cards = [];
let taken = 0;
let pending = new AbortController();
let timer = 0;

const text = () => byId("text");
const atEnd = () => text().selectionStart === text().value.length && text().selectionEnd === text().value.length;
const chosen = () => (atEnd() ? (cards[taken]?.found ?? "") : "");

// The chosen suggestion stands behind the text, in a layer that lies under the field and grows with it.
function mirror() {
  const ahead = document.createElement("span");
  ahead.textContent = chosen();
  byId("ghost").replaceChildren(`${text().value}`, ahead, "\u200b");
  for (const [at, card] of cards.entries()) {
    card.place.classList.toggle("chosen", at === taken && Boolean(card.found));
    card.button.disabled = !card.found;
    card.radio.checked = at === taken;
  }
}

function say(message) {
  byId("said").textContent = message;
}

function announce() {
  const several = cards.filter((card) => card.found).length;
  if (!cards[taken].found) return say(several ? `${several} suggestions, none of ${cards[taken].full}` : "No suggestion");
  say(`${cards[taken].full} suggests: ${cards[taken].found.trim()}. Tab takes it.${several > 1 ? ` ${several} suggestions.` : ""}`);
}

// Nothing is suggested, and what is still asked is ended.
function clear() {
  clearTimeout(timer);
  pending.abort();
  for (const card of cards) {
    card.found = "";
    card.words.textContent = "";
    card.timing.textContent = card.asked.checked ? "no suggestion" : "not asked";
  }
  say("");
  mirror();
}

async function suggest(card, signal) {
  const numbers = { max_tokens: Number(byId("max-tokens").value), temperature: Number(byId("temperature").value) };
  const body = JSON.stringify({ model: card.full, prompt: text().value, ...numbers, stream: true });
  const start = performance.now();
  let first = 0;
  card.timing.textContent = "…";
  try {
    const asked = { method: "POST", headers: headers({ "content-type": "application/json" }), body, signal };
    const reply = await fetch("/v1/completions", asked);
    if (!reply.ok) {
      const said = await complaint(reply);
      if (!signal.aborted) card.timing.textContent = said;
      return;
    }
    for await (const event of events(reply)) {
      if (signal.aborted) return;
      if (event.error) throw new Error(event.error.message);
      for (const choice of event.choices) {
        first ||= performance.now() - start;
        card.found += choice.text;
      }
      card.words.textContent = card.found;
      mirror();
    }
    const ms = performance.now() - start;
    card.timing.textContent = card.found ? `${time(ms)}, first words ${time(first)}` : `${time(ms)}: the text ends here`;
  } catch (error) {
    if (!signal.aborted) card.timing.textContent = error instanceof TypeError ? "the server does not answer" : error.message;
  }
}

async function suggestAll() {
  pending = new AbortController();
  const { signal } = pending;
  if (!text().value || !atEnd() || !byId("writing").checkValidity()) return;
  await Promise.all(cards.filter((card) => card.asked.checked).map((card) => suggest(card, signal)));
  if (!signal.aborted) announce();
}

function later() {
  clear();
  timer = setTimeout(suggestAll, PAUSE);
}

// As if it were typed, so that the browser can undo it.
function accept(card) {
  const words = card.found;
  if (!words) return;
  text().focus();
  text().setSelectionRange(text().value.length, text().value.length);
  if (!document.execCommand("insertText", false, words)) {
    text().value += words;
    later();
  }
  say(`Taken: ${words.trim()}`);
}

function choose(step) {
  const usable = [...cards.keys()].filter((at) => cards[at].found);
  if (!usable.length) return;
  const now = usable.indexOf(taken);
  taken = usable[(now + step + usable.length) % usable.length];
  mirror();
  announce();
}

function onKey(event) {
  const plain = !event.ctrlKey && !event.metaKey && !event.shiftKey;
  if (event.key === "Tab" && plain && !event.altKey && chosen()) {
    event.preventDefault();
    accept(cards[taken]);
  } else if (event.key === "Escape" && cards.some((card) => card.found)) {
    event.preventDefault();
    clear();
    say("Dismissed. Tab leaves the field.");
  } else if (event.altKey && plain && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    choose(event.key === "ArrowDown" ? 1 : -1);
  }
}

function cardOf(place, at) {
  const [radio, asked] = [place.querySelector("[type=radio]"), place.querySelector("[type=checkbox]")];
  const [words, timing] = [place.querySelector(".suggestion"), place.querySelector(".timing")];
  const card = { place, radio, asked, words, timing, button: place.querySelector("button"), full: place.dataset.full, found: "" };
  radio.addEventListener("change", () => {
    taken = at;
    mirror();
    announce();
  });
  asked.addEventListener("change", later);
  card.button.addEventListener("click", () => accept(card));
  return card;
}

onPart("write", (place) => {
  if (!byId("writing")) return;
  cards = [...place.querySelectorAll(".card")].map(cardOf);
  taken = 0;
  byId("writing").addEventListener("submit", (event) => event.preventDefault());
  text().addEventListener("input", later);
  text().addEventListener("keydown", onKey);
  document.addEventListener("selectionchange", () => document.activeElement === text() && mirror());
  for (const id of ["max-tokens", "temperature"]) byId(id).addEventListener("input", later);
  mirror();
});
