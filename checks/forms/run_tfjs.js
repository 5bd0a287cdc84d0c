// Runs a graph model in TensorFlow.js on Node.js, for checks/forms/tfjs.py.
//
//   node run_tfjs.js NODE_MODULES MODEL_DIRECTORY wasm|cpu
//
// A line of standard input is a task in JSON, {"input": path, "shape": [...],
// "output": path}: float32 images are read from one file, what the model makes
// of them is written to the other, and {"shape"} or {"error"} comes on standard
// output. The first line there tells of the model.

"use strict";

const fs = require("fs");
const path = require("path");
const readline = require("readline");

const [modules, directory, backend] = process.argv.slice(2);
const from = (name) => require(path.join(modules, "@tensorflow", name));
const tf = from("tfjs-core");
const {loadGraphModel} = from("tfjs-converter");
if (backend === "wasm") {
  from("tfjs-backend-wasm").setWasmPaths(
    path.join(modules, "@tensorflow/tfjs-backend-wasm/dist") + path.sep);
} else {
  from("tfjs-backend-cpu");
}

// TensorFlow.js' own way of fetching model.json and its shards, less the net.
const URL_START = "http://model/";
async function fetchFile(url) {
  const name = String(url).slice(URL_START.length);
  const file = path.join(directory, path.basename(name));
  return fs.existsSync(file)
    ? new Response(fs.readFileSync(file), {
      headers: {"Content-Type": file.endsWith(".json")
        ? "application/json" : "application/octet-stream"}})
    : new Response(null, {status: 404});
}

function say(answer) {
  fs.writeSync(1, JSON.stringify(answer) + "\n");
}

function run(model, task) {
  const bytes = fs.readFileSync(task.input);
  const values = new Float32Array(
    bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const [shape, output] = tf.tidy(() => {
    const found = model.predict(tf.tensor(values, task.shape, "float32"));
    return [found.shape, found.dataSync()];
  });
  fs.writeFileSync(task.output, Buffer.from(
    output.buffer, output.byteOffset, output.byteLength));
  say({shape});
}

async function main() {
  if (!await tf.setBackend(backend)) throw new Error(`no backend ${backend}`);
  await tf.ready();
  const model = await loadGraphModel(
    `${URL_START}model.json`, {fetchFunc: fetchFile});
  say({version: tf.version_core, backend: tf.getBackend(),
    node: process.version, inputs: model.inputs.map((t) => t.name),
    outputs: Object.keys(model.modelSignature.outputs),
    metadata: model.metadata});
  for await (const line of readline.createInterface({input: process.stdin})) {
    try {
      run(model, JSON.parse(line));
    } catch (error) {
      say({error: String(error)});
    }
  }
}

main().catch((error) => say({error: String(error)}));
