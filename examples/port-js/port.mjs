/*
 * TensorFlow.js's batch normalization as a program that bnspec-conformance can put to the test:
 *
 *     npm ci
 *     bnspec-conformance run 'exec:node port.mjs'
 *     bnspec-conformance run 'exec:node port.mjs --all'
 *
 * Part 1 says what is asked: with --all also what the layer is known to get wrong, which README.md lists. Part 2 calls
 * tf.layers.batchNormalization on the backend "cpu" and differentiates it; part 3 is the plumbing of docs/protocol.md, as
 * `bnspec-conformance new-port NAME --language javascript` writes it.
 */
import { endianness } from "node:os";
import { createInterface } from "node:readline";

console.log = console.info = console.debug = console.warn = console.error; // standard output is for answers alone
const tf = await import("@tensorflow/tfjs");
await tf.setBackend("cpu");

/* ---- 1. What is asked ------------------------------------------------------------------------------------------ */

const all = process.argv.includes("--all");
const HELLO = {
  protocol: 1,
  name: all ? "tfjs-all" : "tfjs",
  version: tf.version.tfjs,
  profiles: ["core", "running", "inference", "grad"],
  dtypes: ["float32"],
  ndims: all ? [2, 3, 4, 5] : [2, 3, 4],
  axes: all ? "any" : "last",
  world: 1,
  options: {
    correction: [0],
    averaging: ["exponential"],
    nonfinite: ["propagate"],
    ...(all ? {} : { scale: [true], center: [true] }),
  },
  parameter_dtypes: ["x"],
  arithmetic: "float32",
  bound: "plain",
  examples: 20,
};

/* ---- 2. What it computes --------------------------------------------------------------------------------------- */

/** One call of the layer: y, the running statistics after it, and gradients where there is a dy. */
function batchNorm(given) {
  const { x, dy } = given.ranks[0];
  const { axis, epsilon, decay, scale, center } = given.config;
  const channels = x.shape[axis < 0 ? axis + x.shape.length : axis];
  const layer = tf.layers.batchNormalization({ axis, epsilon, momentum: decay, scale, center });
  layer.build(x.shape);
  const vector = (value, usual) => (value ? tensor(value) : tf.fill([channels], usual));
  const weights = [...(scale ? [vector(given.gamma, 1)] : []), ...(center ? [vector(given.beta, 0)] : [])];
  layer.setWeights([...weights, vector(given.state?.mean, 0), vector(given.state?.var, 1)]);
  const input = tf.variable(tensor(x));
  let y;
  const call = () => (y = tf.keep(layer.apply(input, { training: given.mode === "batch" })));
  const found = {};
  if (dy === null) {
    call();
  } else {
    const variables = { dx: input };
    if (scale) variables.dgamma = layer.gamma.val;
    if (center) variables.dbeta = layer.beta.val;
    const { grads } = tf.variableGrads(() => tf.sum(tf.mul(call(), tensor(dy))), Object.values(variables));
    for (const [name, variable] of Object.entries(variables)) found[name] = array(grads[variable.name]);
  }
  found.y = array(y);
  if (given.mode === "batch" && given.state !== null && given.update)
    found.state = { mean: array(layer.movingMean.read()), var: array(layer.movingVariance.read()) };
  return { ranks: [found] };
}

const tensor = (value) => tf.tensor(value.data, value.shape, "float32");
const array = (value) => ({ dtype: "float32", shape: value.shape, data: value.dataSync() });

/* ---- 3. The plumbing ------------------------------------------------------------------------------------------- */

const TYPES = { float32: Float32Array, float64: Float64Array, int32: Int32Array, int64: BigInt64Array, bool: Uint8Array };

/** For JSON.parse: every array of a request with its numbers in place of the base64. */
function decode(key, value) {
  if (value === null || typeof value !== "object" || value.dtype === undefined) return value;
  const bytes = Buffer.from(value.data, "base64");
  const aligned = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  return { dtype: value.dtype, shape: value.shape, data: new TYPES[value.dtype](aligned) };
}

/** For JSON.stringify: the same backwards. */
function encode(key, value) {
  if (!ArrayBuffer.isView(value)) return value;
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64");
}

function answer(line) {
  try {
    const request = JSON.parse(line, decode);
    if (request.op === "hello") return HELLO;
    if (request.op !== "run") return { error: `op is ${request.op}; expected hello or run` };
    return { outcome: batchNorm(request.case) };
  } catch (error) {
    console.error(error.stack);
    return { error: error.message || String(error) };
  } finally {
    tf.disposeVariables();
  }
}

if (endianness() !== "LE") throw new Error("typed arrays are big-endian here; reverse the bytes in decode and encode");
for await (const line of createInterface({ input: process.stdin }))
  process.stdout.write(JSON.stringify(answer(line), encode) + "\n");
