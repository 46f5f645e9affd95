/** The conversation as a list on the page. One element per entry, changed in place. */

import { clock, duration } from "./words.js";

const SPEAKERS = { caller: "You", assistant: "Assistant" };
const OUTCOMES = { deciding: "deciding", confirmed: "confirmed", resumed: "taken back", unknown: "left open" };
const PARTS = [
  ["hearing", "hearing"],
  ["thinking", "thinking"],
  ["voice", "voice"],
];

/** An element with a class, and text or children. */
function make(tag, name, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children);
  return element;
}

/** The assistant's words with a mark wherever it was held and went on. */
function withBreaks(text, breaks) {
  const parts = [];
  let from = 0;
  for (const at of breaks.filter((position) => position <= text.length)) {
    parts.push(text.slice(from, at), spoken("hold-mark", "held here, then went on"));
    from = at;
  }
  return [...parts, text.slice(from)];
}

/** A graphical mark whose meaning is also there as words. */
function spoken(name, words) {
  const mark = make("span", name);
  mark.setAttribute("role", "img");
  mark.setAttribute("aria-label", words);
  mark.title = words;
  return mark;
}

function speech(entry) {
  const line = make("p", "words");
  if (entry.kind === "caller") line.append(entry.failed ? "This was not understood." : entry.text);
  else line.append(...withBreaks(entry.text, entry.breaks));
  if (entry.cut != null) {
    const label = make("span", "cut-label", `cut off at ${duration(entry.cut)}`);
    line.append(make("span", "cut", spoken("cut-mark", "cut off here"), label));
  }
  const parts = [make("p", "who", SPEAKERS[entry.kind]), line];
  if (entry.failed && entry.kind === "assistant") {
    parts.push(make("p", "failed", `It could not finish: ${entry.failed}`));
  }
  if (entry.latency) parts.push(latency(entry.latency));
  return parts;
}

/** The wait for the answer: a bar in three parts and the same in numbers. */
function latency({ total, ...parts }) {
  const bar = make("span", "wait-bar");
  bar.setAttribute("aria-hidden", "true");
  const words = [];
  for (const [name, label] of PARTS) {
    const part = make("span", name);
    part.style.flexGrow = String(Math.max(parts[name], total / 100));
    bar.append(part);
    words.push(`${label} ${Math.round(parts[name])}`);
  }
  const line = make("p", "wait", bar, make("span", "", make("b", "", duration(total)), " to answer"));
  line.append(make("span", "wait-parts", words.join(" · ")));
  return line;
}

function interruption(entry, startedAt) {
  const detail = entry.silentAlready ? "it was silent already" : "from detected speech to silence";
  const moment = make("p", "moment", `Interrupted at ${clock(entry.at - startedAt)} `, make("span", "", detail));
  const words = OUTCOMES[entry.outcome] + (entry.late ? " late" : "");
  const outcome = make("span", `outcome ${entry.outcome}`, words);
  const figure = make("b", "figure", entry.ms === null ? "–" : duration(entry.ms));
  return [figure, " ", moment, " ", outcome];
}

export class Transcript {
  /**
   * @param {import("./conversation.js").Conversation} conversation
   * @param {HTMLElement} list an ol
   * @param {HTMLElement} empty shown while the list is empty
   * @param {HTMLElement} announcer an aria-live region that is told every finished line once
   * @param {() => number} startedAt performance.now() at the start of the call
   */
  constructor(conversation, list, empty, announcer, startedAt) {
    Object.assign(this, { conversation, list, empty, announcer, startedAt });
    this.scroller = list.parentElement;
    this.elements = new Map();
    this.announced = new Set();
    conversation.addEventListener("change", ({ detail }) => this.show(detail));
    conversation.addEventListener("remove", ({ detail }) => this.drop(detail));
  }

  show(entry) {
    const { scroller } = this;
    const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
    const element = this.elements.get(entry.key) ?? this.place(entry);
    const silent = "text" in entry && entry.text === "" && !entry.failed;
    element.hidden = silent;
    element.className = `entry ${entry.kind}${entry.final === false ? " partial" : ""}`;
    if (entry.kind === "interruption") element.replaceChildren(...interruption(entry, this.startedAt()));
    else if (entry.kind === "note") element.replaceChildren(make("p", "", entry.text));
    else element.replaceChildren(...speech(entry));
    this.empty.hidden = this.list.querySelector(".entry:not([hidden])") !== null;
    if (atEnd) scroller.scrollTop = scroller.scrollHeight;
    if (!silent) this.announce(entry, element);
  }

  /** A new element, in the conversation's order. */
  place(entry) {
    const element = document.createElement("li");
    this.elements.set(entry.key, element);
    const { entries } = this.conversation;
    const next = entries[entries.indexOf(entry) + 1];
    this.list.insertBefore(element, next ? this.elements.get(next.key) : null);
    return element;
  }

  drop(entry) {
    this.elements.get(entry.key)?.remove();
    this.elements.delete(entry.key);
    this.empty.hidden = this.list.querySelector(".entry:not([hidden])") !== null;
  }

  /** Tell a screen reader a line once it will not change any more. */
  announce(entry, element) {
    const open = entry.final === false || entry.outcome === "deciding";
    if (open || this.announced.has(entry.key)) return;
    this.announced.add(entry.key);
    const words = element.querySelector(".words")?.textContent ?? element.textContent;
    const line = make("p", "", entry.kind in SPEAKERS ? `${SPEAKERS[entry.kind]}: ${words}` : words);
    this.announcer.append(line);
    while (this.announcer.childElementCount > 3) this.announcer.firstElementChild.remove();
  }
}
