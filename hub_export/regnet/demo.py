"""The demo checkpoint: any variant, on the embedded digits, kept in the cache.

It stands in for ImageNet weights on machines that have none, so that the whole
way from checkpoint to published model can be walked. The file it makes has the
layout of tf_keras.applications' weights, and one attribute more that says what
it is.
"""

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from hub_export import errors
from hub_export import export_dirs
from hub_export import preprocessing
from hub_export.regnet import checkpoints
from hub_export.regnet import variants
from hub_export.regnet.checkpoints import keras_h5

# 8x8 digits are shown at the smallest size that a RegNet takes.
PREPROCESSING = preprocessing.Preprocessing(
    (preprocessing.Resize("shorter", 32, "bilinear", False),), 32)

SPLIT = "test"          # Held out; never trained on.
_REVISION = 1           # Raised when a change makes cached checkpoints stale.


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
    with export_dirs.lock(path.with_suffix(".lock"), create=True):
      for stale in path.parent.glob(f".{path.name}.*"):  # A killed run's.
        stale.unlink()
      if not _is_sound(path, variant):
        # Only who has to train needs the data set and the optimizer.
        from hub_export.regnet import demo_training  # pylint: disable=g-import-not-at-top
        _save(path, variant, *demo_training.train(
            variant, PREPROCESSING, SPLIT))
  return path


def _is_sound(path: pathlib.Path, variant: variants.Variant) -> bool:
  """Returns whether a demo checkpoint lies there whole."""
  if not path.is_file():
    return False
  try:
    return checkpoints.open(path, variant).layout.metadata is not None
  except errors.CheckpointError:
    return False  # Damaged since; what can be trained again is no loss.


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
