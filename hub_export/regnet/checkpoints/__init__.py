"""Opens checkpoints: whatever the format, canonical names and proven shapes.

`open` finds out what a file is by its content, reads it with the reader of that
format and holds the result against the architecture that its source builds:
every tensor used exactly once, of the right shape, finite. All problems come in
one error. No pickle is ever executed.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from hub_export import errors
from hub_export import export_dirs
from hub_export.regnet import variants
from hub_export.regnet.checkpoints import hub_saved_model
from hub_export.regnet.checkpoints import keras3
from hub_export.regnet.checkpoints import keras_h5
from hub_export.regnet.checkpoints import layout
from hub_export.regnet.checkpoints import safetensors_file
from hub_export.regnet.checkpoints import tf_checkpoint
from hub_export.regnet.checkpoints import torch_checkpoint
from hub_export.regnet.checkpoints import torch_file

# The shape of the head is all that a file decides by itself, and no file may
# ask for all of the memory. ImageNet-21k has 21,843 classes.
_MAX_CLASSES = 100_000


@dataclasses.dataclass(frozen=True)
class Reader:
  """How files of one format are told from others, and read."""
  description: str
  recognises: Callable[[pathlib.Path], bool]
  read: Callable[[pathlib.Path], layout.Layout]


# By their formats, in the order in which they are asked: this project's own
# modules lie in files that the readers after it would take for theirs.
READERS = {
    "saved_model": Reader(hub_saved_model.DESCRIPTION,
                          hub_saved_model.recognises, hub_saved_model.read),
    "safetensors": Reader(
        "a .safetensors file of timm", safetensors_file.recognises,
        functools.partial(torch_checkpoint.read, kind="safetensors")),
    "torch": Reader(
        "a .pth, .pyth or .bin file of timm, torchvision or pycls",
        torch_file.recognises,
        functools.partial(torch_checkpoint.read, kind="torch")),
    "keras3": Reader(keras3.DESCRIPTION, keras3.recognises, keras3.read),
    "keras_h5": Reader(keras_h5.DESCRIPTION, keras_h5.recognises,
                       keras_h5.read),
    "tf_checkpoint": Reader(tf_checkpoint.DESCRIPTION,
                            tf_checkpoint.recognises, tf_checkpoint.read),
}
# How the program that wrote a file builds the network.
_CONVENTIONS = {"keras": "keras", "regnety": "regnety", "timm": "torch",
                "torchvision": "torch", "pycls": "torch"}
_STEM = "stem/conv"


class Tensors(Mapping[str, np.ndarray]):
  """Canonical name -> float32 array in C order, read whenever it is asked for.

  So a checkpoint is never whole in memory; what is asked for may raise
  CheckpointError, if the file was damaged since.
  """

  def __init__(self, path: pathlib.Path,
               stored: Mapping[str, layout.StoredTensor],
               reverse_channels: bool):
    self._path = path
    self._stored = dict(stored)
    self._reverse_channels = reverse_channels

  def __getitem__(self, name: str) -> np.ndarray:
    values = _values(self._path, self._stored[name])
    if self._reverse_channels and name == _STEM:
      values = np.ascontiguousarray(values[:, :, ::-1])
    return values

  def __contains__(self, name: object) -> bool:
    return name in self._stored  # Mapping's own would read it.

  def __iter__(self) -> Iterator[str]:
    return iter(self._stored)

  def __len__(self) -> int:
    return len(self._stored)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A checkpoint that fits its variant."""
  architecture: variants.Architecture
  tensors: Tensors
  num_classes: int                   # 0 where there is no head.
  layout: layout.Layout
  channel_order: str                 # That the network was trained on.
  digests: Mapping[str, str]         # export_dirs.WeightsDigest's.


def open(path: pathlib.Path,  # pylint: disable=redefined-builtin
         variant: variants.Variant | None = None, *,
         format_name: str | None = None, convention: str | None = None,
         channel_order: str | None = None) -> Checkpoint:
  """Returns the checkpoint at `path`, read through and checked.

  Args:
    path: A file or directory in one of `wishes.FORMATS`; a TensorFlow
      checkpoint by its prefix, one of its files, or the directory.
    variant: What it is to be; None for what its tensors say.
    format_name: One of `wishes.FORMATS`; None to find out by the content.
    convention: How the network is built, for the files that do not tell.
    channel_order: "RGB" or "BGR", what the network was trained on; None for
      what is the custom of the program that wrote the file.

  Raises:
    CheckpointError: if there is nothing, no known format, a damaged file, or
      tensors that are missing, unexpected, misshapen or not finite; the latter
      are all listed.
    UsageError: if the convention is not known, or is another one.
  """
  try:
    hub_saved_model.check_form(path)
    found = _detect(path, format_name)
  except OSError as e:  # Such as a name that is too long, or no permission.
    raise errors.CheckpointError(
        f"{path} cannot be opened: {e.strerror or e}. Check the path.") from e
  rules = _convention(path, found, convention)
  num_classes = _num_classes(found)
  if variant is None:
    variant, misfits = _nearest(found, rules, num_classes)
    # What differs in more is another network, not a damaged one of these.
    if 4 * misfits > len(found.tensors):
      raise errors.CheckpointError(
          f"{path} has the tensors of no RegNetX or RegNetY that is known "
          "here. Name the one that it should be with --variant, to be told "
          "what differs.")
  arch, expected, problems = min(
      (_compared(found, arch, num_classes)
       for arch in variants.architectures(variant, rules)),
      key=lambda compared: len(compared[2]))
  misfit = bool(problems)
  if misfit:
    actual, misfits = _nearest(found, rules, num_classes)
    if not misfits:
      raise errors.CheckpointError(
          f"{path} is a {actual.name} by its tensors; expected a "
          f"{variant.name}. Use --variant={actual.name}.")
  channel_order = channel_order or found.channel_order
  # What has another shape is not even read: it might fill the memory.
  tensors = Tensors(path, {
      name: stored for name, stored in found.tensors.items()
      if stored.shape == expected.get(name) and _is_float(stored.dtype)},
                    reverse_channels=channel_order != found.channel_order)
  digest = export_dirs.WeightsDigest()
  for name in sorted(tensors):
    values = tensors[name]
    problems.extend(_value_problems(found.tensors[name], name, values))
    digest.update(name, values)
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
  return Checkpoint(arch, tensors, num_classes, found, channel_order,
                    digest.hexdigests())


def _compared(found: layout.Layout, arch: variants.Architecture,
              num_classes: int) -> tuple[
                  variants.Architecture, dict[str, tuple[int, ...]], list[str]]:
  """Returns an architecture, its shapes, and a line for each difference."""
  expected = variants.tensor_shapes(arch, num_classes)
  return arch, expected, list(_layout_problems(found, expected))


def _convention(path: pathlib.Path, found: layout.Layout,
                wanted: str | None) -> str:
  """Returns the convention that a network is to be built by."""
  known = found.convention or _CONVENTIONS.get(found.source)
  if wanted and known and wanted != known:
    raise errors.UsageError(
        f"{path} was built by the convention {known!r}, not {wanted!r}. Leave "
        "--convention out")
  if not (wanted or known):
    raise errors.UsageError(
        f"{path} does not tell how its network pads; expected --convention="
        "torch, keras or regnety, the source of the weights that it was "
        "trained from (checkpoint.convention in the first export's manifest)")
  return wanted or known


def _detect(path: pathlib.Path, format_name: str | None) -> layout.Layout:
  """Returns the layout that the reader for the content of `path` finds."""
  if format_name is not None:
    return READERS[format_name].read(path)
  for reader in READERS.values():
    if reader.recognises(path):
      return reader.read(path)
  expected = "; ".join(r.description for r in READERS.values())
  if not path.exists():
    raise errors.CheckpointError(
        f"{path} is not there; expected {expected}. Check the spelling.")
  raise errors.CheckpointError(
      f"{path} is of no format that is read here, going by its content; "
      f"expected {expected}. --checkpoint_format says what it is meant to be, "
      "to be told what is wrong with it.")


def _is_float(dtype: np.dtype) -> bool:
  """Returns whether values are floats; bfloat16 has no kind of its own."""
  return dtype.kind == "f" or dtype.name == "bfloat16"


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
    elif not _is_float(stored.dtype):
      yield f"of type {stored.dtype}: {stored.name}, expected a float"
  for name in found.unexpected:
    yield f"unexpected: {name}"
  for name in found.duplicates:
    yield f"a second time: {name}"


def _nearest(found: layout.Layout, rules: str,
             num_classes: int) -> tuple[variants.Variant, int]:
  """Returns the variant that the tensors fit best, and how many do not."""
  counts = {}
  for variant in variants.VARIANTS:
    for arch in variants.architectures(variant, rules):
      problems = _compared(found, arch, num_classes)[2]
      counts.setdefault(len(problems), variant)
  fewest = min(counts)
  return counts[fewest], fewest


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
