/**
 * The loudspeaker's end of the audio graph: plays queued 24 kHz audio and knows to the sample what was played.
 *
 * A position counts samples at 24 kHz since its response began. Messages taken:
 *   {type: "push", response, start, samples}  queue Float32 audio whose first sample has position `start`
 *   {type: "end", response}                   nothing follows for this response
 *   {type: "clear", id, response?}            drop everything queued (of one response, or of all) before the next
 *                                             render quantum; the last value fades to zero within 64 samples
 * Messages posted:
 *   {type: "sounding", response, time}        the first sample of a response after silence or after another response
 *   {type: "level", time, level, response, position}   every 20 ms while sounding
 *   {type: "silent", time, positions}         the queue ran dry: `time` is that of the first silent sample
 *   {type: "cleared", id, time, positions, sounded}    the answer to clear; `sounded` says whether it cut sound off,
 *                                             `time` is that of the first silent sample, also when that is past
 * Times are seconds of the context; `positions` maps every response to how far it was played.
 */

import { Resampler } from "./resampler.js";

const RATE = 24000;
const FADE = 64;

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = [];
    this.resamplers = new Map();
    this.positions = {};
    this.clears = [];
    this.current = null;
    this.silentSince = 0;
    this.last = 0;
    this.fade = 0;
    this.sum = 0;
    this.counted = 0;
    this.port.onmessage = ({ data }) => this.take(data);
  }

  take(message) {
    if (message.type === "push") this.push(message);
    else if (message.type === "end") this.end(message.response);
    else if (message.type === "clear") this.clear(message);
  }

  push({ response, start, samples }) {
    if (sampleRate === RATE) {
      this.queue.push({ response, start, samples, taken: 0 });
      return;
    }
    let line = this.resamplers.get(response);
    if (line === undefined) {
      line = { resampler: new Resampler(RATE, sampleRate), start, made: 0 };
      this.resamplers.set(response, line);
    }
    this.enqueue(response, line, line.resampler.push(samples));
  }

  enqueue(response, line, samples) {
    const start = line.start + (line.made * RATE) / sampleRate;
    line.made += samples.length;
    if (samples.length > 0) this.queue.push({ response, start, samples, taken: 0 });
  }

  end(response) {
    const line = this.resamplers.get(response);
    if (line === undefined) return;
    this.enqueue(response, line, line.resampler.flush());
    this.resamplers.delete(response);
  }

  clear({ id, response }) {
    const cuts = (name) => response === undefined || name === response;
    this.queue = this.queue.filter((part) => !cuts(part.response));
    for (const name of [...this.resamplers.keys()]) if (cuts(name)) this.resamplers.delete(name);
    this.clears.push({ id, sounded: this.current !== null && cuts(this.current) });
  }

  process(_inputs, outputs) {
    const output = outputs[0][0];
    for (let i = 0; i < output.length; i++) {
      const value = this.next(currentTime + i / sampleRate);
      output[i] = value;
      this.measure(value, currentTime + i / sampleRate);
    }
    for (const clear of this.clears) {
      const time = this.current === null ? this.silentSince : currentTime;
      this.port.postMessage({ type: "cleared", ...clear, time, positions: { ...this.positions } });
    }
    this.clears.length = 0;
    return true;
  }

  /** The next sample to play, at context time `time`. */
  next(time) {
    const part = this.queue[0];
    if (part === undefined) {
      if (this.current !== null) this.fallSilent(time);
      if (this.fade === 0) return 0;
      this.fade -= 1;
      return (this.last * this.fade) / FADE;
    }
    if (this.current !== part.response) {
      this.current = part.response;
      this.port.postMessage({ type: "sounding", response: part.response, time });
    }
    this.last = part.samples[part.taken];
    part.taken += 1;
    this.positions[part.response] = part.start + Math.round((part.taken * RATE) / sampleRate);
    if (part.taken === part.samples.length) this.queue.shift();
    return this.last;
  }

  fallSilent(time) {
    this.current = null;
    this.fade = Math.abs(this.last) > 1e-3 ? FADE : 0;
    this.silentSince = time + this.fade / sampleRate;
    this.port.postMessage({ type: "silent", time: this.silentSince, positions: { ...this.positions } });
    this.postLevel(time);
  }

  measure(value, time) {
    if (this.current === null) return;
    this.sum += value * value;
    this.counted += 1;
    if (this.counted >= sampleRate / 50) this.postLevel(time);
  }

  postLevel(time) {
    const level = this.counted > 0 ? Math.sqrt(this.sum / this.counted) : 0;
    const response = this.current;
    this.port.postMessage({ type: "level", time, level, response, position: this.positions[response] ?? 0 });
    this.sum = 0;
    this.counted = 0;
  }
}

registerProcessor("playback", Playback);
