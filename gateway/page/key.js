/**
 * The API key of this tab: asked for once when the server needs one, kept until the tab is closed.
 *
 * A browser can set no header on a WebSocket, so the key travels as a subprotocol, as OpenAI's own SDK has it.
 */

const NAME = "bargein-key";
let required = false;

/** @param {boolean} needed whether the server takes calls only with a key */
export function needsKey(needed) {
  required = needed === true;
}

/** The subprotocols to offer for a call. */
export function protocols() {
  if (!required) return [];
  const key = sessionStorage.getItem(NAME) ?? prompt("This server asks for an API key.")?.trim();
  if (!key) return [];
  sessionStorage.setItem(NAME, key);
  return ["realtime", `openai-insecure-api-key.${key}`];
}

/** A call was not let in: the next one asks again. */
export function forgetKey() {
  sessionStorage.removeItem(NAME);
}
