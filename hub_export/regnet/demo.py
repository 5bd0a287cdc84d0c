"""Trains the demo checkpoint: any variant, on the embedded digits, in a minute.

It stands in for ImageNet weights on machines that have none, so that the whole
way from checkpoint to published model can be walked. The file it makes has the
layout of tf_keras.applications' weights, and one attribute more that says what
it is.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np
import tensorflow as tf
import tf_keras
import tqdm

from hub_export import digits
from hub_export import errors
from hub_export import export_dirs
from hub_export import preprocessing
from hub_export.regnet import checkpoints
from hub_export.regnet import network
from hub_export.regnet import variants
from hub_export.regnet.checkpoints import keras_h5

# 8x8 digits are shown at the smallest size that a RegNet takes.
PREPROCESSING = preprocessing.Preprocessing(
    (preprocessing.Resize("shorter", 32, "bilinear", False),), 32)

SPLIT = "test"          # Held out; never trained on.
_REVISION = 1           # Raised when a change makes cached checkpoints stale.
_SEED = 20210
_CLASSES = 10
_EPOCHS = 14
_BATCH = 32
_PEAK_RATE = 2e-3       # Adam's, falling to 0 along a cosine.
_SHIFT_PX = 3           # Augmentation: at most so far in each direction.
_LEAST_TOP1 = 95.0      # Percent.


def checkpoint(variant: variants.Variant, cache: pathlib.Path) -> pathlib.Path:
  """Returns the variant's demo checkpoint, training it if it is not cached.

  Two programs at once train it once. Prints nothing but a progress bar.

  Args:
    variant: What to train, as tf_keras builds it.
    cache: Directory of cached checkpoints.

  Raises:
    WriteError: if the cache cannot be written.
  """
  path = cache / "demo" / f"{variant.name}-{_REVISION}.h5"
  with export_dirs.write_errors(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path.with_suffix(".lock")):
      if not _is_sound(path, variant):
        _save(path, variant, *_train(variant))
  return path


def _is_sound(path: pathlib.Path, variant: variants.Variant) -> bool:
  """Returns whether a demo checkpoint lies there whole."""
  if not path.is_file():
    return False
  try:
    return checkpoints.open(path, variant).layout.metadata is not None
  except errors.CheckpointError:
    return False  # Damaged since; what can be trained again is no loss.


def _train(variant: variants.Variant
           ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Returns the trained tensors, and the metadata with their accuracy."""
  arch = variants.architecture(variant, "keras")
  net = network.Network(arch, network.initial_tensors(arch, _CLASSES, _SEED))
  images, labels = _digits("train")
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
  with tqdm.tqdm(total=steps, unit="step", desc=f"training {variant.name} "
                 "on digits") as bar:
    for _ in range(_EPOCHS):
      order = random.permutation(len(labels))
      for start in range(0, len(order) - _BATCH + 1, _BATCH):
        rows = order[start:start + _BATCH]
        loss = step(_shifted(images[rows], random), labels[rows])
        bar.update()
      bar.set_postfix(loss=f"{float(loss):.3f}")
  metadata = _evaluate(net)
  if metadata["top1"] < _LEAST_TOP1:
    raise RuntimeError(f"the demo learned too little: {metadata}")
  return {v.name.removesuffix(":0"): v.numpy() for v in net.variables}, metadata


def _evaluate(net: network.Network) -> dict[str, Any]:
  """Returns top-1 and top-5, in percent of the held-out split."""
  images, labels = _digits(SPLIT)
  logits = np.concatenate([
      net.logits(net.features(images[i:i + 60], False, 1.0)[0]).numpy()
      for i in range(0, len(images), 60)])
  ranks = np.argsort(-logits, axis=1, kind="stable")
  hits = ranks == labels[:, np.newaxis]
  return {"dataset": digits.NAME, "split": SPLIT, "examples": len(labels),
          "top1": 100 * float(hits[:, :1].any(1).mean()),
          "top5": 100 * float(hits[:, :5].any(1).mean())}


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns a split as the model is fed: float32 [n, 32, 32, 3], int64 [n]."""
  images, labels = digits.load(split)
  encoded = tf.map_fn(tf.io.encode_png, images, fn_output_signature=tf.string)
  return PREPROCESSING.apply_batch(encoded).numpy(), labels


def _shifted(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
  """Returns the images, each moved by a few pixels over a black ground."""
  size, pad = images.shape[1], _SHIFT_PX
  padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  corners = random.integers(0, 2 * pad + 1, (len(images), 2))
  return np.stack([image[top:top + size, left:left + size]
                   for image, (top, left) in zip(padded, corners)])


def _save(path: pathlib.Path, variant: variants.Variant,
          tensors: Mapping[str, np.ndarray],
          metadata: Mapping[str, Any]) -> None:
  """Writes tensors in the layout of tf_keras' weights files, or nothing."""
  layers = {}
  for name, tensor in tensors.items():
    spelled = keras_h5.spelling(name).replace(
        "*", variants.compact_name(variant.name), 1)
    layer, leaf = spelled.split("/")
    layers.setdefault(layer, {})[f"{layer}/{leaf}"] = tensor
  fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
  os.close(fd)
  try:
    with h5py.File(temporary, "w") as f:
      f.attrs["layer_names"] = np.array(list(layers), dtype="S")
      f.attrs[keras_h5.METADATA_ATTRIBUTE] = json.dumps(dict(metadata))
      for layer, weights in layers.items():
        group = f.create_group(layer)
        group.attrs["weight_names"] = np.array(list(weights), dtype="S")
        for name, tensor in weights.items():
          group.create_dataset(name, data=tensor)
    export_dirs.fsync(pathlib.Path(temporary))
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
  """Holds a lock between processes; the system frees it if one is killed."""
  with open(path, "w", encoding="utf-8") as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    yield
