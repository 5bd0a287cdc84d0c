"""Reads the object-based TensorFlow checkpoints of the regnety project.

Its models are Keras subclasses trained by model.fit, so the keys are paths of
attributes, and there are optimizer slots and counters besides; those are left
alone. The stem is found by its kernel rather than by its number, which depends
on whether an earlier layer owned variables when the model was trained.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import message
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from hub_export import errors
from hub_export.regnet.checkpoints import layout

DESCRIPTION = ("a TensorFlow checkpoint of the regnety project (its prefix, or "
               "one of its files)")
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = ".OPTIMIZER_SLOT/"
_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_FILE = re.compile(r"(.+)\.(?:index|data-\d{5}-of-\d{5})")
_STEM_KERNEL = re.compile(r"layer_with_weights-(\d{1,3})/conv3x3/kernel")
_KEY = re.compile(r"layer_with_weights-(\d{1,3})/(.+)/(\w+)")
_BLOCK = re.compile(r"stage/(\d{1,3})/(.+)")

_PARTS = {  # Canonical -> attribute path below the block.
    "a/conv": "conv1x1_1", "a/bn": "bn1x1_1",
    "b/conv": "conv3x3", "b/bn": "bn3x3",
    "c/conv": "conv1x1_2", "c/bn": "bn1x1_2",
    "shortcut/conv": "skip_conv", "shortcut/bn": "bn_skip",
    "se/squeeze": "se/squeeze_conv", "se/excite": "se/excite_conv",
}
_CANONICAL = {v: k for k, v in _PARTS.items()}
_STAGES = 4
# What TensorFlow 2.21 raises depends on where the damage lies. IndexError is
# its OutOfRangeError, from files that are too short; KeyError and TypeError
# are for types that numpy does not have.
DAMAGE = (tf.errors.OpError, ValueError, RuntimeError, IndexError, KeyError,
           TypeError)


def recognises(path: pathlib.Path) -> bool:
  """Returns whether `path` names a TensorFlow checkpoint, or some in it."""
  if path.is_dir():
    return bool(_prefixes_in(path))
  # Data without an index as well: it is then told what is missing.
  return _prefix_of(path) is not None or bool(
      path.is_file() and _FILE.fullmatch(path.name))


def _prefix_of(path: pathlib.Path) -> pathlib.Path | None:
  """Returns the prefix of the checkpoint that `path` names; None if none.

  Args:
    path: The prefix itself, or one of the files, or a directory with just one
      checkpoint in it.
  """
  if path.is_dir():
    found = _prefixes_in(path)
    return found[0] if len(found) == 1 else None
  # The prefix first: it may itself end like one of its files.
  for name in (path.name, _FILE.sub(r"\1", path.name)):
    if name and _index(path.with_name(name)).is_file():
      return path.with_name(name)
  return None


def _prefixes_in(directory: pathlib.Path) -> list[pathlib.Path]:
  """Returns the prefixes of all checkpoints in a directory, sorted."""
  return [index.with_suffix("") for index in sorted(directory.glob("?*.index"))
          if index.is_file()]


@dataclasses.dataclass(frozen=True)
class Reader:
  """An object-based checkpoint, opened."""
  prefix: pathlib.Path
  files: tuple[pathlib.Path, ...]
  shapes: Mapping[str, Sequence[int]]      # By key.
  dtypes: Mapping[str, tf.DType]           # By key.
  reader: Any                              # TensorFlow's.

  def tensor(self, key: str, name: str) -> layout.StoredTensor:
    """Returns the tensor of a key; one of DAMAGE if numpy has no such type."""
    return layout.StoredTensor(
        name, tuple(self.shapes[key]),
        np.dtype(self.dtypes[key].as_numpy_dtype),
        functools.partial(_read_tensor, self.reader, self.prefix, key))

  def object_graph(self) -> trackable_object_graph_pb2.TrackableObjectGraph:
    """Returns what the checkpoint says of its objects.

    Raises:
      CheckpointError: if it is damaged.
    """
    try:
      if self.dtypes[_GRAPH_KEY] != tf.string or self.shapes[_GRAPH_KEY]:
        raise ValueError(f"{_GRAPH_KEY} is no string")
      return trackable_object_graph_pb2.TrackableObjectGraph.FromString(
          self.reader.get_tensor(_GRAPH_KEY))
    except (*DAMAGE, message.DecodeError) as e:
      raise damaged(self.prefix, e) from e


def open_reader(path: pathlib.Path) -> Reader:
  """Returns an object-based checkpoint, opened; its values are not read.

  Args:
    path: Its prefix, or one of its files, or the directory it is alone in.

  Raises:
    CheckpointError: if there is none or more than one, or if its files are
      damaged, incomplete or name-based.
  """
  if path.is_dir():
    found = _prefixes_in(path)
    if len(found) > 1:
      raise errors.CheckpointError(
          f"{path} holds {len(found)} checkpoints, "
          f"{', '.join(p.name for p in found[:5])}; expected one. Give the "
          f"path of the one that is meant, such as {found[0]}.")
  prefix = _prefix_of(path)
  if prefix is None:
    raise errors.CheckpointError(
        f"{path} is no TensorFlow checkpoint; expected an .index file there, "
        "beside its .data file. Check the path.")
  if re.search(r"[\[\\]", str(prefix)):
    # TensorFlow 2.21 takes it for a pattern, which would match other files.
    raise errors.CheckpointError(
        f"{prefix} has a [ or a \\ in its path, with which TensorFlow cannot "
        "open a checkpoint; expected a path without. Rename or copy it.")
  files = (_index(prefix), *sorted(
      prefix.parent.glob(f"{_escaped(prefix.name)}.data-*-of-*")))
  try:
    reader = tf.train.load_checkpoint(str(prefix))
    shapes = reader.get_variable_to_shape_map()
    dtypes = reader.get_variable_to_dtype_map()
  except DAMAGE as e:
    raise damaged(prefix, e) from e
  if _GRAPH_KEY not in shapes:
    raise errors.CheckpointError(
        f"{prefix} is a name-based checkpoint of TensorFlow 1; expected the "
        "object-based one that model.save_weights writes")
  return Reader(prefix, files, shapes, dtypes, reader)


def read(path: pathlib.Path) -> layout.Layout:
  """Returns the layout of a checkpoint; values are read when asked for.

  Args:
    path: As of `open_reader`.

  Raises:
    CheckpointError: as `open_reader`.
  """
  opened = open_reader(path)
  # Nothing in it is needed, but the other readers could not tell whose file
  # this is if it cannot be read.
  opened.object_graph()
  stored = {}
  try:
    for key in sorted(opened.shapes):
      # Optimizer slots and counters are the trainer's.
      if key.startswith("layer") and _SLOT not in key:
        stored[key] = opened.tensor(key, key.removesuffix(_VALUE))
  except DAMAGE as e:
    raise damaged(opened.prefix, e) from e
  stems = [int(m[1]) for key, tensor in stored.items()
           if (m := _STEM_KERNEL.match(key)) and tensor.shape[2:3] == (3,)]
  first = stems[0] if len(stems) == 1 else 0
  tensors, unexpected, duplicates = layout.collect(
      stored, lambda key, _: _canonical(key.removesuffix(_VALUE), first))
  return layout.Layout(
      source="regnety", format="tf_checkpoint", tensors=tensors,
      unexpected=unexpected, duplicates=duplicates, files=opened.files,
      spelling=functools.partial(spelling, first=first), may_lack_head=False)


def spelling(name: str, first: int = 0) -> str:
  """Returns a canonical name's key, `first` being the stem's number."""
  parts = name.split("/")
  leaf = "kernel" if parts[-1] == "conv" else parts[-1]
  if parts[0] == "stem":
    path = "conv3x3" if parts[1] == "conv" else "bn"
    return f"layer_with_weights-{first}/{path}/{leaf}"
  if parts[0] == "head":
    return f"layer_with_weights-{first + _STAGES + 1}/fc/{leaf}"
  stage = int(parts[0].removeprefix("stage"))
  block = int(parts[1].removeprefix("block")) - 1
  part = _PARTS["/".join(parts[2:4])]
  return f"layer_with_weights-{first + stage}/stage/{block}/{part}/{leaf}"


def _canonical(key: str, first: int) -> str | None:
  """Returns the canonical name of a key; the way back of `spelling`."""
  match = _KEY.fullmatch(key)
  if not match:
    return None
  place, path, leaf = int(match[1]) - first, match[2], match[3]
  prefix = None
  if place == 0:
    prefix = {"conv3x3": "stem/conv", "bn": "stem/bn"}.get(path)
  elif place == _STAGES + 1 and path == "fc":
    prefix = "head"
  elif 0 < place <= _STAGES and (block := _BLOCK.fullmatch(path)):
    part = _CANONICAL.get(block[2])
    prefix = part and f"stage{place}/block{int(block[1]) + 1}/{part}"
  if prefix is None:
    return None
  name = prefix if prefix.endswith("/conv") else f"{prefix}/{leaf}"
  return name if spelling(name, first) == key else None


def _read_tensor(reader, prefix: pathlib.Path, key: str) -> np.ndarray:
  try:
    return reader.get_tensor(key)
  except DAMAGE as e:
    raise damaged(prefix, e) from e


def damaged(prefix: pathlib.Path, cause: Exception) -> errors.CheckpointError:
  text = (getattr(cause, "message", None) or str(cause)
          or type(cause).__name__)
  return errors.CheckpointError(
      f"{prefix} cannot be read as a TensorFlow checkpoint "
      f"({text.splitlines()[0]}); expected whole files "
      f"{prefix.name}.index and {prefix.name}.data-00000-of-00001 side by "
      "side. Download or copy both again.")


def _index(prefix: pathlib.Path) -> pathlib.Path:
  return prefix.with_name(prefix.name + ".index")


def _escaped(name: str) -> str:
  return re.sub(r"([*?[])", r"[\1]", name)
