// Runs the explainer away from the page's thread. Answers {id, result} or {id, error}; progress comes as {id, loaded}.
import * as ort from "./vendor/onnxruntime-web/ort.js";

let session;

/** The bytes of one file; `advance(count)` is told of each part that arrives. */
async function download({ url, path, bytes }, advance) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${path} could not be loaded: the server answered ${response.status}.`);
  const content = new Uint8Array(bytes);
  const reader = response.body.getReader();
  let at = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (at + part.value.length > bytes) throw new Error(`${path} is longer than it was when this page was made.`);
    content.set(part.value, at);
    at += part.value.length;
    advance(part.value.length);
  }
  if (at < bytes) throw new Error(`${path} broke off while it was loading; reload the page.`);
  return content;
}

const commands = {
  async load({ wasm, model, external }, tell) {
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = { wasm };
    ort.env.logLevel = "fatal";
    let loaded = 0;
    const advance = (count) => tell({ loaded: (loaded += count) });
    const content = await download(model, advance);
    const externalData = [];
    for (const file of external) externalData.push({ path: file.path, data: await download(file, advance) });
    session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"], externalData });
    return { inputs: session.inputNames, outputs: session.outputNames };
  },

  async run({ feeds, fetches }) {
    const tensors = {};
    for (const [name, { type, data, dims }] of Object.entries(feeds)) tensors[name] = new ort.Tensor(type, data, dims);
    const start = performance.now();
    const results = await session.run(tensors, fetches);
    const seconds = (performance.now() - start) / 1000;
    const outputs = {};
    for (const [name, { type, data, dims }] of Object.entries(results)) outputs[name] = { type, data, dims: [...dims] };
    return { outputs, seconds };
  },
};

self.onmessage = async ({ data: { id, command, ...parameters } }) => {
  try {
    self.postMessage({ id, result: await commands[command](parameters, (news) => self.postMessage({ id, ...news })) });
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
};
