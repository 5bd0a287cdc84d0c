"""Opens checkpoints: whatever the format, canonical names and proven shapes.

`open` finds out what a file is by its content, reads it with the reader of that
format and holds the result against the architecture that its source builds:
every tensor used exactly once, of the right shape, finite. All problems come in
one error. No pickle is ever executed.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from hub_export import errors
from hub_export import export_dirs
from hub_export.regnet import variants
from hub_export.regnet.checkpoints import keras_h5
from hub_export.regnet.checkpoints import layout
from hub_export.regnet.checkpoints import tf_checkpoint

# The shape of the head is all that a file decides by itself, and no file may
# ask for all of the memory. ImageNet-21k has 21,843 classes.
_MAX_CLASSES = 100_000


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A checkpoint that fits its variant."""
  architecture: variants.Architecture
  tensors: Mapping[str, np.ndarray]  # Canonical name -> float32, C order.
  num_classes: int                   # 0 where there is no head.
  layout: layout.Layout

  def digest(self, with_head: bool) -> str:
    """Returns the SHA-256 over names, shapes and bytes of the tensors.

    Args:
      with_head: Whether the head counts; without it the digest is the
        backbone's, the same for classifier and feature extractor.
    """
    return export_dirs.weights_digest(
        self.tensors if with_head else export_dirs.without_head(self.tensors))


def open(path: pathlib.Path,  # pylint: disable=redefined-builtin
         variant: variants.Variant) -> Checkpoint:
  """Returns the checkpoint at `path`, read and checked.

  Args:
    path: An HDF5 file of tf_keras.applications; or a TensorFlow checkpoint of
      the regnety project: its prefix, one of its files, or the directory.
    variant: What it is to be.

  Raises:
    CheckpointError: if there is nothing, no known format, a damaged file, or
      tensors that are missing, unexpected, misshapen or not finite; the latter
      are all listed.
  """
  try:
    found = _detect(path)
  except OSError as e:  # Such as a name that is too long, or no permission.
    raise errors.CheckpointError(
        f"{path} cannot be opened: {e.strerror or e}. Check the path.") from e
  arch = variants.architecture(variant, found.source)
  num_classes = _num_classes(found)
  expected = variants.tensor_shapes(arch, num_classes)
  problems = list(_layout_problems(found, expected))
  misfit = bool(problems)
  if misfit and (actual := _recognised(found)):
    raise errors.CheckpointError(
        f"{path} is a {actual.name} by its tensors; expected a "
        f"{variant.name}. Use --variant={actual.name}.")
  tensors = {}
  for name, shape in expected.items():
    stored = found.tensors.get(name)
    # What has another shape is not even read: it might fill the memory.
    if stored and stored.shape == shape and stored.dtype.kind == "f":
      tensors[name] = _values(path, stored)
      problems.extend(_value_problems(stored, name, tensors[name]))
  if misfit:
    raise errors.CheckpointError(errors.join_problems(
        f"{path} does not fit {variant.name} as {found.source} builds it",
        problems, "Expected every tensor of the variant once and nothing "
        "else. Check --variant and where the checkpoint comes from."))
  if problems:
    raise errors.CheckpointError(errors.join_problems(
        f"{path} has unusable values", problems,
        "Every value has to be finite and every variance at least 0. Take the "
        "checkpoint of an earlier epoch, or download it again."))
  return Checkpoint(arch, tensors, num_classes, found)


def _detect(path: pathlib.Path) -> layout.Layout:
  """Returns the layout that the reader for the content of `path` finds."""
  if path.is_dir():
    prefixes = tf_checkpoint.prefixes_in(path)
    if len(prefixes) > 1:
      raise errors.CheckpointError(
          f"{path} holds {len(prefixes)} checkpoints, "
          f"{', '.join(p.name for p in prefixes[:5])}; expected one. Give the "
          f"path of the one that is meant, such as {prefixes[0]}.")
  prefix = tf_checkpoint.prefix_of(path)
  if prefix is not None:
    return tf_checkpoint.read(prefix)
  if not path.exists():
    raise errors.CheckpointError(
        f"{path} is not there; expected a .h5 file of "
        "tf_keras.applications.regnet or the prefix of a TensorFlow "
        "checkpoint (the path without .index). Check the spelling.")
  if path.is_file():
    with path.open("rb") as f:
      magic = f.read(len(keras_h5.MAGIC))
    if magic == keras_h5.MAGIC:
      return keras_h5.read(path)
  raise errors.CheckpointError(
      f"{path} is of no format that is read here: neither HDF5 nor a "
      "TensorFlow checkpoint with its .index file. Expected a .h5 file of "
      "tf_keras.applications.regnet or a checkpoint of the regnety project.")


def _num_classes(found: layout.Layout) -> int:
  """Returns the number of classes, 0 for a file that has no head."""
  for name in ("head/bias", "head/kernel"):
    if name in found.tensors and found.tensors[name].shape:
      stored = found.tensors[name]
      if not 0 < stored.shape[-1] <= _MAX_CLASSES:
        raise errors.CheckpointError(
            f"{', '.join(map(str, found.files))}: {stored.name} is "
            f"{list(stored.shape)}, which means {stored.shape[-1]} classes; "
            f"expected 1 to {_MAX_CLASSES}. Download or save it again.")
      return int(stored.shape[-1])
  return 0 if found.may_lack_head else 1000


def _layout_problems(found: layout.Layout,
                     expected: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
  """Yields a line for each name, shape or type that is not as expected."""
  for name in expected:
    if name not in found.tensors:
      yield f"missing: {found.spelling(name)}"
  for name, stored in found.tensors.items():
    if name not in expected:
      yield f"unexpected: {stored.name} {list(stored.shape)}"
    elif stored.shape != expected[name]:
      yield (f"misshapen: {stored.name} is {list(stored.shape)}, expected "
             f"{list(expected[name])}")
    elif stored.dtype.kind != "f":
      yield f"of type {stored.dtype}: {stored.name}, expected a float"
  for name in found.unexpected:
    yield f"unexpected: {name}"
  for name in found.duplicates:
    yield f"a second time: {name}"


def _recognised(found: layout.Layout) -> variants.Variant | None:
  """Returns the variant that all the tensors fit, if there is one."""
  if found.unexpected or found.duplicates:
    return None
  shapes = {name: t.shape for name, t in found.tensors.items()}
  for variant in variants.VARIANTS:
    arch = variants.architecture(variant, found.source)
    if shapes == variants.tensor_shapes(arch, _num_classes(found)):
      return variant
  return None


def _values(path: pathlib.Path, stored: layout.StoredTensor) -> np.ndarray:
  """Returns a tensor's values as float32, in C order.

  Raises:
    CheckpointError: if the file is damaged.
  """
  try:
    values = stored.read()
  # h5py raises any of these on damaged files.
  except (OSError, KeyError, RuntimeError, ValueError, TypeError) as e:
    raise errors.CheckpointError(
        f"{path}: {stored.name} cannot be read ({e}); the file is damaged. "
        "Download or save it again.") from e
  if values.shape != stored.shape:
    raise errors.CheckpointError(
        f"{path}: {stored.name} came out as {list(values.shape)}, the file "
        f"says {list(stored.shape)}. Download or save it again.")
  with np.errstate(over="ignore"):  # Becomes infinite, which is then told.
    return np.ascontiguousarray(values, dtype=np.float32)


def _value_problems(stored: layout.StoredTensor, name: str,
                    values: np.ndarray) -> Iterator[str]:
  """Yields a line if values would poison the network."""
  broken = int(np.size(values) - np.count_nonzero(np.isfinite(values)))
  if broken:
    yield f"{stored.name}: {broken} of {np.size(values)} values not finite"
  elif name.endswith("/moving_variance") and np.min(values) < 0:
    yield f"{stored.name}: a variance of {np.min(values):.3g}"
