/**
 * The words of one response against its audio: which of them have been heard.
 *
 * Words that arrive once `end` samples of audio have arrived count as heard when that much has been played.
 */

export class Reply {
  /**
   * @param {string} id the response's id
   * @param {object} entry where its words are shown
   */
  constructor(id, entry) {
    this.id = id;
    this.entry = entry;
    this.pieces = [];
    /** Whether its words are about to be told anew. */
    this.retold = false;
    /** The turn it belongs to, once a step said so. */
    this.turn = null;
    /** Whether any of it has been played. */
    this.sounded = false;
    /** Its end as the server said it: {status, error}. */
    this.done = null;
  }

  /** Its words are told anew, those heard already at once: they replace what was told. */
  retell() {
    this.retold = this.pieces.length > 0;
  }

  /**
   * Words came.
   * @param {string} text
   * @param {number} end samples of the response's audio received by now; 0 for words without audio
   */
  add(text, end) {
    if (this.retold) this.pieces = [];
    this.retold = false;
    this.pieces.push({ text, end });
  }

  /**
   * The text heard when `position` samples have been played.
   * @param {number} position
   * @returns {string}
   */
  heard(position) {
    let text = "";
    for (const piece of this.pieces) if (piece.end <= position) text += piece.text;
    return text;
  }

  /** Every word that came, heard or not. */
  get text() {
    return this.heard(Infinity);
  }
}
