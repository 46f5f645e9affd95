/**
 * The page: joins the models (call, conversation, readiness) with what shows them, and nothing else.
 *
 * `window.bargein` tells a test or a curious reader what is going on; it cannot change anything.
 */

import { Call } from "./call.js";
import { Conversation } from "./conversation.js";
import { Meter } from "./meter.js";
import { MicrophoneProblem, isOffered } from "./microphone.js";
import { Notice } from "./notice.js";
import { Readiness } from "./readiness.js";
import { Strip } from "./strip.js";
import { Transcript } from "./transcript.js";
import { FLOOR, MICROPHONE, clock, insecure, readiness as readinessWords } from "./words.js";

const find = (id) => document.getElementById(id);
const conversation = new Conversation();
const readiness = new Readiness();
const notice = new Notice(find("notice"));
const strip = new Strip(find("strip"));
const meters = { caller: new Meter(find("meter-caller")), assistant: new Meter(find("meter-assistant")) };
const button = find("talk");

/** The call that is on, or the last one, or null. */
let call = null;

new Transcript(conversation, find("transcript"), find("empty"), find("announcer"), () => call?.startedAt ?? 0);

const phase = () => (call === null || call.phase === "over" ? "idle" : call.phase);

function showState() {
  const now = phase();
  let state = now === "live" ? call.floor : now;
  if (!isOffered()) state = "insecure";
  const [title, hint] = FLOOR[state];
  document.body.dataset.phase = now;
  document.body.dataset.floor = state;
  find("floor").textContent = title;
  find("hint").textContent = hint;
  find("talk-label").textContent = now === "idle" ? "Talk" : "Hang up";
  button.disabled = !isOffered();
}

function showReadiness() {
  const { state } = readiness;
  for (const [stage, engines] of Object.entries(state.engines)) {
    const slot = find(`engine-${stage}`);
    slot.textContent = engines.join(", ") || "nobody";
    slot.dataset.missing = String(engines.length === 0);
  }
  find("engines").hidden = Object.keys(state.engines).length === 0;
  const words = readinessWords(state);
  if (words === null) notice.clear("readiness");
  else notice.say("readiness", ...words);
  if (state.ready) call?.retryNow();
}

/** Say how long it is until the next attempt; called again while it counts down. */
function showLoss() {
  if (phase() !== "lost") return;
  const seconds = Math.max(1, Math.ceil((call.retryAt - performance.now()) / 1000));
  const [title] = readinessWords(readiness.state) ?? [];
  const heading = title ?? (call.startedAt === null ? "The server cannot be reached" : "Connection lost");
  const act = () => call.retryNow();
  const reason = call.reason ? `${call.reason.replace(/\.?$/, ".")} ` : "";
  notice.say("connection", heading, `${reason}Trying again in ${seconds} s.`, { label: "Try now", act });
  setTimeout(showLoss, 200);
}

function phaseChanged(before) {
  const now = phase();
  if (now === "lost") {
    if (before === "live") conversation.note("Connection lost");
    void readiness.check();
    showLoss();
  }
  if (now === "live") {
    if (before !== "first") {
      conversation.note(call.resumed ? "Connected again." : "Connected again. The assistant starts afresh.");
    }
    notice.clear("connection", "server");
  }
  showState();
}

function callEnded(reason) {
  notice.clear("connection", "sound");
  if (call.startedAt !== null) {
    conversation.note(`Call ended after ${clock(performance.now() - call.startedAt)}`);
  }
  if (reason === "unplugged") notice.say("microphone", ...MICROPHONE.unplugged);
  else if (typeof reason === "object") {
    const text = reason.reason || `It gave no reason (code ${reason.code}).`;
    notice.say("ended", "The server ended the call", text);
  }
  showState();
}

function showSound() {
  if (phase() === "idle") return;
  const { context } = call;
  const act = () => void context.resume();
  if (context.state === "running") notice.clear("sound");
  else notice.say("sound", "The browser paused the sound", "Nothing is heard or played.", { label: "Go on", act });
}

async function talk() {
  notice.clear("microphone", "ended", "server");
  strip.reset();
  call = new Call(conversation);
  const mine = call;
  let before = "first";
  mine.addEventListener("phase", () => {
    phaseChanged(before);
    if (mine.phase === "live" || mine.phase === "lost") before = mine.phase;
  });
  mine.addEventListener("floor", showState);
  mine.addEventListener("sound", showSound);
  mine.addEventListener("over", ({ detail }) => callEnded(detail));
  mine.addEventListener("held", ({ detail }) => strip.mark(detail.onset, detail.silence));
  mine.addEventListener("session", () => (find("session").textContent = mine.dialogue.sessionId));
  mine.addEventListener("problem", ({ detail }) => {
    const act = () => notice.clear("server");
    notice.say("server", "The server reports a problem", detail, { label: "Dismiss", act });
  });
  mine.addEventListener("level", ({ detail: { who, time, level } }) => {
    strip.take(who, time, level);
    meters[who].take(level);
  });
  showState();
  try {
    await mine.start();
  } catch (error) {
    mine.hangUp();
    const reason = error instanceof MicrophoneProblem ? error.reason : "unusable";
    notice.say("microphone", ...(reason === "insecure" ? insecure() : MICROPHONE[reason]));
    if (reason === "unusable") console.error(error);
  }
  showState();
}

button.addEventListener("click", () => (phase() === "idle" ? void talk() : call.hangUp()));

function draw(now) {
  if (phase() !== "idle") strip.draw(call.context?.currentTime ?? 0);
  for (const meter of Object.values(meters)) meter.draw(now);
  find("clock").textContent = phase() === "live" ? clock(now - call.startedAt) : "";
  requestAnimationFrame(draw);
}

window.bargein = Object.freeze({
  /** idle, starting, connecting, live or lost. */
  get phase() {
    return phase();
  },
  /** caller, assistant, thinking or nobody. */
  get floor() {
    return call?.floor ?? "nobody";
  },
  get sessionId() {
    return call?.dialogue?.sessionId ?? null;
  },
  /** Every entry of conversation.js, in order, as copies. */
  get conversation() {
    return structuredClone(conversation.entries);
  },
  /** The entries of kind interruption: `ms` from onset to silence, and `outcome`. */
  get interruptions() {
    return structuredClone(conversation.entries.filter(({ kind }) => kind === "interruption"));
  },
  /** How far each response was played, in samples at 24 kHz. */
  get playedSamples() {
    return { ...call?.player?.positions };
  },
  /** Samples at 24 kHz sent on this connection. */
  get sentSamples() {
    return call?.sent.samples ?? 0;
  },
  /** Whether nothing is being played. */
  get silent() {
    return call?.player?.silent ?? true;
  },
  /** The context's rate in Hz and the browser's own word on its output latency in seconds. */
  get sound() {
    const context = call?.context;
    return context ? { rate: context.sampleRate, outputLatency: context.outputLatency ?? null } : null;
  },
  /** What the page says is wrong: {kind, title, text}, or null. */
  get notice() {
    return notice.current;
  },
  /** What /ready answered last: {reachable, ready, missing, engines}. */
  get readiness() {
    return structuredClone(readiness.state);
  },
});

readiness.addEventListener("change", showReadiness);
void readiness.check();
if (!isOffered()) notice.say("insecure", ...insecure());
showState();
requestAnimationFrame(draw);
