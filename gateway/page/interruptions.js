/**
 * Every time the caller spoke over the assistant, in one connection: from onset to silence in milliseconds, and what
 * became of it.
 *
 * Both ends are measured here, on the audio context's clock. The onset is the moment at which the sample where the
 * server's detector found speech entered the page; a voice's first sound is earlier, by 50 ms in the median and 112 ms
 * in the 90th percentile of the detector. Silence is the moment at which the first silent sample left the page, plus
 * the output latency that the browser states (0 where it states none). What the sound card adds on the microphone's
 * side is not known to any page and not in the number.
 */

export class Interruptions {
  /** @param {import("./conversation.js").Conversation} conversation */
  constructor(conversation) {
    this.conversation = conversation;
    this.list = [];
  }

  /**
   * The output was held.
   * @param {string} response
   * @param {number | null} onset context seconds of the caller's first sample, null when it is not known
   * @param {object | null} before the entry in front of which it belongs
   */
  begin(response, onset, before) {
    const entry = this.conversation.add("interruption", "", { response }, before);
    const interruption = { entry, response, onset, silence: null };
    this.list.push(interruption);
    return interruption;
  }

  /**
   * The player fell silent.
   * @param {object} interruption
   * @param {number} time context seconds of the first silent sample
   * @param {number} latency output latency in seconds
   * @param {boolean} sounded whether sound was cut off by it
   */
  silenced(interruption, time, latency, sounded) {
    const { entry, onset } = interruption;
    const silentAlready = !sounded && (onset === null || time + latency <= onset);
    interruption.silence = time + latency;
    const ms = onset === null || silentAlready ? null : Math.max(0, (interruption.silence - onset) * 1000);
    this.conversation.update(entry, { ms, silentAlready });
  }

  /**
   * It is decided what became of a response's latest interruption.
   * @param {string} response
   * @param {"confirmed" | "resumed" | "unknown"} outcome
   */
  settle(response, outcome) {
    const interruption = this.list.findLast((candidate) => candidate.response === response);
    if (interruption === undefined) return;
    const { outcome: earlier } = interruption.entry;
    if (earlier !== "deciding" && outcome !== "confirmed") return;
    this.conversation.update(interruption.entry, { outcome, late: earlier === "resumed" });
  }
}
