/**
 * The assistant's voice: plays the audio of responses and knows how far each one was played.
 *
 * Positions count samples at 24 kHz since the response began. Audio of a response that is held, or that has ended as
 * cancelled, is dropped at the door. Dispatches "sounding", "level" and "silent" as worklets/playback.js posts them.
 */

import { PER_MS } from "./pcm.js";

/** How long to wait for the worklet's answer to a clear before the last known positions are used. */
const CLEAR_LIMIT_MS = 250;

export class Player extends EventTarget {
  /** @param {AudioContext} context */
  constructor(context) {
    super();
    this.context = context;
    this.node = new AudioWorkletNode(context, "playback", { numberOfInputs: 0, outputChannelCount: [1] });
    this.node.connect(context.destination);
    this.node.port.onmessage = ({ data }) => this.take(data);
    this.positions = {};
    this.received = {};
    this.shut = new Set();
    this.waiting = new Map();
    this.lastClear = 0;
    this.silent = true;
  }

  take(message) {
    if (message.positions) Object.assign(this.positions, message.positions);
    if (message.type === "sounding") this.silent = false;
    if (message.type === "silent") this.silent = true;
    if (message.type === "level" && message.response !== null) {
      this.positions[message.response] = message.position;
    }
    if (message.type === "cleared") this.waiting.get(message.id)?.(message);
    else this.dispatchEvent(new CustomEvent(message.type, { detail: message }));
  }

  /**
   * Queue the next audio of a response.
   * @param {string} response
   * @param {Float32Array} samples
   */
  push(response, samples) {
    if (this.shut.has(response)) return;
    const start = this.received[response] ?? 0;
    this.received[response] = start + samples.length;
    this.node.port.postMessage({ type: "push", response, start, samples }, [samples.buffer]);
  }

  /** No audio follows for a response. */
  end(response) {
    this.node.port.postMessage({ type: "end", response });
  }

  /** How many samples of a response have been handed over, played or not. */
  receivedOf(response) {
    return this.received[response] ?? 0;
  }

  /** Whether more than 1 ms of a response waits to be played. */
  isPending(response) {
    return !this.shut.has(response) && this.receivedOf(response) - this.positionOf(response) > PER_MS;
  }

  /** How far a response was played, as last reported (every 20 ms while it sounds). */
  positionOf(response) {
    return this.positions[response] ?? 0;
  }

  /**
   * Drop a response's audio at once and refuse more of it until `resume`.
   * @param {string} response
   * @returns {Promise<{time: number, position: number, sounded: boolean}>} when the first silent sample was rendered
   *   (context seconds), how far the response was played, and whether sound was cut off
   */
  async hold(response) {
    this.shut.add(response);
    const { time, positions, sounded } = await this.clear(response);
    return { time, position: positions[response] ?? 0, sounded };
  }

  /** Take audio of a held response again; what follows continues at `startMs`. */
  resume(response, startMs) {
    this.shut.delete(response);
    this.received[response] = Math.round(startMs * PER_MS);
    this.positions[response] = this.received[response];
  }

  clear(response) {
    const id = ++this.lastClear;
    return new Promise((resolve) => {
      const answer = (message) => {
        clearTimeout(timer);
        this.waiting.delete(id);
        resolve(message);
      };
      const timer = setTimeout(
        () => answer({ time: this.context.currentTime, positions: this.positions, sounded: !this.silent }),
        CLEAR_LIMIT_MS,
      );
      this.waiting.set(id, answer);
      this.node.port.postMessage({ type: "clear", id, response });
    });
  }

  /** Seconds from rendering a sample to hearing it, as far as the browser says; else 0. */
  get outputLatency() {
    return this.context.outputLatency || 0;
  }

  close() {
    this.node.port.onmessage = null;
    this.node.disconnect();
  }
}
