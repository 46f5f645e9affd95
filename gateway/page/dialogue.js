/**
 * The protocol's events of one connection, made into conversation, playback and who has the floor.
 *
 * Dispatches "floor" when `floor` changes (caller, assistant, thinking or nobody), "session" when the session's id is
 * known, "held" with an interruption whose times are known, and "problem" with the server's words for an error.
 */

import { PER_MS, decode } from "./pcm.js";
import { Interruptions } from "./interruptions.js";
import { Reply } from "./reply.js";
import { Steps } from "./steps.js";

/** Errors that tell of a race both sides survive, not of a problem. */
const HARMLESS = new Set(["response_cancel_not_active", "conversation_already_has_active_response"]);

/** How long an answer may be expected before the page stops saying so. */
const PATIENCE_MS = 15000;

export class Dialogue extends EventTarget {
  /**
   * @param {import("./conversation.js").Conversation} conversation
   * @param {import("./player.js").Player} player
   * @param {import("./sent.js").SentAudio} sent
   * @param {(event: object) => boolean} send
   */
  constructor(conversation, player, sent, send) {
    super();
    Object.assign(this, { conversation, player, sent, send });
    this.interruptions = new Interruptions(conversation);
    this.sessionId = null;
    this.steps = new Steps();
    this.replies = new Map();
    this.unfinished = new Set();
    /** The caller's entries by item id, and the one of the utterance that is not complete. */
    this.utterances = new Map();
    this.utterance = null;
    this.callerSpeaks = false;
    this.expectation = null;
    this.held = null;
    /** The response that goes on after the connection broke, until it does. */
    this.returning = null;
    this.floor = "nobody";
    this.onSounding = ({ detail }) => this.sounding(detail.response);
    this.onPlayed = () => this.played();
    player.addEventListener("sounding", this.onSounding);
    player.addEventListener("level", this.onPlayed);
    player.addEventListener("silent", this.onPlayed);
  }

  /** Take one server event; types that are not known are ignored. */
  take(event) {
    this.handlers[event.type]?.call(this, event);
    this.refreshFloor();
  }

  handlers = {
    "bargein.session"(event) {
      if (event.resumed) this.returned(event.response_id);
      this.sessionId = event.session_id;
      this.dispatchEvent(new Event("session"));
    },
    "input_audio_buffer.speech_started"(event) {
      this.callerSpeaks = true;
      this.listenTo(event.item_id);
    },
    "input_audio_buffer.speech_stopped"() {
      this.callerSpeaks = false;
      this.expecting = this.held === null;
    },
    "bargein.transcript.partial"(event) {
      const entry = this.listenTo(event.item_id);
      if (!entry.final) this.conversation.update(entry, { text: event.text });
    },
    "conversation.item.input_audio_transcription.completed"(event) {
      this.understood(event.item_id, { text: event.transcript.trim(), final: true });
    },
    "conversation.item.input_audio_transcription.failed"(event) {
      this.understood(event.item_id, { text: "", final: true, failed: true });
    },
    "conversation.item.deleted"(event) {
      const entry = this.utterances.get(event.item_id);
      if (entry !== undefined) this.forget(entry);
    },
    "response.created"(event) {
      if (this.held !== null && this.held !== event.response.id) this.supersede(this.held);
      this.replyOf(event.response.id).retell();
      this.expecting = true;
    },
    "response.output_audio.delta"(event) {
      if (this.replyOf(event.response_id).done === null) {
        this.player.push(event.response_id, decode(event.delta));
      }
    },
    "response.output_audio_transcript.delta"(event) {
      const reply = this.replyOf(event.response_id);
      const end = reply.retold ? 0 : this.player.receivedOf(event.response_id);
      if (reply.done === null) reply.add(event.delta, end);
      this.played();
    },
    "response.output_text.delta"(event) {
      const reply = this.replyOf(event.response_id);
      if (reply.done === null) reply.add(event.delta, 0);
      this.played();
    },
    "response.output_audio.done"(event) {
      this.player.end(event.response_id);
    },
    "response.done"(event) {
      this.ended(event.response);
    },
    "bargein.output.held"(event) {
      this.hold(event);
    },
    "bargein.output.resumed"(event) {
      this.resume(event);
    },
    "bargein.step"(event) {
      this.steps.record(event);
      this.timed(event);
    },
    error(event) {
      if (HARMLESS.has(event.error?.code)) return;
      this.expecting = false;
      const detail = event.error?.message ?? "It gave no reason.";
      this.dispatchEvent(new CustomEvent("problem", { detail }));
    },
  };

  /** Whether an answer is awaited. */
  get expecting() {
    return this.expectation !== null;
  }

  set expecting(awaited) {
    clearTimeout(this.expectation);
    this.expectation = null;
    if (!awaited) return;
    this.expectation = setTimeout(() => {
      this.expecting = false;
      this.refreshFloor();
    }, PATIENCE_MS);
  }

  /** The entry of the caller's utterance, in its place from the onset on, before its words are known. */
  listenTo(item) {
    let entry = this.utterances.get(item);
    if (entry === undefined) {
      if (this.utterance?.text) this.conversation.update(this.utterance, { final: true });
      entry = this.conversation.add("caller", item);
      this.utterances.set(item, entry);
      this.utterance = entry;
    }
    return entry;
  }

  understood(item, fields) {
    const entry = this.listenTo(item);
    if (fields.text === "" && !fields.failed) {
      this.forget(entry);
    } else {
      this.conversation.update(entry, fields);
      if (this.utterance === entry) this.utterance = null;
    }
  }

  /** It was no utterance after all. */
  forget(entry) {
    this.conversation.remove(entry);
    if (this.utterance === entry) this.utterance = null;
    this.expecting = [...this.unfinished].some((reply) => reply.done === null);
  }

  replyOf(id) {
    let reply = this.replies.get(id);
    if (reply === undefined) {
      reply = new Reply(id, this.conversation.add("assistant", id));
      this.replies.set(id, reply);
      this.unfinished.add(reply);
    }
    return reply;
  }

  sounding(id) {
    this.replyOf(id).sounded = true;
    this.expecting = false;
    this.refreshFloor();
  }

  /** Playback moved on: words become heard, and what has been played out is complete. */
  played() {
    for (const reply of this.unfinished) {
      if (reply.id === this.held) continue;
      const text = reply.heard(this.player.positionOf(reply.id));
      if (text !== reply.entry.text) this.conversation.update(reply.entry, { text });
      if (reply.done !== null && !this.player.isPending(reply.id)) this.finish(reply);
    }
    this.refreshFloor();
  }

  finish(reply) {
    const { status, error } = reply.done;
    this.unfinished.delete(reply);
    const text = status === "completed" ? reply.text : reply.heard(this.player.positionOf(reply.id));
    const failed = status === "failed" ? (error ?? "It gave no reason.") : null;
    this.conversation.update(reply.entry, { text: text.trimEnd(), final: true, failed });
  }

  async ended({ id, status, status_details: details }) {
    const reply = this.replyOf(id);
    reply.done = { status, error: details?.error?.message };
    this.expecting = details?.reason === "turn_detected" && !this.callerSpeaks;
    if (status !== "cancelled") {
      this.played();
      return;
    }
    if (this.held === id) this.held = null;
    if (details?.reason === "turn_detected") this.interruptions.settle(id, "confirmed");
    else this.interruptions.settle(id, "unknown");
    await this.cut(reply);
  }

  /** Silence a response for good; its entry ends where it was cut. */
  async cut(reply) {
    this.unfinished.delete(reply);
    const { position } = await this.player.hold(reply.id);
    const text = reply.heard(position).trimEnd();
    this.conversation.update(reply.entry, { text, final: true, cut: position / PER_MS });
    this.refreshFloor();
  }

  /**
   * On a new connection response `id` goes on, from where it was played; nobody tells how any other ended. One of which
   * nothing had come is forgotten: if it is still to come it is announced anew.
   */
  returned(id) {
    this.returning = id;
    for (const reply of [...this.unfinished]) {
      if (reply.id === id || reply.done !== null) continue;
      if (this.player.receivedOf(reply.id) > 0 || reply.text !== "") {
        reply.done = { status: "incomplete" };
      } else {
        this.conversation.remove(reply.entry);
        this.replies.delete(reply.id);
        this.unfinished.delete(reply);
      }
    }
    this.played();
  }

  async hold({ response_id: id, onset_ms: onsetMs }) {
    const reply = this.replyOf(id);
    this.held = id;
    const onset = this.sent.timeOf(onsetMs);
    const begun = this.player.receivedOf(id) > 0 && id !== this.returning;
    const interruption = begun ? this.interruptions.begin(id, onset, this.utterance) : null;
    const { time, position, sounded } = await this.player.hold(id);
    this.send({
      type: "bargein.output.played",
      response_id: id,
      audio_end_ms: position / PER_MS,
    });
    if (interruption === null) return;
    this.interruptions.silenced(interruption, time, this.player.outputLatency, sounded);
    this.conversation.update(reply.entry, { text: reply.heard(position) });
    this.dispatchEvent(new CustomEvent("held", { detail: interruption }));
  }

  resume({ response_id: id, audio_start_ms: startMs }) {
    if (this.held === id) this.held = null;
    this.player.resume(id, startMs);
    this.interruptions.settle(id, "resumed");
    const returning = id === this.returning;
    if (returning) this.returning = null;
    const { entry } = this.replyOf(id);
    if (!returning && entry.text !== "") this.conversation.update(entry, { breaks: [...entry.breaks, entry.text.length] });
  }

  /** A held response that had ended before, and the next one begins: it was an interruption. */
  supersede(id) {
    this.held = null;
    this.interruptions.settle(id, "confirmed");
    void this.cut(this.replyOf(id));
  }

  /** A step of a turn: find its response, the latest that no other turn has, and its wait. */
  timed({ turn, step }) {
    const replies = [...this.replies.values()];
    let reply = replies.find((candidate) => candidate.turn === turn);
    if (reply === undefined && (step === "first_audio" || step === "first_out")) {
      reply = replies.findLast((candidate) => candidate.turn === null && candidate.done === null);
      if (reply !== undefined) reply.turn = turn;
    }
    if (reply !== undefined) this.conversation.update(reply.entry, { latency: this.steps.latencyOf(turn) });
  }

  refreshFloor() {
    const sounding = [...this.unfinished].some((reply) => reply.sounded);
    let floor = "nobody";
    if (this.callerSpeaks || this.held !== null) floor = "caller";
    else if (sounding) floor = "assistant";
    else if (this.expecting) floor = "thinking";
    if (floor === this.floor) return;
    this.floor = floor;
    this.dispatchEvent(new Event("floor"));
  }

  /** The connection is gone: end what was open. */
  close() {
    this.expecting = false;
    this.player.removeEventListener("sounding", this.onSounding);
    this.player.removeEventListener("level", this.onPlayed);
    this.player.removeEventListener("silent", this.onPlayed);
    for (const reply of [...this.unfinished]) {
      this.interruptions.settle(reply.id, "unknown");
      void this.cut(reply);
    }
    if (this.utterance !== null) this.conversation.update(this.utterance, { final: true });
  }
}
