/**
 * The WebSocket to the gateway, which comes back by itself.
 *
 * Dispatches:
 *   "open"      the server has answered with session.created: events may be sent, to a new session
 *   "returned"  detail: the server's bargein.session: events may be sent, to the session that was there before
 *   "event"     detail: one server event, session.created included
 *   "lost"      detail: {retryAt, code, reason, established, returns}: gone, and tried again at performance.now()
 *               `retryAt`; `returns`: to the same session
 *   "trying"    a retry begins
 *   "ended"     detail: {code, reason}: the server ended the call on purpose; no retry
 * A session that its server keeps for a while is gone on with; once it is gone the next connection begins a new one.
 * The wait doubles within its bounds, with up to 20 % added at random, and starts over after an "open" or "returned".
 */

/** The first and the longest wait for a new session, and as long as there is one to come back to. */
const ANEW_MS = [500, 15000];
const RETURN_MS = [100, 1000];
/** For how long a session outlives its gateway at least, besides what the server says: its lease. */
const LEASE_MS = 7000;
const CONNECT_LIMIT_MS = 10000;
/** Unsent bytes beyond which the network no longer keeps up: about 5 s of audio in JSON. */
const BACKLOG_LIMIT = 340_000;
/** Close codes after which a retry is pointless: normal end, policy violation, another connection has the session. */
const FINAL_CODES = new Set([1000, 1008, 4409]);
/** Close code: the session that was asked for is gone. */
const SESSION_GONE = 4404;

export class Connection extends EventTarget {
  /**
   * @param {string} url a ws: or wss: address
   * @param {string[]} protocols subprotocols to offer
   */
  constructor(url, protocols = []) {
    super();
    this.url = url;
    this.protocols = protocols;
    this.ready = false;
    this.wait = 0;
    this.socket = null;
    this.timer = null;
    /** The session to come back to, once the server has named it and keeps it. */
    this.session = null;
    /** For how long (ms) it can be come back to, and until when, once the connection is gone. */
    this.kept = 0;
    this.keptUntil = 0;
    this.goOffline = () => this.drop(4001, "the network is gone");
    if (!["localhost", "127.0.0.1", "[::1]"].includes(new URL(url).hostname)) {
      addEventListener("offline", this.goOffline);
    }
  }

  /** Connect now; also cuts the wait of a retry short. */
  open() {
    clearTimeout(this.timer);
    this.dispatchEvent(new Event("trying"));
    const again = this.session === null ? "" : `&session_id=${this.session}`;
    const socket = new WebSocket(this.url + again, this.protocols);
    this.socket = socket;
    this.ready = false;
    this.timer = setTimeout(() => this.drop(4002, "no answer"), CONNECT_LIMIT_MS);
    socket.onmessage = ({ data }) => socket === this.socket && this.take(data);
    socket.onclose = ({ code, reason }) => socket === this.socket && this.closed(code, reason);
  }

  take(data) {
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      console.warn("bargein: a message that is not JSON was ignored");
      return;
    }
    if (event.type === "session.created" && this.session === null) this.established(new Event("open"));
    if (event.type === "bargein.session") {
      if (event.resumed) this.established(new CustomEvent("returned", { detail: event }));
      this.session = event.resume_s > 0 ? event.session_id : null;
      this.kept = event.resume_s * 1000 + LEASE_MS;
    }
    this.dispatchEvent(new CustomEvent("event", { detail: event }));
  }

  established(event) {
    clearTimeout(this.timer);
    this.ready = true;
    this.wait = 0;
    this.dispatchEvent(event);
  }

  closed(code, reason) {
    clearTimeout(this.timer);
    const established = this.ready;
    this.socket = null;
    this.ready = false;
    if (FINAL_CODES.has(code)) {
      this.dispatchEvent(new CustomEvent("ended", { detail: { code, reason } }));
      return;
    }
    const gone = code === SESSION_GONE;
    if (gone) this.session = null;
    if (established) this.keptUntil = performance.now() + this.kept;
    const returning = this.session !== null && performance.now() < this.keptUntil;
    const [first, longest] = returning ? RETURN_MS : ANEW_MS;
    this.wait = Math.min(Math.max(this.wait * 2, first), longest);
    const wait = gone ? 0 : this.wait * (1 + 0.2 * Math.random());
    this.timer = setTimeout(() => this.open(), wait);
    const returns = this.session !== null;
    const detail = { retryAt: performance.now() + wait, code, reason, established: established || gone, returns };
    this.dispatchEvent(new CustomEvent("lost", { detail }));
  }

  /** Treat the socket as lost without waiting for its own close. */
  drop(code, reason) {
    const socket = this.socket;
    if (socket === null) return;
    this.closed(code, reason);
    socket.close();
  }

  /** Send one client event; false when there is no connection to send it on. */
  send(event) {
    if (!this.ready || this.socket.readyState !== WebSocket.OPEN) return false;
    if (this.socket.bufferedAmount > BACKLOG_LIMIT) {
      this.drop(4003, "the network is too slow");
      return false;
    }
    this.socket.send(JSON.stringify(event));
    return true;
  }

  /** Whether more may be sent without the network falling behind. */
  get hasRoom() {
    return this.ready && this.socket.bufferedAmount < BACKLOG_LIMIT / 2;
  }

  /** Hang up: close with 1000 and never retry. */
  close() {
    clearTimeout(this.timer);
    removeEventListener("offline", this.goOffline);
    const socket = this.socket;
    this.socket = null;
    this.ready = false;
    socket?.close(1000, "hung up");
  }
}
