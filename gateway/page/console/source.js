/** Where the console's data comes from: the gateway that serves this page, with the key it may want. */

const NAME = "bargein-key";

export class Unavailable extends Error {}

/** A path below /console as JSON. Throws Unavailable with what to tell. */
export async function fetchJson(path) {
  return (await ask(path)).json();
}

/** A session's recording as an address for an audio element; give it back with URL.revokeObjectURL. */
export async function recordingOf(session) {
  return URL.createObjectURL(await (await ask(`sessions/${session}/recording`)).blob());
}

async function ask(path, again = true) {
  const key = sessionStorage.getItem(NAME);
  let answer;
  try {
    answer = await fetch(`/console/${path}`, { headers: key ? { authorization: `Bearer ${key}` } : {} });
  } catch {
    throw new Unavailable("The gateway does not answer. Is it running?");
  }
  if (answer.status === 401 && again) {
    const given = prompt("This server asks for an API key.")?.trim();
    if (!given) throw new Unavailable("Without an API key there is nothing to see.");
    sessionStorage.setItem(NAME, given);
    return ask(path, false);
  }
  if (answer.status === 401) sessionStorage.removeItem(NAME);
  if (!answer.ok) {
    const { error } = await answer.json().catch(() => ({ error: `the gateway answered ${answer.status}` }));
    throw new Unavailable(error.message ?? error);
  }
  return answer;
}
