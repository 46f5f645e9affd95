/** PCM16 little-endian mono at 24 kHz, base64 in JSON: the form in which the protocol carries audio. */

/** Samples per second in both directions. */
export const RATE = 24000;

/** Samples per millisecond. */
export const PER_MS = RATE / 1000;

/**
 * Base64 of float samples as PCM16; values outside -1..1 are clipped.
 * @param {Float32Array} samples
 * @returns {string}
 */
export function encode(samples) {
  const view = new DataView(new ArrayBuffer(samples.length * 2));
  samples.forEach((sample, index) => {
    const value = Math.round(sample * 32768);
    view.setInt16(index * 2, Math.max(-32768, Math.min(32767, value)), true);
  });
  return btoa(String.fromCharCode(...new Uint8Array(view.buffer)));
}

/**
 * Float samples (-1..1) of base64 PCM16. An odd last byte is dropped.
 * @param {string} text
 * @returns {Float32Array}
 */
export function decode(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const samples = new Float32Array(bytes.length >> 1);
  for (let index = 0; index < samples.length; index++) samples[index] = view.getInt16(index * 2, true) / 32768;
  return samples;
}
