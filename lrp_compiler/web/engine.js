/** The explainer in a worker: one request after the other, each a promise. */
export class Engine {
  #worker;
  #waiting = new Map();
  #count = 0;

  constructor() {
    // A worker from a blob inherits the page's Content-Security-Policy; one from a file would not.
    const source = `import ${JSON.stringify(new URL("worker.js", document.baseURI).href)};`;
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    this.#worker = new Worker(url, { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#answer(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const message = "onnxruntime-web could not start: a file of this site is missing, or the browser is too old.";
      for (const id of [...this.#waiting.keys()]) this.#answer({ id, error: message });
    };
  }

  /** Fetch the model and make it ready; `progress(bytes)` is told how much is there. */
  load(model, progress) {
    const file = ({ file, path, bytes }) => {
      const url = new URL(file, document.baseURI).href;
      return { url, path, bytes };
    };
    const wasm = new URL("vendor/onnxruntime-web/ort.wasm", document.baseURI).href;
    return this.#ask("load", { wasm, model: file(model), external: model.external.map(file) }, progress);
  }

  /** `{outputs: {name: {type, data, dims}}, seconds}` of `feeds`, which are described in the same way. */
  run(feeds, fetches) {
    return this.#ask("run", { feeds, fetches });
  }

  #ask(command, parameters, progress) {
    const id = ++this.#count;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, progress });
      this.#worker.postMessage({ id, command, ...parameters });
    });
  }

  #answer({ id, result, error, loaded }) {
    const { resolve, reject, progress } = this.#waiting.get(id);
    if (loaded !== undefined) return progress?.(loaded);
    this.#waiting.delete(id);
    return error === undefined ? resolve(result) : reject(new Error(error));
  }
}
