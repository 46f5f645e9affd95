/** The list of sessions: links, of which one is current; arrow keys go from one to the next. */

import { clock } from "./words.js";

export class List {
  /** @param {HTMLUListElement} element */
  constructor(element) {
    this.element = element;
    element.addEventListener("keydown", (event) => this.move(event));
  }

  /** Show sessions in the order given. */
  show(sessions, current) {
    const links = new Map([...this.element.querySelectorAll("a")].map((link) => [link.dataset.session, link]));
    const rows = sessions.map((session) => {
      const link = links.get(session.session) ?? this.make(session.session);
      link.setAttribute("aria-current", String(session.session === current));
      this.fill(link, session);
      return link.parentElement;
    });
    if (rows.some((row, index) => this.element.children[index] !== row) || rows.length !== this.element.children.length)
      this.element.replaceChildren(...rows);
  }

  make(session) {
    const row = document.createElement("li");
    const link = document.createElement("a");
    link.className = "call";
    link.href = `#${session}`;
    link.dataset.session = session;
    row.append(link);
    return link;
  }

  fill(link, { session, live, began, newest, turns, recorded }) {
    const name = document.createElement("span");
    name.className = "call-name";
    name.textContent = session;
    const facts = document.createElement("span");
    facts.className = "call-facts";
    const state = document.createElement("span");
    state.className = live ? "call-live" : "";
    state.textContent = live ? "live" : new Date(began).toLocaleTimeString();
    const replies = turns === 1 ? "1 turn" : `${turns} turns`;
    facts.append(state, ` · ${clock((newest - began) / 1000, 0)} · ${replies}${recorded ? " · recorded" : ""}`);
    if (link.textContent !== `${name.textContent}${facts.textContent}`) link.replaceChildren(name, facts);
  }

  move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step === undefined) return;
    const links = [...this.element.querySelectorAll("a")];
    links[links.indexOf(document.activeElement) + step]?.focus();
    event.preventDefault();
  }
}
