/**
 * The console: joins the list of sessions, the picture and the story of one, and its recording.
 *
 * The session that is shown stands in the address (#s0-...). `window.bargeinConsole` tells a test or a curious reader
 * what is shown; it cannot change anything.
 */

import { List } from "./list.js";
import { Unavailable, fetchJson, recordingOf } from "./source.js";
import { Story } from "./story.js";
import { Waves } from "./waves.js";
import { clock } from "./words.js";

const find = (id) => document.getElementById(id);
const list = new List(find("sessions"));
const waves = new Waves(find("waves"));
const story = new Story(find("entries"));
const audio = find("audio");
const EVERY_MS = 2000;

/** The session that is shown, as the gateway tells it, or null. */
let shown = null;
/** The session whose recording the audio element holds. */
let loaded = "";

const asked = () => location.hash.slice(1);

async function refresh() {
  try {
    const { sessions } = await fetchJson("sessions");
    list.show(sessions, asked());
    const live = sessions.filter((each) => each.live).length;
    find("count").textContent = live === 1 ? "1 live call" : `${live} live calls`;
    find("none").hidden = sessions.length > 0;
    const current = sessions.find((each) => each.session === asked());
    if (shown?.live || (shown && current?.recorded && !shown.recorded)) await open();
    say("");
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    say(error.message);
  }
}

/** Fetch and show the session in the address. */
async function open() {
  const session = asked();
  if (!session) return;
  const told = await fetchJson(`sessions/${encodeURIComponent(session)}`);
  if (session !== asked()) return;
  const another = shown?.session !== session;
  shown = told;
  if (another) {
    audio.removeAttribute("src");
    loaded = "";
    waves.clear();
  }
  find("story").hidden = false;
  find("choose").hidden = true;
  find("name").textContent = session;
  const state = told.live ? "live" : told.expires_s < 0 ? "over" : `over, kept ${Math.ceil(told.expires_s / 60)} min more`;
  find("facts").textContent = `${new Date(told.began).toLocaleString()} · ${state}`;
  find("play").hidden = !told.recorded;
  waves.show(told);
  story.show(told);
  if (another) moveTo(0);
}

function say(text) {
  const notice = find("notice");
  notice.hidden = text === "";
  notice.querySelector("p").textContent = text;
  if (text && shown === null) find("choose").textContent = text;
}

function moveTo(seconds) {
  waves.moveTo(seconds);
  story.moveTo(seconds);
  find("position").textContent = `${clock(seconds)} of ${clock(waves.seconds)}`;
}

/** Play from a moment, or from where one is. */
async function play(seconds = waves.at) {
  moveTo(seconds);
  if (!shown?.recorded) return;
  if (loaded !== shown.session) {
    loaded = shown.session;
    const before = audio.src;
    audio.src = await recordingOf(shown.session);
    if (before.startsWith("blob:")) URL.revokeObjectURL(before);
  }
  audio.currentTime = seconds;
  await audio.play();
}

const toggle = () => (audio.paused ? play(waves.at >= waves.seconds - 0.1 ? 0 : waves.at) : audio.pause());

function showPlaying() {
  find("play").setAttribute("aria-pressed", String(!audio.paused));
  find("play-label").textContent = audio.paused ? "Play" : "Pause";
  if (!audio.paused) requestAnimationFrame(follow);
}

function follow() {
  if (audio.paused) return;
  moveTo(audio.currentTime);
  requestAnimationFrame(follow);
}

for (const change of ["play", "pause", "ended"]) audio.addEventListener(change, showPlaying);
find("play").addEventListener("click", toggle);
waves.addEventListener("toggle", toggle);
waves.addEventListener("seek", ({ detail }) => (audio.paused ? moveTo(detail) : play(detail)));
story.addEventListener("play", ({ detail }) => play(detail));
addEventListener("hashchange", () => open().then(refresh, (error) => say(error.message)));

window.bargeinConsole = {
  get session() {
    return shown?.session ?? "";
  },
  get position() {
    return waves.at;
  },
  get playing() {
    return !audio.paused;
  },
  get seconds() {
    return waves.seconds;
  },
};

const loop = async () => {
  if (!document.hidden) await refresh();
  setTimeout(loop, EVERY_MS);
};
if (asked()) open().catch((error) => say(error.message));
loop();
