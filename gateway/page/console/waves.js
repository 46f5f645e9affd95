/**
 * The picture of a whole call: the assistant above the line, the caller below, marks across, and where one listens.
 * As wide as the call is long; only what is visible is drawn. A click, or the arrow keys, choose a moment.
 *
 * Times are seconds of the call's audio.
 */

import { heightOf } from "../meter.js";
import { clock } from "./words.js";

const HEIGHT = 148;
const MARKS_ROOM = 16;
/** CSS pixels of a second, at least. */
const SCALE = 40;
const COLORS = { onset: "--caller", held: "#c99700", resumed: "--assistant", cancelled: "#b3261e" };

export class Waves extends EventTarget {
  /** @param {HTMLElement} element with a canvas in it; dispatches "seek" with a time as detail, and "toggle" */
  constructor(element) {
    super();
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.pen = this.canvas.getContext("2d");
    this.room = document.createElement("div");
    this.room.className = "waves-room";
    element.append(this.room);
    this.clear();
    element.addEventListener("click", (event) => this.seek(this.timeAt(event.clientX)));
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.resize()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    this.levels = { assistant: [], caller: [] };
    this.marks = [];
    this.bar = 0.05;
    this.at = 0;
  }

  show({ levels, marks, bar_ms }) {
    const grown = this.seconds > 0 && this.element.scrollLeft + this.element.clientWidth >= this.room.clientWidth - 8;
    this.levels = levels;
    this.marks = marks;
    this.bar = bar_ms / 1000;
    this.element.setAttribute("aria-valuemax", this.seconds.toFixed(1));
    this.resize();
    if (grown) this.element.scrollLeft = this.room.clientWidth;
  }

  get seconds() {
    return Math.max(this.levels.assistant.length, this.levels.caller.length) * this.bar;
  }

  /** CSS pixels of a second: a short call fills the width. */
  get scale() {
    return Math.max(SCALE, this.width / Math.max(1, this.seconds));
  }

  moveTo(seconds) {
    this.at = Math.max(0, Math.min(this.seconds, seconds));
    this.element.setAttribute("aria-valuenow", this.at.toFixed(1));
    this.element.setAttribute("aria-valuetext", `${clock(this.at)} of ${clock(this.seconds)}`);
    const x = this.at * this.scale;
    const { scrollLeft, clientWidth } = this.element;
    if (x < scrollLeft || x > scrollLeft + clientWidth) this.element.scrollLeft = x - clientWidth / 3;
    this.draw();
  }

  timeAt(clientX) {
    return (clientX - this.element.getBoundingClientRect().left + this.element.scrollLeft) / this.scale;
  }

  seek(seconds) {
    this.moveTo(seconds);
    this.dispatchEvent(new CustomEvent("seek", { detail: this.at }));
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (step !== undefined) this.seek(this.at + step);
    else if (event.key === "Home") this.seek(0);
    else if (event.key === "End") this.seek(this.seconds);
    else if (event.key === " " || event.key === "Enter") this.dispatchEvent(new CustomEvent("toggle"));
    else return;
    event.preventDefault();
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    this.width = this.element.clientWidth;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(HEIGHT * ratio);
    this.canvas.style.width = `${this.width}px`;
    this.room.style.width = `${Math.max(this.width, this.seconds * this.scale)}px`;
    this.pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.draw();
  }

  draw() {
    const { pen, width } = this;
    const style = getComputedStyle(this.element);
    const color = (name) => (name.startsWith("--") ? style.getPropertyValue(name).trim() : name);
    const left = this.element.scrollLeft / this.scale;
    const middle = MARKS_ROOM + (HEIGHT - MARKS_ROOM) / 2;
    const x = (seconds) => (seconds - left) * this.scale;
    pen.clearRect(0, 0, width, HEIGHT);
    pen.font = `11px ${style.fontFamily}`;
    pen.fillStyle = color("--soft");
    const every = this.scale < 12 ? 60 : this.scale < 60 ? 5 : 1;
    for (let second = Math.floor(left / every) * every; x(second) < width; second += every)
      if (second > 0) pen.fillText(clock(second, 0), x(second) + 3, 11);
    const pitch = this.bar * this.scale;
    const thin = Math.max(1, Math.min(4, pitch * 0.7));
    for (const lane of ["assistant", "caller"]) {
      pen.fillStyle = color(`--${lane}`);
      const levels = this.levels[lane];
      for (let bar = Math.max(0, Math.floor(left / this.bar)); bar < levels.length && x(bar * this.bar) < width; bar++) {
        const length = Math.max(1, heightOf(levels[bar]) * (HEIGHT - MARKS_ROOM) * 0.46);
        pen.fillRect(x(bar * this.bar), lane === "assistant" ? middle - 1 - length : middle + 1, thin, length);
      }
    }
    for (const { name, at } of this.marks) {
      pen.fillStyle = color(COLORS[name]);
      pen.fillRect(x(at) - 1, MARKS_ROOM, 2, HEIGHT - MARKS_ROOM);
    }
    pen.fillStyle = color("--ink");
    pen.fillRect(x(this.at) - 0.75, 0, 1.5, HEIGHT);
  }
}
