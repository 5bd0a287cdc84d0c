r"""Writes weights, images and expected outputs, for all contestants alike.

A program of the benchmarks' own, as it needs TensorFlow and they must not have
it in their process. Argument: a JSON object with "variant", "checkpoint" (what
//hub_export:export takes, or null for made-up weights), "size_px",
"num_images", "num_trained", "num_classes" and "directory". Writes there

  weights.h5        made-up weights, as tf_keras writes them
  canonical.npz keras.npz timm.npz   the weights by each one's names
  images.npy        float32 [num_images, size, size, 3], RGB in [0, 1]
  fed.npy           the same, normalised as the network does it inside
  labels.npy        int64 [num_trained]
  keras.npy torch.npy   logits of the first two images with either padding
  facts.json        architecture, convention, and the loss of a first step
"""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import tensorflow as tf

from checks import subject
from hub_export import program
from hub_export.regnet import network
from hub_export.regnet import resolve
from hub_export.regnet import variants
from hub_export.regnet import wishes
from hub_export.regnet.checkpoints import keras_h5
from hub_export.regnet.checkpoints import torch_names

COMPARED = 2     # Images of which outputs are compared.
_BATCH_NORM_PX = 96
_SEED = 0


def main() -> None:
  task = json.loads(sys.argv[1])
  directory = pathlib.Path(task["directory"])
  variant = variants.by_name(task["variant"])
  if task["checkpoint"] is None:
    arch = variants.architectures(variant, "keras")[0]
    tensors = made_up(arch, task["num_classes"])
    write_h5(directory / "weights.h5", arch, tensors)
    mean, std = (0.0,) * 3, (1.0,) * 3
  else:
    resolved = resolve.resolve(
        task["checkpoint"], None, program.cache_dir(), wishes.Wishes(),
        program.user_path, lambda text: None)
    arch = resolved.checkpoint.architecture
    tensors = dict(resolved.checkpoint.tensors)
    mean, std = resolved.preprocessing.mean, resolved.preprocessing.std
  size_px = task["size_px"]
  images = subject.probe_images(task["num_images"], size_px, size_px)
  classes = tensors["head/kernel"].shape[1]
  labels = np.arange(task["num_trained"]) * 7 % classes
  np.save(directory / "images.npy", images)
  np.save(directory / "fed.npy", ((images - np.float32(mean))
                                  / np.float32(std)).astype(np.float32))
  np.save(directory / "labels.npy", labels)
  losses = {}
  for convention in ("keras", "torch"):
    built = _as_built(variant, convention, tensors)
    if built is None:
      continue  # That source has another network under this name.
    logits, losses[convention] = outcome(
        network.Network(built, tensors, mean, std), images, labels)
    np.save(directory / f"{convention}.npy", logits)
  write_named(directory, variant, tensors)
  (directory / "facts.json").write_text(json.dumps({
      "variant": arch.name, "convention": arch.convention.name,
      "num_classes": classes, "losses": losses,
      "parameters": variants.parameter_counts(arch, classes)[1],
      "weight_bytes": sum(t.nbytes for t in tensors.values()),
      "multiply_adds": variants.multiply_adds(arch, classes, size_px)}))


def made_up(arch: variants.Architecture, num_classes: int
            ) -> dict[str, np.ndarray]:
  """Returns random tensors that keep activations of a trained network's size.

  Batch norm's statistics are the network's own on made-up images: unrelated
  ones would let activations grow or die, and differences with them.
  """
  tensors = network.initial_tensors(arch, num_classes, _SEED)
  random = np.random.default_rng(_SEED)
  for name, values in tensors.items():
    if name.endswith("/c/bn/gamma"):
      # As after training: each block adds a little to what it is given. With
      # more a rounding at the start would be all that is left at the end.
      values[:] = random.uniform(0.2, 0.5, values.shape)
    elif name.endswith("/gamma"):
      values[:] = random.uniform(0.7, 1.3, values.shape)
    elif name.endswith("/beta") or name.endswith("/bias"):
      values[:] = random.normal(0, 0.1, values.shape)
    elif name == "head/kernel":
      values[:] = random.normal(0, values.shape[0] ** -0.5, values.shape)
  net = network.Network(arch, tensors, (0.0,) * 3, (1.0,) * 3)
  images = subject.probe_images(4, _BATCH_NORM_PX, _BATCH_NORM_PX, seed=1)
  net.features(tf.constant(images), True, tf.constant(0.0))
  found = {v.name.removesuffix(":0"): v.numpy() for v in net.variables}
  return {name: found[name] for name in tensors}


def outcome(net: network.Network, images: np.ndarray, labels: np.ndarray
            ) -> tuple[np.ndarray, float]:
  """Returns the logits of the first images, and a first training step's loss.

  Args:
    net: With a head.
    images: float32 [batch, height, width, 3], RGB in [0, 1].
    labels: int [trained], of the first so many images; may be empty.
  """
  momentum = tf.constant(variants.BATCH_NORM_MOMENTUM)
  features, _ = net.features(tf.constant(images[:COMPARED]), False, momentum)
  logits = net.logits(features).numpy()
  if not len(labels):
    return logits, 0.0
  features, _ = net.features(
      tf.constant(images[:len(labels)]), True, momentum)
  loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
      tf.constant(labels), net.logits(features))
  return logits, float(tf.reduce_mean(loss))


def write_h5(path: pathlib.Path, arch: variants.Architecture,
             tensors: Mapping[str, np.ndarray]) -> None:
  """Writes tensors in the layout of tf_keras' weights files."""
  layers: dict[str, dict[str, Any]] = {}
  for name, tensor in tensors.items():
    spelled = _keras_name(name, arch.name).replace(
        "*", variants.compact_name(arch.name), 1)
    layer, leaf = spelled.split("/")
    layers.setdefault(layer, {})[f"{layer}/{leaf}"] = tensor
  with h5py.File(path, "w") as f:
    f.attrs["layer_names"] = np.array(list(layers), dtype="S")
    for layer, weights in layers.items():
      group = f.create_group(layer)
      group.attrs["weight_names"] = np.array(list(weights), dtype="S")
      for name, tensor in weights.items():
        group.create_dataset(name, data=tensor)


def write_named(directory: pathlib.Path, variant: variants.Variant,
                tensors: Mapping[str, np.ndarray]) -> None:
  """Writes the tensors by canonical names, tf_keras' and timm's."""
  np.savez(directory / "canonical.npz", **tensors)
  np.savez(directory / "keras.npz", **{
      _keras_name(name, variant.name).removeprefix("*"): values
      for name, values in tensors.items()})
  np.savez(directory / "timm.npz", **{
      torch_names.spelling("timm", name): torch_layout(values)
      for name, values in tensors.items()})


def torch_layout(values: np.ndarray) -> np.ndarray:
  """Returns kernels as torch has them: OIHW and (out, in), or 1x1 of both."""
  if values.ndim == 4:
    return np.ascontiguousarray(values.transpose(3, 2, 0, 1))
  return np.ascontiguousarray(values.T)


def _as_built(variant: variants.Variant, convention: str,
              tensors: Mapping[str, np.ndarray]
              ) -> variants.Architecture | None:
  """Returns the architecture that the tensors fit as a convention builds it."""
  shapes = {name: tuple(t.shape) for name, t in tensors.items()}
  classes = tensors["head/kernel"].shape[1]
  return next((arch for arch in variants.architectures(variant, convention)
               if variants.tensor_shapes(arch, classes) == shapes), None)


def _keras_name(name: str, variant: str) -> str:
  return keras_h5.spelling(name, "X" if variant.startswith("regnetx") else "Y")


if __name__ == "__main__":
  main()
