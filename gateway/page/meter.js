/** A level meter: rises at once, falls in about a third of a second. */

const FALL_PER_MS = 1 / 350;

/**
 * The height (0..1) that a root-mean-square level (0..1) has on a meter of 50 dB.
 * @param {number} level
 */
export function heightOf(level) {
  const decibels = 20 * Math.log10(Math.max(level, 1e-6));
  return Math.max(0, Math.min(1, (decibels + 55) / 50));
}

export class Meter {
  /** @param {HTMLElement} element role=meter, with one child that is scaled to the level */
  constructor(element) {
    this.element = element;
    this.bar = element.firstElementChild;
    this.height = 0;
    this.at = performance.now();
    this.spoken = -1;
  }

  /** A new level (0..1, root mean square). */
  take(level) {
    this.height = Math.max(this.height, heightOf(level));
  }

  /** Draw the state at performance.now() `now`. */
  draw(now) {
    this.height = Math.max(0, this.height - (now - this.at) * FALL_PER_MS);
    this.at = now;
    this.bar.style.transform = `scaleX(${this.height.toFixed(3)})`;
    const percent = Math.round(this.height * 20) * 5;
    if (percent !== this.spoken) this.element.setAttribute("aria-valuenow", String(percent));
    this.spoken = percent;
  }
}
