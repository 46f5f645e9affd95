/** Keeps a phone's screen on during a call: a phone that sleeps takes the microphone away. */

let lock = null;
let wanted = false;

async function request() {
  try {
    lock = await navigator.wakeLock?.request("screen");
    if (!wanted) await lock?.release();
  } catch {
    // A browser may refuse, for a low battery for instance; the call goes on without.
  }
}

/** Ask that the screen stay on, also after the page was hidden and shown again. */
export function keepAwake() {
  wanted = true;
  void request();
}

/** The call is over: the screen may go off. */
export function letSleep() {
  wanted = false;
  void lock?.release();
  lock = null;
}

document.addEventListener("visibilitychange", () => {
  if (wanted && !document.hidden) void request();
});
