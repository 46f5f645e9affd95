/**
 * What was said and what happened, in order: the entries that the page shows. Knows nothing of how it is shown.
 *
 * An entry has `key` (1, 2, 3 ...), `id` (the protocol's name of it, unique within one connection), `kind` and `at`
 * (performance.now()). Further fields by kind:
 *   caller        text, final, failed
 *   assistant     text (as far as heard), final, breaks (character positions at which it was held and went on),
 *                 cut (ms played when it was cut off, or null), failed (why it could not finish, or null),
 *                 latency (see steps.js, or null)
 *   interruption  response, ms (onset to silence, or null), outcome: deciding, confirmed, resumed or unknown,
 *                 late (confirmed after it had been taken back), silentAlready
 *   note          text
 * Dispatches "change" with the entry as detail, after `add` and `update`; "remove" after `remove`.
 */

const BLANK = {
  caller: { text: "", final: false, failed: false },
  assistant: { text: "", final: false, breaks: [], cut: null, failed: null, latency: null },
  interruption: { response: "", ms: null, outcome: "deciding", late: false, silentAlready: false },
  note: { text: "" },
};

export class Conversation extends EventTarget {
  constructor() {
    super();
    this.entries = [];
    this.lastKey = 0;
  }

  /**
   * Append a new entry, or put it in front of the entry `before`.
   * @param {string} kind
   * @param {string} id
   * @param {object} fields
   * @param {object | null} before
   */
  add(kind, id, fields = {}, before = null) {
    const key = ++this.lastKey;
    const entry = { key, id, kind, at: performance.now(), ...structuredClone(BLANK[kind]), ...fields };
    const index = this.entries.indexOf(before);
    this.entries.splice(index < 0 ? this.entries.length : index, 0, entry);
    this.changed("change", entry);
    return entry;
  }

  /** Append a line about the call itself. */
  note(text) {
    return this.add("note", "", { text });
  }

  /** Change fields of an entry; one that is gone is left alone. */
  update(entry, fields) {
    if (!this.entries.includes(entry)) return;
    Object.assign(entry, fields);
    this.changed("change", entry);
  }

  remove(entry) {
    if (!this.entries.includes(entry)) return;
    this.entries.splice(this.entries.indexOf(entry), 1);
    this.changed("remove", entry);
  }

  changed(type, entry) {
    this.dispatchEvent(new CustomEvent(type, { detail: entry }));
  }
}
