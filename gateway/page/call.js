/**
 * One call: the microphone, the player and the connection, from the click on Talk to hanging up.
 *
 * `phase` is starting (the microphone is asked for), connecting, live, lost (a retry is due) or over. Dispatches
 * "phase", "floor", "session", "held" and "problem" (see dialogue.js), "level" ({who, time, level}), and "over" with
 * a reason: "hung up", "unplugged" or {code, reason} from the server.
 */

import { Connection } from "./connection.js";
import { Dialogue } from "./dialogue.js";
import { KeptAudio } from "./kept.js";
import { forgetKey, protocols } from "./key.js";
import { Microphone, ask } from "./microphone.js";
import { encode } from "./pcm.js";
import { Player } from "./player.js";
import { SentAudio } from "./sent.js";
import { contextFor, newContext } from "./sound.js";
import { keepAwake, letSleep } from "./wake.js";

/** The gateway's address as seen from this page. */
function address() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  return `${scheme}//${location.host}/v1/realtime?model=bargein&extensions=bargein`;
}

/** What the page asks of the server: PCM at 24 kHz both ways and the words of both sides. */
const SETTINGS = {
  type: "realtime",
  output_modalities: ["audio"],
  audio: {
    input: { format: { type: "audio/pcm", rate: 24000 }, transcription: { model: "bargein" } },
    output: { format: { type: "audio/pcm", rate: 24000 } },
  },
};

export class Call extends EventTarget {
  /**
   * @param {import("./conversation.js").Conversation} conversation
   */
  constructor(conversation) {
    super();
    this.conversation = conversation;
    this.phase = "starting";
    this.startedAt = null;
    this.retryAt = null;
    this.player = null;
    /** Why the connection was lost, in the server's words if it had any. */
    this.reason = "";
    this.complaint = "";
    this.context = null;
    this.dialogue = null;
    this.sent = new SentAudio();
    this.kept = null;
    /** Whether the last connection went on with the session of the one before. */
    this.resumed = false;
  }

  /**
   * Ask for the microphone and connect. Call it inside the click.
   * @throws {import("./microphone.js").MicrophoneProblem}
   */
  async start() {
    this.context = newContext();
    let stream;
    try {
      stream = await ask();
    } catch (error) {
      this.close();
      throw error;
    }
    if (this.phase === "over") {
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    const { context, source } = await contextFor(this.context, stream);
    this.context = context;
    this.microphone = new Microphone(context, stream, source);
    if (this.phase === "over") {
      this.close();
      return;
    }
    this.microphone.addEventListener("chunk", ({ detail }) => this.captured(detail));
    this.microphone.addEventListener("unplugged", () => this.end("unplugged"));
    context.addEventListener("statechange", () => this.dispatchEvent(new Event("sound")));
    keepAwake();
    this.connect();
  }

  connect() {
    this.connection = new Connection(address(), protocols());
    this.connection.addEventListener("trying", () => this.enter("connecting"));
    this.connection.addEventListener("open", () => this.opened());
    this.connection.addEventListener("returned", ({ detail }) => this.returned(detail));
    this.connection.addEventListener("event", ({ detail }) => this.take(detail));
    this.connection.addEventListener("lost", ({ detail }) => this.lost(detail));
    this.connection.addEventListener("ended", ({ detail }) => this.end(detail));
    this.connection.open();
  }

  opened() {
    this.resumed = false;
    this.dialogue?.close();
    this.player?.close();
    this.player = new Player(this.context);
    this.player.addEventListener("level", ({ detail }) => this.level("assistant", detail));
    this.sent = new SentAudio();
    this.kept = new KeptAudio();
    const send = (event) => this.connection.send(event);
    this.dialogue = new Dialogue(this.conversation, this.player, this.sent, send);
    for (const type of ["floor", "session", "held", "problem"]) {
      this.dialogue.addEventListener(type, (event) => {
        this.dispatchEvent(new CustomEvent(type, { detail: event.detail }));
      });
    }
    this.connection.send({ type: "session.update", session: SETTINGS });
    this.startedAt ??= performance.now();
    this.enter("live");
  }

  /** The session of the connection before is gone on with: what it has not got of the caller is sent. */
  returned({ audio_end_ms: endMs }) {
    this.resumed = true;
    this.connection.send({ type: "bargein.input.resumed", audio_start_ms: this.kept.rewind(endMs) });
    this.flush();
    this.enter("live");
  }

  /** An event of the server; before session.created it can only be the reason why there will be none. */
  take(event) {
    if (this.phase === "connecting" && event.type === "error") this.complaint = event.error?.message ?? "";
    if (event.type === "bargein.input.acknowledged") this.kept?.acknowledge(event.audio_end_ms);
    this.dialogue?.take(event);
  }

  lost({ retryAt, reason, established, returns }) {
    if (!established) forgetKey();
    this.retryAt = retryAt;
    this.reason = this.complaint || reason;
    this.complaint = "";
    if (!returns) {
      this.dialogue?.close();
      this.dialogue = null;
      this.kept = null;
    }
    this.enter("lost");
  }

  captured({ samples, time, level }) {
    this.level("caller", { time, level });
    if (this.kept === null) return;
    this.sent.add(samples.length, time);
    this.kept.add(samples);
    this.flush();
  }

  /** Send what was captured and not sent yet; what the network does not take now goes with the next chunk. */
  flush() {
    while (this.connection.hasRoom) {
      const samples = this.kept.take();
      if (samples === null) return;
      this.connection.send({ type: "input_audio_buffer.append", audio: encode(samples) });
    }
  }

  level(who, { time, level }) {
    this.dispatchEvent(new CustomEvent("level", { detail: { who, time, level } }));
  }

  /** Try the connection again now instead of when the wait is over. */
  retryNow() {
    if (this.phase === "lost") this.connection.open();
  }

  /** caller, assistant, thinking or nobody. */
  get floor() {
    return this.dialogue?.floor ?? "nobody";
  }

  enter(phase) {
    if (this.phase === "over" || this.phase === phase) return;
    this.phase = phase;
    this.dispatchEvent(new Event("phase"));
  }

  hangUp() {
    this.end("hung up");
  }

  end(reason) {
    if (this.phase === "over") return;
    this.close();
    this.dispatchEvent(new CustomEvent("over", { detail: reason }));
  }

  /** Give everything back. */
  close() {
    letSleep();
    this.dialogue?.close();
    this.connection?.close();
    this.microphone?.close();
    this.player?.close();
    if (this.context !== null && this.context.state !== "closed") void this.context.close();
    this.enter("over");
  }
}
