/**
 * The caller's audio on its way: numbered from the session's first sample, and kept until the server has it for certain.
 *
 * Positions count samples at 24 kHz.
 */

import { PER_MS } from "./pcm.js";

/** Milliseconds kept at most: what is older is lost should the connection break. */
const KEPT_MS = 120000;
/** Samples in one message where some have gathered: half a second. */
const AT_ONCE = 500 * PER_MS;

export class KeptAudio {
  constructor() {
    /** What was captured so far ends here. */
    this.end = 0;
    /** What was sent on the connection there is ends here. */
    this.sent = 0;
    this.chunks = [];
  }

  /** The first sample that is kept. */
  get start() {
    return this.chunks[0]?.start ?? this.end;
  }

  /**
   * More was captured.
   * @param {Float32Array} samples
   */
  add(samples) {
    this.chunks.push({ start: this.end, samples });
    this.end += samples.length;
    this.forget(this.end - KEPT_MS * PER_MS);
  }

  /** The server has everything up to `ms` for certain. */
  acknowledge(ms) {
    this.forget(Math.min(ms * PER_MS, this.sent));
  }

  /** On a new connection: the server has everything up to `ms`; where what it is sent begins, in ms. */
  rewind(ms) {
    this.sent = Math.max(this.start, Math.min(Math.floor(ms * PER_MS), this.end));
    return this.sent / PER_MS;
  }

  /**
   * What is to be sent next, at most half a second; null when all was sent.
   * @returns {Float32Array | null}
   */
  take() {
    this.sent = Math.max(this.sent, this.start);
    const first = this.chunks.findIndex(({ start, samples }) => start + samples.length > this.sent);
    if (first < 0) return null;
    const parts = [];
    let length = 0;
    for (const { start, samples } of this.chunks.slice(first)) {
      if (length > 0 && length + samples.length > AT_ONCE) break;
      parts.push(samples.subarray(Math.max(0, this.sent - start)));
      length += parts.at(-1).length;
    }
    const joined = new Float32Array(length);
    let at = 0;
    for (const part of parts) {
      joined.set(part, at);
      at += part.length;
    }
    this.sent += length;
    return joined;
  }

  forget(until) {
    while (this.chunks.length > 0 && this.chunks[0].start + this.chunks[0].samples.length <= until) this.chunks.shift();
  }
}
