/**
 * The moments of turns, as bargein.step events report them, and what they say about the wait for an answer.
 *
 * All times are the server's milliseconds since the session began, so they compare with each other only.
 */

export class Steps {
  constructor() {
    this.turns = new Map();
    this.speechEnds = [];
    this.texts = [];
  }

  /**
   * Note one event. The first moment of a step in a turn counts. The end of speech and the final text carry the
   * turn before the one that they lead to, or the one that they interrupt, so those are matched by time.
   * @param {{turn: number, step: string, at_ms: number}} event
   */
  record({ turn, step, at_ms: at }) {
    if (step === "end_of_speech") this.speechEnds.push(at);
    if (step === "final_text") this.texts.push(at);
    const moments = this.turns.get(turn) ?? {};
    if (!(step in moments)) moments[step] = at;
    this.turns.set(turn, moments);
  }

  /**
   * How long the caller waited for a turn's first audio, in ms, and for what: `hearing` until the words were known,
   * `thinking` until the first sentence, `voice` until the first audio. Null until all of it is known. A turn that
   * no speech led to has no wait.
   * @param {number} turn
   * @returns {{total: number, hearing: number, thinking: number, voice: number} | null}
   */
  latencyOf(turn) {
    const moments = this.turns.get(turn);
    const firstAudio = moments?.first_audio;
    if (firstAudio === undefined) return null;
    const start = this.speechEnds.findLast((at) => at <= firstAudio);
    if (start === undefined) return null;
    const sentence = Math.max(start, Math.min(moments.first_sentence ?? firstAudio, firstAudio));
    const known = Math.max(start, this.texts.findLast((at) => at <= sentence) ?? start);
    return {
      total: firstAudio - start,
      hearing: known - start,
      thinking: sentence - known,
      voice: firstAudio - sentence,
    };
  }
}
