// Runs an explainer's ONNX file in onnxruntime-node, which it looks for from the working directory upwards.
// (npm install --ignore-scripts onnxruntime-node: it brings its CPU library along, its script fetches CUDA's.)
//
//   echo '{"path": "m.lrp.onnx", "folder": "out",
//          "inputs": [{"name": "x", "file": "x.f32", "dtype": "float32", "shape": [1, 3, 64, 64]}]}' | node explain.mjs
//
// Takes a JSON object on stdin: {path, inputs: [{name, file, dtype, shape}], folder}. Inputs are raw little-endian files.
// Writes each result raw into the folder, which it makes, and to stdout a JSON list: [{name, file, dtype, shape}].
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "here.js"));
const { InferenceSession, Tensor } = load();

function load() {
  try {
    return require("onnxruntime-node");
  } catch {
    console.error("explain.mjs: onnxruntime-node is not installed here: npm install --ignore-scripts onnxruntime-node.");
    process.exit(1);
  }
}

const kinds = {
  float32: Float32Array,
  float64: Float64Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

function read({ name, file, dtype, shape }) {
  const Values = kinds[dtype];
  if (!Values) throw new Error(`the input ${name} is of dtype ${dtype}; there are ${Object.keys(kinds).join(", ")}`);
  const bytes = readFileSync(file);
  const expected = shape.reduce((product, size) => product * size, 1) * Values.BYTES_PER_ELEMENT;
  if (bytes.length !== expected)
    throw new Error(`${file} has ${bytes.length} bytes; ${dtype} of shape [${shape.join(", ")}] has ${expected}`);
  return new Tensor(dtype, new Values(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)), shape);
}

function named(inputs, names) {
  const given = inputs.map((input) => input.name);
  const unknown = given.filter((name) => !names.includes(name));
  const missing = names.filter((name) => !given.includes(name));
  if (unknown.length || missing.length)
    throw new Error(`the file takes the inputs ${names.join(", ")}; given were ${given.join(", ") || "none"}`);
}

function asked() {
  try {
    return JSON.parse(readFileSync(0, "utf8")) ?? {};
  } catch (error) {
    throw new Error(`stdin is no JSON: ${error.message}`);
  }
}

async function explain() {
  const { path, inputs, folder } = asked();
  if (typeof path !== "string" || !Array.isArray(inputs) || typeof folder !== "string")
    throw new Error('stdin takes a JSON object {"path": …, "inputs": [{name, file, dtype, shape}, …], "folder": …}');
  const session = await InferenceSession.create(path);
  named(inputs, session.inputNames);
  mkdirSync(folder, { recursive: true });
  const results = await session.run(Object.fromEntries(inputs.map((input) => [input.name, read(input)])));
  return session.outputNames.map((name, number) => {
    const { data, dims, type } = results[name];
    const file = join(folder, `result.${number}`);
    writeFileSync(file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return { name, file, dtype: type, shape: dims };
  });
}

try {
  console.log(JSON.stringify(await explain()));
} catch (error) {
  console.error(`explain.mjs: ${error.message}.`.replace(/\.\.$/, "."));
  process.exitCode = 1;
}
