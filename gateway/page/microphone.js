/** The caller's microphone: asking for it, saying why it cannot be had, and its audio as 20 ms chunks. */

/** Why there is no microphone, by the name of getUserMedia's error; "unusable" for any other. */
const REASONS = {
  NotAllowedError: "refused",
  SecurityError: "refused",
  NotFoundError: "missing",
  OverconstrainedError: "missing",
  NotReadableError: "busy",
  AbortError: "busy",
};

/** `reason` is insecure, refused, missing, busy, unplugged or unusable. */
export class MicrophoneProblem extends Error {
  constructor(reason, cause) {
    super(`microphone ${reason}`, { cause });
    this.reason = reason;
  }
}

/** Whether the browser offers a microphone to this page at all: only to https and to localhost. */
export function isOffered() {
  return window.isSecureContext && navigator.mediaDevices?.getUserMedia !== undefined;
}

/**
 * Ask for the microphone. `?audio=raw` in the page's address turns the browser's processing off, for measurements.
 * @returns {Promise<MediaStream>}
 * @throws {MicrophoneProblem}
 */
export async function ask() {
  if (!isOffered()) throw new MicrophoneProblem("insecure");
  const processing = new URLSearchParams(location.search).get("audio") !== "raw";
  const audio = {
    echoCancellation: processing,
    noiseSuppression: processing,
    autoGainControl: processing,
    channelCount: 1,
  };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new MicrophoneProblem(REASONS[error.name] ?? "unusable", error);
  }
}

/**
 * Dispatches "chunk" (detail: {samples, time, level}, see worklets/capture.js) every 20 ms and "unplugged" when the
 * device goes away.
 */
export class Microphone extends EventTarget {
  /**
   * @param {AudioContext} context
   * @param {MediaStream} stream
   * @param {MediaStreamAudioSourceNode} source
   */
  constructor(context, stream, source) {
    super();
    this.stream = stream;
    this.node = new AudioWorkletNode(context, "capture", {
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: "explicit",
    });
    this.source = source;
    source.connect(this.node);
    this.node.port.onmessage = ({ data }) => this.dispatchEvent(new CustomEvent("chunk", { detail: data }));
    for (const track of stream.getTracks()) {
      track.addEventListener("ended", () => this.dispatchEvent(new Event("unplugged")));
    }
  }

  /** Give the device back. */
  close() {
    this.node.port.onmessage = null;
    this.source.disconnect();
    for (const track of this.stream.getTracks()) track.stop();
  }
}
