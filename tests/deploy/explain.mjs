// An explainer's ONNX file, run in Node: npm install --ignore-scripts onnxruntime-node
//
//   node explain.mjs model.lrp.onnx OUT x=x.f32:3,3,64,64 target=target.i64:3
//
// Inputs are raw little-endian files with their shapes, by name; each result is written raw to OUT.<name>, and its name and
// shape to stdout, a line each. (--ignore-scripts: the package brings its CPU library along, its script fetches CUDA's.)
import { readFile, writeFile } from "node:fs/promises";
import { InferenceSession, Tensor } from "onnxruntime-node";

const [path, out, ...inputs] = process.argv.slice(2);
const kinds = { f32: ["float32", Float32Array], i64: ["int64", BigInt64Array] };

async function read(file, shape) {
  const [dtype, Values] = kinds[file.split(".").at(-1)];
  const bytes = await readFile(file);
  const values = new Values(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  return new Tensor(dtype, values, shape.split(",").map(Number));
}

const feeds = {};
for (const input of inputs) {
  const [, name, file, shape] = input.match(/^(.*?)=(.*):(.*?)$/);
  feeds[name] = await read(file, shape);
}
const session = await InferenceSession.create(path);
const results = await session.run(feeds);
for (const name of session.outputNames) {
  const { data, dims } = results[name];
  await writeFile(`${out}.${name}`, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  console.log(name, ...dims);
}
