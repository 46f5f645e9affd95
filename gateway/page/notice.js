/** The one place where the page says in words that something is wrong, and what to do about it. */

/** Notices in order of importance: only the first of those present is shown. */
const ORDER = ["insecure", "microphone", "connection", "ended", "sound", "server", "readiness"];

export class Notice {
  /** @param {HTMLElement} element holds .notice-title, .notice-text and a button */
  constructor(element) {
    this.element = element;
    this.title = element.querySelector(".notice-title");
    this.text = element.querySelector(".notice-text");
    this.button = element.querySelector("button");
    this.button.addEventListener("click", () => this.shown?.act());
    this.present = new Map();
    this.shown = null;
  }

  /**
   * Say something, replacing what was said of the same kind.
   * @param {string} kind one of ORDER
   * @param {string} title a few words
   * @param {string} text what it means and what to do
   * @param {{label: string, act: () => void} | null} action what the button does, null for no button
   */
  say(kind, title, text, action = null) {
    this.present.set(kind, { kind, title, text, label: action?.label ?? null, act: action?.act });
    this.render();
  }

  /** Take back what was said of a kind. */
  clear(...kinds) {
    for (const kind of kinds) this.present.delete(kind);
    this.render();
  }

  render() {
    const kind = ORDER.find((candidate) => this.present.has(candidate));
    this.shown = this.present.get(kind) ?? null;
    this.element.hidden = this.shown === null;
    if (this.shown === null) return;
    const set = (node, text) => node.textContent !== text && (node.textContent = text);
    this.element.dataset.kind = kind;
    // A countdown read out every second would drown everything else.
    this.text.setAttribute("aria-live", kind === "connection" ? "off" : "assertive");
    set(this.title, this.shown.title);
    set(this.text, this.shown.text);
    this.button.hidden = this.shown.label === null;
    set(this.button, this.shown.label ?? "");
  }

  /** What stands there now: {kind, title, text}, or null. */
  get current() {
    if (this.shown === null) return null;
    const { kind, title, text } = this.shown;
    return { kind, title, text };
  }
}
