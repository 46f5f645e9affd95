/** What the page says in words, apart from what was said in the call. */

import { STAGES } from "./readiness.js";

/** Title and advice for each reason of microphone.js why there is no microphone. */
export const MICROPHONE = {
  refused: [
    "The microphone was refused",
    "Allow it for this page in the browser's address bar or settings, then press Talk again.",
  ],
  missing: ["No microphone was found", "Connect one, then press Talk again."],
  busy: [
    "The microphone cannot be used",
    "Another program may be holding it. Close that program, then press Talk again.",
  ],
  unplugged: ["The microphone was disconnected", "The call has ended. Connect it, then press Talk again."],
  unusable: ["The microphone cannot be used", "The browser gave no reason. Press Talk to try again."],
};

/** Title and advice for a page that is not served securely. */
export function insecure() {
  const port = location.port ? `:${location.port}` : "";
  return [
    "This address is not secure",
    "Browsers give the microphone to secure pages only. Open this page over https, or on the computer that " +
      `runs it at http://localhost${port}.`,
  ];
}

/** Who has the floor, as a headline and a hint. */
export const FLOOR = {
  idle: ["Talk to it. Interrupt it.", "Your browser will ask for the microphone."],
  insecure: ["No microphone here", "See above for what to do."],
  starting: ["Waiting for the microphone", "Allow it in your browser."],
  connecting: ["Connecting", "One moment."],
  lost: ["Not connected", "Nothing you say now is heard."],
  nobody: ["Listening", "Say something."],
  caller: ["You are speaking", "Take your time."],
  thinking: ["Thinking", "One moment."],
  assistant: ["The assistant is speaking", "Interrupt it whenever you like."],
};

/** Title and advice for what /ready answered; null when all is well. */
export function readiness({ reachable, ready, missing }) {
  if (ready || reachable === null) return null;
  if (!reachable) return ["The server cannot be reached", "This page keeps trying."];
  const names = missing.map((stage) => STAGES[stage] ?? stage);
  const list = names.length > 0 ? `Still missing: ${names.join(", ")}.` : "It is still starting.";
  return ["The server is not ready", `${list} This page notices when that changes.`];
}

/** A duration as m:ss. */
export function clock(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

/** Milliseconds for reading: 38 ms, 1.24 s. */
export function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}
