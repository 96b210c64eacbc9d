// The way to the client: the token's exchange, documents, and events, again and again until the page is closed.
// Server-sent events are read by fetch, since EventSource sends no header and tells no reason of a failure.

const KEY = "shadowmesh-key";
const HASTE = 1000;
const PATIENCE = 2000;
/** Milliseconds before the first and the later tries to come back. */
const SILENCE = 15000;
/** Milliseconds without a byte after which a connection counts as dead; a client sends a sample every second. */
const MAX_EVENT = 16 << 20;
/** Characters of one event, as many as bytes that the server passes on of a document. */

/** What the server answered when it was not 200. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The token that stands behind # in the address against cookie and key; the address loses it. */
export async function enter() {
  const token = location.hash.slice(1);
  if (token.length < 20) return;
  history.replaceState(null, "", location.pathname);
  const answer = await fetch("session", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  localStorage.setItem(KEY, (await checked(answer).then((right) => right.json())).key);
}

/** handlers: documents {path: function}, kinds of events {name: function}, `up` and `down` with an error. */
export async function follow(handlers) {
  let wait = HASTE;
  for (;;) {
    try {
      const stream = await ask("v1/events");
      for (const [path, handle] of Object.entries(handlers.documents)) handle(await (await ask(path)).json());
      handlers.up();
      wait = HASTE;
      await read(stream, handlers.events);
      throw new Error("the client has ended the connection");
    } catch (error) {
      handlers.down(error);
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = PATIENCE;
  }
}

/** One document. Raises Refused, or Error if there is no answer. */
export async function ask(path) {
  const aborter = new AbortController();
  const late = setTimeout(() => aborter.abort(), SILENCE);
  try {
    const answer = await fetch(path, {
      headers: { "X-ShadowMesh-Key": localStorage.getItem(KEY) ?? "" },
      signal: aborter.signal,
    });
    return await checked(answer);
  } catch (error) {
    if (error instanceof Refused) throw error;
    throw new Error("the dashboard itself does not answer: has shadowmesh-client dashboard ended?");
  } finally {
    clearTimeout(late);
  }
}

async function checked(answer) {
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, problem.message ?? `HTTP status ${answer.status}`);
}

async function read(answer, handlers) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await withinSilence(reader.read());
      if (done) return;
      rest += value;
      const events = rest.split("\n\n");
      rest = events.pop();
      if (rest.length > MAX_EVENT) throw new Error("an event of the client is too long");
      for (const event of events) dispatch(event, handlers);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function withinSilence(promise) {
  let late;
  const silence = new Promise((_resolve, reject) => {
    late = setTimeout(() => reject(new Error("nothing comes from the client any more")), SILENCE);
  });
  return Promise.race([promise, silence]).finally(() => clearTimeout(late));
}

/** One event of the stream: lines `event: NAME` and `data: JSON`; comments keep connections alive. */
function dispatch(text, handlers) {
  const fields = { event: "message", data: [] };
  for (const line of text.split("\n")) {
    const colon = line.indexOf(":");
    if (colon < 1) continue;
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (line.startsWith("data:")) fields.data.push(value);
    else if (line.startsWith("event:")) fields.event = value;
  }
  if (fields.data.length) handlers[fields.event]?.(JSON.parse(fields.data.join("\n")));
}
