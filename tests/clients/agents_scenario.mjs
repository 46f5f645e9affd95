// What a person does with @openai/agents' RealtimeSession over WebSocket, in Node as in a browser: talks, interrupts, and
// lets a function be called. `sdk` is the package; resolves to what was seen.
const RATE = 24000;
const FRAME = 480;

export async function talk(sdk, url, apiKey) {
  const seen = { audio: 0, interrupted: 0, tools: [], errors: [], transcripts: [], after: 0 };
  const weather = sdk.tool({
    name: "weather",
    description: "The weather in a city.",
    parameters: {
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
      additionalProperties: false,
    },
    strict: false,
    execute: async ({ city }) => {
      seen.tools.push(city);
      return "22 degrees";
    },
  });
  const agent = new sdk.RealtimeAgent({ name: "guide", instructions: "Be brief.", tools: [weather] });
  const session = new sdk.RealtimeSession(agent, { model: "any", transport: "websocket" });
  let done;
  const finished = new Promise((resolve) => (done = resolve));
  let pending = 0;
  const say = () => (pending = 0.8 * RATE);

  session.on("error", ({ error }) => seen.errors.push(JSON.stringify(error)));
  session.on("audio", ({ data }) => {
    const before = seen.audio;
    seen.audio += data.byteLength / 2;
    if (seen.tools.length > 0) seen.after += data.byteLength / 2;
    if (before < RATE && seen.audio >= RATE) say();
    if (seen.after >= RATE) done();
  });
  session.on("audio_interrupted", () => (seen.interrupted += 1));
  session.on("transport_event", (event) => {
    if (event.type === "conversation.item.input_audio_transcription.completed") seen.transcripts.push(event.transcript);
  });

  await session.connect({ apiKey, url });
  say();
  let phase = 0;
  const microphone = setInterval(() => {
    const samples = new Int16Array(FRAME);
    for (let n = 0; n < FRAME && pending > 0; n += 1, pending -= 1, phase += 1) {
      samples[n] = 12000 * Math.sin((2 * Math.PI * 180 * phase) / RATE);
    }
    session.sendAudio(samples.buffer);
  }, 20);
  const limit = setTimeout(() => {
    seen.errors.push("timeout");
    done();
  }, 30000);
  await finished;
  clearTimeout(limit);
  clearInterval(microphone);
  seen.history = session.history.map((item) => [item.type, item.role ?? item.name, item.status]);
  session.close();
  return seen;
}
