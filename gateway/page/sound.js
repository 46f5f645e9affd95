/**
 * The one audio context of a call. Microphone and player share it, so every time measured by either is on one clock.
 */

import { RATE } from "./pcm.js";

const WORKLETS = ["worklets/capture.js", "worklets/playback.js"];

/** A running context with both worklets loaded; of 24 kHz where the browser grants it. */
async function prepare(context) {
  await Promise.all([
    context.resume(),
    ...WORKLETS.map((path) => context.audioWorklet.addModule(new URL(path, import.meta.url))),
  ]);
  return context;
}

/** A context at 24 kHz. Call it inside the click, before any await: browsers start sound only on a gesture. */
export function newContext() {
  return new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
}

/**
 * A context in which `stream` can be used, and its source node. Some browsers refuse a microphone in a context of
 * another rate than the device's; then the context is replaced by one at the device's own rate.
 * @param {AudioContext} context
 * @param {MediaStream} stream
 * @returns {Promise<{context: AudioContext, source: MediaStreamAudioSourceNode}>}
 */
export async function contextFor(context, stream) {
  try {
    const source = context.createMediaStreamSource(stream);
    return { context: await prepare(context), source };
  } catch (error) {
    if (error.name !== "NotSupportedError") throw error;
    await context.close();
    const own = new AudioContext({ latencyHint: "interactive" });
    return { context: await prepare(own), source: own.createMediaStreamSource(stream) };
  }
}
