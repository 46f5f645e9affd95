/**
 * The microphone's end of the audio graph: hands its one input on as chunks of 480 samples (20 ms) at 24 kHz.
 *
 * Posts `{samples: Float32Array(480), time, level}`: `time` is the context time (seconds) at which the chunk's first
 * sample entered the graph, `level` the root mean square of the chunk (0..1). A missing input counts as silence,
 * so the positions go on.
 */

import { Resampler } from "./resampler.js";

const RATE = 24000;
const CHUNK = 480;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = sampleRate === RATE ? null : new Resampler(sampleRate, RATE);
    this.chunk = new Float32Array(CHUNK);
    this.filled = 0;
  }

  process(inputs) {
    const input = inputs[0][0] ?? new Float32Array(128);
    const samples = this.resampler ? this.resampler.push(input) : input;
    const heldBack = this.resampler ? this.resampler.ahead / sampleRate : 0;
    const end = currentTime + input.length / sampleRate - heldBack;
    let taken = 0;
    while (taken < samples.length) {
      const count = Math.min(CHUNK - this.filled, samples.length - taken);
      this.chunk.set(samples.subarray(taken, taken + count), this.filled);
      this.filled += count;
      taken += count;
      if (this.filled === CHUNK) this.post(end - (samples.length - taken) / RATE - CHUNK / RATE);
    }
    return true;
  }

  post(time) {
    let sum = 0;
    for (const sample of this.chunk) sum += sample * sample;
    const message = { samples: this.chunk, time, level: Math.sqrt(sum / CHUNK) };
    this.port.postMessage(message, [this.chunk.buffer]);
    this.chunk = new Float32Array(CHUNK);
    this.filled = 0;
  }
}

registerProcessor("capture", Capture);
