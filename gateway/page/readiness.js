/**
 * Whether the server is ready for calls, asked at /ready: every 3 s while it is not, every 20 s while it is, and not
 * at all while the page is hidden. Dispatches "change" when an answer differs from the one before.
 */

import { needsKey } from "./key.js";

const WHEN_READY_MS = 20000;
const WHEN_NOT_MS = 3000;
const LIMIT_MS = 5000;

/** What each stage does, in a caller's words, in the order in which they work. */
export const STAGES = { stt: "speech recognition", llm: "language model", tts: "voice" };

export class Readiness extends EventTarget {
  constructor() {
    super();
    /** @type {{reachable: boolean | null, ready: boolean, missing: string[], engines: object}} */
    this.state = { reachable: null, ready: false, missing: [], engines: {} };
    this.timer = null;
    document.addEventListener("visibilitychange", () => document.hidden || this.check());
  }

  /** Ask now, and go on asking. */
  async check() {
    clearTimeout(this.timer);
    const state = await this.ask();
    const differs = JSON.stringify(state) !== JSON.stringify(this.state);
    this.state = state;
    if (differs) this.dispatchEvent(new Event("change"));
    clearTimeout(this.timer);
    if (!document.hidden) {
      this.timer = setTimeout(() => this.check(), state.ready ? WHEN_READY_MS : WHEN_NOT_MS);
    }
  }

  async ask() {
    try {
      const answer = await fetch("/ready", { cache: "no-store", signal: AbortSignal.timeout(LIMIT_MS) });
      const { ready, stages, missing, key_required } = await answer.json();
      needsKey(key_required);
      const engines = {};
      for (const stage of Object.keys(STAGES)) {
        const workers = stages?.[stage];
        if (workers) engines[stage] = [...new Set(workers.map((worker) => worker.engine))];
      }
      const without = Object.keys(engines).filter((stage) => engines[stage].length === 0);
      return { reachable: true, ready: ready === true, missing: missing ?? without, engines };
    } catch {
      return { reachable: false, ready: false, missing: [], engines: this.state.engines };
    }
  }
}
