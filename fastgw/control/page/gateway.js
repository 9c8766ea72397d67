// The admin API, asked with the key that was typed. The key stays in this tab's session, and goes nowhere else.

const HELD = "fastgw admin key";
const SILENT_MS = 10_000; // the gateway tells once a second: longer than this, and the connection is taken for dead
const LEAST_PAUSE_MS = 500;
const MOST_PAUSE_MS = 10_000;

let key = sessionStorage.getItem(HELD) || "";
let following = null; // who may end the stream that is open

export const held = () => key !== "";

export function take(text) {
  key = text;
}

export function keep() {
  sessionStorage.setItem(HELD, key);
}

export function forget() {
  sessionStorage.removeItem(HELD);
  key = "";
  if (following) following.abort();
  following = null;
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// (In UTF-8, as every other client sends it: a field's text is one of bytes to the browser.)
const proof = () => ({ Authorization: `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}` });

async function refusal(answer) {
  let message = `The gateway answered ${answer.status}.`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // (no error of the gateway's)
  }
  return new Refused(answer.status, message);
}

export async function ask(method, path, document) {
  const body = document === undefined ? undefined : JSON.stringify(document);
  const headers = body === undefined ? proof() : { ...proof(), "Content-Type": "application/json" };
  const answer = await fetch(path, { method, headers, body, cache: "no-store" });
  if (!answer.ok) throw await refusal(answer);
  return answer.status === 204 ? null : answer.json();
}

async function read(answer, alive, on) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const one of events) {
      const lines = one.split("\n");
      const name = (lines.find((line) => line.startsWith("event: ")) || "").slice(7);
      const data = (lines.find((line) => line.startsWith("data: ")) || "").slice(6);
      if (Object.hasOwn(on, name)) on[name](JSON.parse(data));
    }
  }
}

// Reads what happens until it is told to forget, or the key is refused. `on` has what is done at each event by its name, and
// `entered`, `lost` (it tries again) and `refused` (with why; whether that ends it).
export async function follow(on, { entered, lost, refused }) {
  const mine = (following = new AbortController());
  let pause = LEAST_PAUSE_MS;
  while (following === mine) {
    const now = new AbortController();
    const stop = () => now.abort();
    mine.signal.addEventListener("abort", stop);
    let watch = setTimeout(stop, SILENT_MS);
    const alive = () => {
      clearTimeout(watch);
      watch = setTimeout(stop, SILENT_MS);
      pause = LEAST_PAUSE_MS;
    };
    try {
      const answer = await fetch("admin/live", { headers: proof(), cache: "no-store", signal: now.signal });
      if (answer.ok) {
        entered();
        await read(answer, alive, on);
      } else if (refused(await refusal(answer))) {
        return;
      }
    } catch (error) {
      if (following === mine && !(error instanceof TypeError) && error.name !== "AbortError") console.error(error);
    } finally {
      clearTimeout(watch);
      mine.signal.removeEventListener("abort", stop);
    }
    if (following !== mine) return;
    lost();
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, MOST_PAUSE_MS);
  }
}
