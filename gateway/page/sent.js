/**
 * When each sample that was sent had entered the microphone's end: the way from a position in the caller's audio, as
 * the server names it, to a time of this machine. One per connection, because positions count from its beginning.
 */

import { RATE } from "./pcm.js";

/** Chunks remembered: a minute of 20 ms ones. */
const KEPT = 3000;

export class SentAudio {
  constructor() {
    this.samples = 0;
    this.anchors = [];
  }

  /**
   * Note a chunk that was sent.
   * @param {number} length samples at 24 kHz
   * @param {number} time context seconds at which its first sample was captured
   */
  add(length, time) {
    this.anchors.push({ position: this.samples, time });
    if (this.anchors.length > KEPT) this.anchors.shift();
    this.samples += length;
  }

  /**
   * The context time at which the sample at `ms` of the sent audio was captured; null when it was never sent or is
   * older than a minute.
   * @param {number} ms
   * @returns {number | null}
   */
  timeOf(ms) {
    const position = (ms * RATE) / 1000;
    if (position > this.samples) return null;
    const anchor = this.anchors.findLast((candidate) => candidate.position <= position);
    return anchor === undefined ? null : anchor.time + (position - anchor.position) / RATE;
  }
}
