/** The conversation as heard: what was generated and never heard struck through, and where the time of a turn went. */

import { SPANS, clock, fate, milliseconds } from "./words.js";

/** What a caller waits for: the spans between the end of a question and the first sound of the answer. */
const WAIT = ["transcribe", "think", "compose", "voice", "deliver"];

export class Story extends EventTarget {
  /** @param {HTMLOListElement} element; dispatches "play" with a time as detail */
  constructor(element) {
    super();
    this.element = element;
    this.shown = "";
  }

  show({ session, entries, turns }) {
    const text = JSON.stringify([session, entries, turns]);
    if (text === this.shown) return;
    this.shown = text;
    const open = new Set([...this.element.querySelectorAll("details[open]")].map((each) => each.dataset.turn));
    const focused = document.activeElement?.closest?.("#entries [data-key]")?.dataset.key;
    const records = new Map(turns.map((turn) => [turn.turn, turn]));
    this.entries = entries;
    this.element.replaceChildren(...entries.map((entry, index) => this.row(entry, index, records.get(entry.turn), open)));
    if (focused) this.element.querySelector(`[data-key="${focused}"] button`)?.focus();
  }

  /** Mark what is heard at a time. */
  moveTo(seconds) {
    [...this.element.children].forEach((row, index) => {
      const { at, end } = this.entries[index];
      row.classList.toggle("now", at <= seconds && seconds < end);
    });
  }

  row(entry, index, record, open) {
    const row = made("li", `entry ${entry.who}`);
    row.dataset.key = `${entry.who}${entry.turn ?? index}`;
    const who = made("p", "who");
    const moment = made("button", "moment-button", clock(entry.at));
    moment.type = "button";
    moment.setAttribute("aria-label", `Play from ${clock(entry.at)}`);
    moment.addEventListener("click", () => this.dispatchEvent(new CustomEvent("play", { detail: entry.at })));
    who.append(moment, entry.who === "caller" ? "Caller" : "Assistant");
    const told = entry.who === "caller" ? (entry.backchannel ? "a backchannel" : "") : fate(entry);
    if (told) who.append(made("span", "fate", told));
    const words = made("p", "words", entry.text);
    if (entry.unheard) {
      if (entry.text) words.append(made("span", "cut-mark"));
      const never = made("del", "", entry.unheard);
      never.title = "generated, never heard";
      words.append(never);
    }
    row.append(who, words);
    if (record?.spans.length) row.append(waterfall(record, open.has(String(record.turn))));
    return row;
  }
}

function waterfall(record, open) {
  const details = made("details", "waterfall");
  details.dataset.turn = record.turn;
  details.open = open;
  const summary = made("summary");
  const waits = record.spans.filter(({ name }) => WAIT.includes(name));
  const brief = made("span", "brief");
  for (const { name, start, end } of waits) {
    const part = made("span");
    part.dataset.span = name;
    part.style.flexGrow = String(Math.max(1, (end - start) * 1000));
    brief.append(part);
  }
  const waited = waits.length ? waits.at(-1).end - waits[0].start : 0;
  const stops = record.spans.filter(({ name }) => name.startsWith("stop:"));
  const told = [waits.length ? `${milliseconds(waited * 1000)} to its first sound` : "where the time went"];
  if (stops.length) told.push(`everything stopped within ${milliseconds(Math.max(...stops.map((s) => s.end - s.start)) * 1000)}`);
  if (record.unanswered.length) told.push(`no answer from ${record.unanswered.join(", ")}`);
  if (record.tokens) told.push(`${record.tokens} tokens in vain`);
  if (waits.length) summary.append(brief);
  summary.append(told.join(" · "));
  const table = made("table");
  const begin = Math.min(...record.spans.map(({ start }) => start));
  const total = Math.max(0.001, Math.max(...record.spans.map(({ end }) => end)) - begin);
  for (const { name, start, end, detail } of record.spans) {
    const row = table.insertRow();
    row.append(made("th", "", SPANS[name] ?? name));
    row.firstChild.scope = "row";
    row.title = detail;
    const room = made("span", "bar-room");
    const bar = made("span", "bar");
    bar.dataset.span = name;
    bar.style.left = `${((start - begin) / total) * 100}%`;
    bar.style.width = `${((end - start) / total) * 100}%`;
    room.append(bar);
    row.insertCell().append(room);
    row.insertCell().textContent = milliseconds((end - start) * 1000);
  }
  details.append(summary, table);
  return details;
}

function made(name, className = "", text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}
