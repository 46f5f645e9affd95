/** What the console says in words. */

/** Seconds as 1:05.3. */
export function clock(seconds, digits = 1) {
  const whole = Math.max(0, seconds);
  const rest = (whole % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return `${Math.floor(whole / 60)}:${rest}`;
}

export const SPANS = {
  listen: "listens",
  transcribe: "transcribes",
  think: "thinks",
  compose: "writes",
  voice: "finds its voice",
  deliver: "delivers",
  speak: "speaks",
  hold: "held",
  "stop:playback": "output stops",
  "stop:llm": "model stops",
  "stop:tts": "voice stops",
};

const REASONS = {
  turn_detected: "interrupted",
  client_cancelled: "cancelled by the client",
  session_ended: "the call ended",
  caller_went_on: "begun ahead, the caller went on",
};

/** What became of a reply, in words; empty for one that was heard to its end. */
export function fate({ outcome, reason }) {
  if (outcome === "cancelled") return REASONS[reason] ?? `cancelled: ${reason}`;
  if (outcome === "failed") return `failed: ${reason}`;
  return outcome === "done" ? "" : "going on";
}

export function milliseconds(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}
