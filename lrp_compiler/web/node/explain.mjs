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

const { InferenceSession, Tensor } = createRequire(join(process.cwd(), "here.js"))("onnxruntime-node");

const kinds = {
  float32: Float32Array,
  float64: Float64Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

function read({ file, dtype, shape }) {
  const bytes = readFileSync(file);
  const Values = kinds[dtype];
  return new Tensor(dtype, new Values(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)), shape);
}

const { path, inputs, folder } = JSON.parse(readFileSync(0, "utf8"));
const session = await InferenceSession.create(path);
mkdirSync(folder, { recursive: true });
const results = await session.run(Object.fromEntries(inputs.map((input) => [input.name, read(input)])));
const written = session.outputNames.map((name, number) => {
  const { data, dims, type } = results[name];
  const file = join(folder, `result.${number}`);
  writeFileSync(file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return { name, file, dtype: type, shape: dims };
});
console.log(JSON.stringify(written));
