"""Trains a variant on the embedded digits, in about a minute on two cores."""

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
import tqdm

from hub_export import digits
from hub_export import errors
from hub_export import preprocessing
from hub_export.regnet import network
from hub_export.regnet import variants

_SEED = 20210
_CLASSES = 10
_EPOCHS = 14
_BATCH = 32
_EVALUATION_BATCH = 60
_PEAK_RATE = 2e-3       # Adam's, falling to 0 along a cosine.
_SHIFT_PX = 3           # Augmentation: at most so far in each direction.
_LEAST_TOP1 = 95.0      # Percent.


def train(variant: variants.Variant, prep: preprocessing.Preprocessing,
          held_out: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Returns the trained tensors and their accuracy; shows a progress bar.

  Args:
    variant: What to train, as tf_keras builds it.
    prep: From encoded digits to what the network is fed.
    held_out: The split that accuracy is measured on.

  Returns:
    Canonical name -> float32 array; and {"dataset", "split", "examples",
    "top1", "top5"}, the latter two in percent.
  """
  arch, = variants.architectures(variant, "keras")
  net = network.Network(arch, network.initial_tensors(arch, _CLASSES, _SEED),
                        prep.mean, prep.std)
  images, labels = _digits("train", prep)
  steps = _EPOCHS * (len(labels) // _BATCH)
  rate = tf_keras.optimizers.schedules.CosineDecay(
      0.0, steps, warmup_target=_PEAK_RATE, warmup_steps=steps // 10)
  optimizer = tf_keras.optimizers.Adam(rate)
  momentum = tf.constant(variants.BATCH_NORM_MOMENTUM)
  parameters = net.trainable_variables
  optimizer.build(parameters)

  @tf.function
  def step(batch, truth):
    with tf.GradientTape() as tape:
      logits = net.logits(net.features(batch, True, momentum)[0])
      loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(
          truth, logits))
    optimizer.apply_gradients(
        zip(tape.gradient(loss, parameters), parameters))
    return loss

  random = np.random.default_rng(_SEED)
  with tqdm.tqdm(total=steps, unit="step", disable=None, dynamic_ncols=True,
                 desc=f"training {variant.name} on digits") as bar:
    for _ in range(_EPOCHS):
      order = random.permutation(len(labels))
      for start in range(0, len(order) - _BATCH + 1, _BATCH):
        rows = order[start:start + _BATCH]
        loss = step(_shifted(images[rows], random), labels[rows])
        bar.update()
      bar.set_postfix(loss=f"{float(loss):.3f}")
  metadata = {"dataset": digits.NAME, "split": held_out,
              **_evaluate(net, *_digits(held_out, prep))}
  if metadata["top1"] < _LEAST_TOP1:
    raise errors.HubExportError(
        f"the demo learned too little: {metadata['top1']:.1f} % of the "
        f"held-out digits; expected over {_LEAST_TOP1:.0f} %. Please report "
        "this with your processor and TensorFlow's version.")
  return {v.name.removesuffix(":0"): v.numpy() for v in net.variables}, metadata


def _evaluate(net: network.Network, images: np.ndarray,
              labels: np.ndarray) -> dict[str, Any]:
  """Returns the number of examples, and top-1 and top-5 in percent of it."""
  logits = np.concatenate([
      net.logits(net.features(images[i:i + _EVALUATION_BATCH], False, 1.0)[0])
      for i in range(0, len(images), _EVALUATION_BATCH)])
  ranks = np.argsort(-logits, axis=1, kind="stable")
  hits = ranks == labels[:, np.newaxis]
  return {"examples": len(labels),
          "top1": 100 * float(hits[:, :1].any(1).mean()),
          "top5": 100 * float(hits[:, :5].any(1).mean())}


def _digits(split: str, prep: preprocessing.Preprocessing
            ) -> tuple[np.ndarray, np.ndarray]:
  """Returns a split as the model is fed: float32 [n, 32, 32, 3], int64 [n]."""
  images, labels = digits.load(split)
  encoded = tf.map_fn(tf.io.encode_png, images, fn_output_signature=tf.string)
  # One after the other, and with a warning, where it is not a function.
  return tf.function(prep.apply_batch)(encoded).numpy(), labels


def _shifted(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
  """Returns the images, each moved by a few pixels over a black ground."""
  size, pad = images.shape[1], _SHIFT_PX
  padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  corners = random.integers(0, 2 * pad + 1, (len(images), 2))
  return np.stack([image[top:top + size, left:left + size]
                   for image, (top, left) in zip(padded, corners)])
