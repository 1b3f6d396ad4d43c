// Runs the decoder, beside the page. It is asked one thing at a time, by `decoder.js`: `{id, kind, …}`, and answers
// `{id, answer}` or `{id, problem}`.

import { order, paint } from "./masks.js";
import { EMBEDDINGS, LOW_RES, frameOf, lowResLogits, tokensOf } from "./prompts.js";
import { read } from "./tensors.js";

const LOGITS = "low_res_masks", SCORES = "iou_predictions";

const NO_MASK = new Float32Array(LOW_RES * LOW_RES);

let ort = null;
let session = null;
let family = null;
let image = null; // {tensors, frame}

const work = {
  /** Take the runtime and the model's decoder, an ONNX file. */
  async load(given) {
    ort = await import(given.module);
    ort.env.wasm.numThreads = given.threads;
    ort.env.logLevel = "error";
    await session?.release();
    image = null;
    family = given.family;
    session = await ort.InferenceSession.create(new Uint8Array(given.graph), { executionProviders: ["wasm"] });
    const known = new Set([...EMBEDDINGS[family], "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size"]);
    const strange = session.inputNames.filter((name) => !known.has(name));
    if (strange.length) throw new Error(`the decoder wants ${strange.join(", ")}`);
  },

  /** Take an image's embedding, a safetensors file. */
  async image({ embedding }) {
    const { tensors, metadata } = read(embedding);
    image = { tensors: {}, frame: frameOf(family, { width: Number(metadata.width), height: Number(metadata.height) }) };
    for (const name of EMBEDDINGS[family]) {
      const { data, shape } = tensors[name];
      image.tensors[name] = new ort.Tensor("float32", data, shape);
    }
  },

  /** The masks for a prompt, best first; `start` is the RLE of a mask to start from, or `null`. */
  async masks({ start, ...prompt }) {
    const { coords, labels, tokens } = tokensOf(prompt, image.frame, family);
    const offered = {
      ...image.tensors,
      point_coords: new ort.Tensor("float32", coords, [1, tokens, 2]),
      point_labels: new ort.Tensor("float32", labels, [1, tokens]),
      mask_input: new ort.Tensor("float32", start ? lowResLogits(start, image.frame) : NO_MASK, [1, 1, LOW_RES, LOW_RES]),
      has_mask_input: new ort.Tensor("float32", [start ? 1 : 0], [1]),
      orig_im_size: new ort.Tensor("float32", [8, 8], [2]), // what is upsampled to this size is not used
    };
    const feeds = Object.fromEntries(session.inputNames.map((name) => [name, offered[name]]));
    const made = await session.run(feeds, [LOGITS, SCORES]);
    const scores = made[SCORES].data;
    return order(scores).map((index) => {
      const logits = made[LOGITS].data.subarray(index * LOW_RES * LOW_RES, (index + 1) * LOW_RES * LOW_RES);
      return { ...paint(logits, image.frame, family), score: Math.min(1, Math.max(0, scores[index])) };
    });
  },
};

onmessage = async ({ data: { id, kind, ...given } }) => {
  try {
    postMessage({ id, answer: await work[kind](given) });
  } catch (error) {
    postMessage({ id, problem: error?.message ?? String(error) });
  }
};
