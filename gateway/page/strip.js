/**
 * The picture of the call: both voices on one time axis, the assistant above the line, the caller below, and every
 * interruption as the span from onset to silence. Newest at the right; with reduced motion nothing moves and the
 * picture is written from left to right over the oldest part instead.
 *
 * Times are seconds of the call's audio context.
 */

import { heightOf } from "./meter.js";
import { duration } from "./words.js";

/** Seconds of one bar. */
const BAR = 0.05;
/** CSS pixels from one bar to the next, and the width of a bar. */
const PITCH = 7;
const WIDTH = 4;
/** CSS pixels at the top that belong to the labels of marks. */
const LABEL = 18;
const LANES = ["assistant", "caller"];

export class Strip {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.reduced = matchMedia("(prefers-reduced-motion: reduce)");
    this.reset();
    this.exemplify();
    this.resize();
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.readColors());
  }

  /** Forget everything drawn: a new context counts its time from 0. */
  reset() {
    this.levels = { assistant: new Map(), caller: new Map() };
    this.marks = [];
    this.now = 0;
    this.example = false;
  }

  /** Before the first call: what an interruption looks like, faintly. */
  exemplify() {
    const onset = -1.4;
    for (let bar = -200; bar < 0; bar++) {
      const level = 0.2 * Math.abs(Math.sin(bar * 0.9) * Math.sin(bar * 0.23 + 1)) ** 2 + 3e-4;
      if (bar * BAR < onset) this.take("assistant", bar * BAR + 0.01, level);
      if (bar * BAR > onset || bar < -150) this.take("caller", bar * BAR + 0.01, level);
    }
    this.marks.push({ onset, silence: null });
    this.example = true;
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.readColors();
    this.draw(this.now);
  }

  readColors() {
    const style = getComputedStyle(this.canvas);
    const read = (name) => style.getPropertyValue(name).trim();
    this.colors = {
      assistant: read("--assistant"),
      caller: read("--caller"),
      quiet: read("--line"),
      ink: read("--ink"),
      font: `600 12px ${style.fontFamily}`,
    };
  }

  /**
   * A voice's level (0..1, root mean square) at a time.
   * @param {"assistant" | "caller"} who
   */
  take(who, time, level) {
    const bar = Math.floor(time / BAR);
    const lane = this.levels[who];
    lane.set(bar, Math.max(lane.get(bar) ?? 0, heightOf(level)));
    for (const oldest of lane.keys()) {
      if (oldest > bar - 600) break;
      lane.delete(oldest);
    }
  }

  /** An interruption: onset and silence in context seconds, either may be null. */
  mark(onset, silence) {
    this.marks.push({ onset, silence });
    if (this.marks.length > 20) this.marks.shift();
  }

  /** Draw what is visible at context time `now`. */
  draw(now) {
    this.now = now;
    const { pen, width, height } = this;
    pen.clearRect(0, 0, width, height);
    const count = Math.floor(width / PITCH);
    const newest = Math.floor(now / BAR);
    for (const mark of this.marks) this.drawMark(mark, now, count);
    for (let bar = newest - count + 1; bar <= newest; bar++) {
      const x = this.xOf(bar * BAR, now, count);
      const fade = this.reduced.matches ? 1 : Math.min(1, (x + WIDTH) / 80);
      for (const lane of LANES) this.drawBar(lane, x, this.levels[lane].get(bar) ?? 0, Math.max(0, fade));
    }
    pen.globalAlpha = 1;
  }

  xOf(time, now, count) {
    if (this.reduced.matches) return ((((time / BAR) % count) + count) % count) * PITCH;
    return this.width - ((now - time) / BAR) * PITCH - PITCH;
  }

  drawBar(lane, x, level, fade) {
    const { pen, height } = this;
    const middle = LABEL + (height - LABEL) / 2;
    const length = Math.max(WIDTH, level * (middle - LABEL - 6));
    pen.globalAlpha = this.example ? fade * 0.35 : fade;
    pen.fillStyle = level > 0.02 ? this.colors[lane] : this.colors.quiet;
    pen.beginPath();
    pen.roundRect(x, lane === "assistant" ? middle - 4 - length : middle + 4, WIDTH, length, WIDTH / 2);
    pen.fill();
  }

  drawMark({ onset, silence }, now, count) {
    if (onset === null || now - onset > count * BAR) return;
    const { pen, height, colors } = this;
    const x = this.xOf(onset, now, count);
    const span = silence === null ? 0 : Math.max(0, silence - onset);
    pen.fillStyle = colors.caller;
    pen.globalAlpha = 0.22;
    pen.fillRect(x, LABEL, (span / BAR) * PITCH, height - LABEL);
    pen.globalAlpha = this.example ? 0.35 : 1;
    pen.fillRect(x - 0.75, LABEL, 1.5, height - LABEL);
    if (silence === null) return;
    pen.font = colors.font;
    const label = duration(span * 1000);
    const room = pen.measureText(label).width;
    pen.fillStyle = colors.ink;
    pen.fillText(label, Math.min(x, this.width - room), 13);
  }
}
