"""Reads what Keras 3 and tf_keras save as `.keras` and `.weights.h5`.

A `.keras` file is a zip of metadata.json, config.json and model.weights.h5; the
latter is an HDF5 file with a group per layer, "layers/conv2d_3/vars/0". Groups
are counted by class, in the order of model.layers, whatever the layers' names.
A layer's name has to be found elsewhere, therefore: Keras 3 adds it to the
group `vars` as an attribute; config.json of a `.keras` file lists the layers in
the very order in which they were counted; and of a `.weights.h5` of tf_keras
only the order is left, which is that of tf_keras.applications.regnet. There,
depths follow from where the shortcuts are.

config.json is parsed as JSON and never made into Keras objects.
"""

import dataclasses
import functools
import io
import json
import pathlib
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from hub_export import errors
from hub_export.regnet.checkpoints import hdf5
from hub_export.regnet.checkpoints import keras_h5
from hub_export.regnet.checkpoints import layout
from hub_export.regnet.checkpoints import zips

DESCRIPTION = "a .keras or .weights.h5 file of Keras 3 or tf_keras"
_WEIGHTS = "model.weights.h5"
_CONFIG = "config.json"
_MEMBERS = ("metadata.json", _CONFIG, _WEIGHTS)
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_CONFIG_BYTES = 4 << 20    # The largest RegNet's has 0.4 MB.
# The largest RegNet with three times its size for the optimizer: 7.7 GB.
_MAX_WEIGHTS_BYTES = 16 << 30
_MAX_RATIO = 100               # Weights hardly compress at all.
_CHUNK = 1 << 20
_MAX_GROUPS = 100_000
_MAX_DEPTH = 12
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
# Of the training, not of the network.
_IGNORED = re.compile(
    r"_?optimizer|_?(compile_)?metrics|_?compiled_metrics|_?loss_tracker|"
    r"_?(seed|random)_generators?")
_COUNTED = re.compile(r"(.+?)(?:_(\d{1,6}))?")
_LEAVES = {  # By class, in the order of `vars`.
    "conv2d": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}
_DAMAGE = (*hdf5.DAMAGE, *zips.DAMAGE, zlib.error)
# A block of convolutions: 1x1, 3x3, perhaps squeeze and excite, 1x1, and a
# shortcut where the next 1x1 is not the start of the next block.
_BLOCK = re.compile(r"13(ss)?1(1(?!3))?")


@dataclasses.dataclass(frozen=True)
class Layer:
  """A group of the file that has variables."""
  path: str                  # "layers/conv2d_3".
  kind: str                  # Its class in snake case, such as "conv2d".
  number: int                # Among the layers of its class in its container.
  name: str | None           # The layer's own name, where the file tells.
  tensors: tuple[layout.StoredTensor, ...]  # In the order of `vars`.

  @property
  def leaves(self) -> tuple[str, ...]:
    """What the first tensors are, where the class is known: "kernel"."""
    return _LEAVES.get(self.kind, ())

  @property
  def container(self) -> str:
    """The path of the list that the layer is in."""
    return self.path.rpartition("/")[0]


@dataclasses.dataclass(frozen=True)
class File:
  """A `.keras` or `.weights.h5` file, opened."""
  path: pathlib.Path
  config: Mapping[str, Any]             # Of the model; empty where unknown.
  opener: Callable[[], h5py.File]


def recognises(path: pathlib.Path) -> bool:
  """Returns whether a file is of one of these formats; never raises."""
  try:
    with path.open("rb") as f:
      magic = f.read(len(_HDF5_MAGIC))
      if magic.startswith(zips.MAGIC):
        try:
          return {_CONFIG, _WEIGHTS} <= set(zips.opened(f).namelist())
        except _DAMAGE:  # Such as an archive without its end.
          return zips.first_name(f) in _MEMBERS
    if magic != _HDF5_MAGIC:
      return False
    with h5py.File(path, "r") as f:
      return "layer_names" not in f.attrs and any(
          f.get(name, getlink=True) is not None for name in _CONTAINERS)
  except Exception:  # pylint: disable=broad-except
    return False     # Whatever is wrong with it, another reader says so.


def read(path: pathlib.Path) -> layout.Layout:
  """Returns the layout of a file; values are read when they are asked for.

  Raises:
    CheckpointError: if it is damaged, or no RegNet as tf_keras builds it.
  """
  found = layers(opened(path))
  if any(layer.name and keras_h5.has_layer_name(layer.name) for layer in found):
    targets = _by_name(found)
  else:
    targets = _by_order(path, found)
  stored = {t.name: t for layer in found for t in layer.tensors}
  tensors, unexpected, duplicates = layout.collect(
      stored, lambda name, _: targets.get(name))
  letter = "Y" if any("/se/" in name for name in tensors) else "X"
  return layout.Layout(
      source="keras", format="keras3", tensors=tensors, unexpected=unexpected,
      duplicates=duplicates, files=(path,),
      spelling=functools.partial(_spelling, letter=letter), may_lack_head=True)


def opened(path: pathlib.Path, verify: bool = True) -> File:
  """Returns a file of either format, ready to be read.

  Args:
    path: The file.
    verify: Whether an archive's check sums are compared, for which all of it
      is read once.

  Raises:
    CheckpointError: if it is damaged, or its archive is not to be trusted.
  """
  try:
    with path.open("rb") as f:
      if f.read(len(zips.MAGIC)) != zips.MAGIC:
        hdf5.check_heaps(f)
        return File(path, {}, functools.partial(h5py.File, path, "r"))
      archive = zips.opened(f)
      config = _config(archive)
      weights = _weights(path, archive, verify)
    hdf5.check_heaps(weights)
    return File(path, config, functools.partial(h5py.File, weights, "r"))
  except _DAMAGE as e:
    raise _damaged(path, e) from e


def layers(file: File) -> list[Layer]:
  """Returns all layers with variables, those of nested models as well.

  Raises:
    CheckpointError: if the file is damaged.
  """
  try:
    with file.opener() as f:
      budget = iter(range(_MAX_GROUPS))
      return list(_walk(f, "", file.config, file.opener, budget))
  except _DAMAGE as e:
    raise _damaged(file.path, e) from e


def block_parts(kinds: Sequence[str]) -> list[str]:
  """Returns what each convolution is: "stem", "stage1/block1/a", and so on.

  Args:
    kinds: The convolutions in the order of the network, a shortcut being the
      last of its block: "3" for a 3x3, "1" for a 1x1 without and "s" for one
      with a bias.

  Raises:
    ValueError: if they are no RegNet's.
  """
  text = "".join(kinds)
  parts, place, stage, block = ["stem"], 1, 0, 0
  while place < len(text):
    match = _BLOCK.match(text, place)
    if not match:
      break
    stage, block = (stage + 1, 1) if match[2] else (stage, block + 1)
    names = ["a", "b", *(["se/squeeze", "se/excite"] if match[1] else []), "c",
             *(["shortcut"] if match[2] else [])]
    if not stage:
      break
    parts.extend(f"stage{stage}/block{block}/{name}" for name in names)
    place = match.end()
  if text[:1] != "3" or len(parts) != len(text):
    raise ValueError(f"convolution {min(len(parts), len(text)) + 1} of "
                     f"{len(text)} is not the one that a RegNet has there")
  return parts


def conv_kind(shape: Sequence[int], has_bias: bool) -> str:
  """Returns the letter of `block_parts` for a kernel's shape."""
  size = tuple(shape[:2]) if len(shape) == 4 else ()
  return {((3, 3), False): "3", ((1, 1), False): "1",
          ((1, 1), True): "s"}.get((size, has_bias), "?")


def _by_name(found: Sequence[Layer]) -> dict[str, str]:
  """Returns tensor's name -> canonical name, by the layers' names."""
  targets = {}
  for layer in found:
    for leaf, tensor in zip(layer.leaves, layer.tensors):
      target = keras_h5.canonical(f"{layer.name}/{leaf}", tensor)
      # Only a dense layer can be the head, whatever it is called.
      if target and target.startswith("head/") == (layer.kind == "dense"):
        targets[tensor.name] = target
  return targets


def _by_order(path: pathlib.Path, found: Sequence[Layer]) -> dict[str, str]:
  """Returns tensor's name -> canonical name, by the order of the layers.

  Raises:
    CheckpointError: if it is not the order of tf_keras' RegNets.
  """
  convs = [layer for layer in found if layer.kind == "conv2d"]
  containers = [layer.container for layer in convs]
  main = max(containers, key=containers.count, default="")
  try:
    convs = _in_order(convs, main)
    norms = _in_order([layer for layer in found
                       if layer.kind == "batch_normalization"], main)
    parts = block_parts([conv_kind(layer.tensors[0].shape,
                                   len(layer.tensors) == 2) for layer in convs])
    normed = [part for part in parts if "/se/" not in part]
    if len(normed) != len(norms):
      raise ValueError(f"there are {len(normed)} convolutions without a bias, "
                       f"but {len(norms)} batch normalizations")
  except ValueError as e:
    raise errors.CheckpointError(
        f"{path} has neither names of layers nor the layers of a RegNet of "
        f"tf_keras.applications in their order ({e}). Save the model as .keras "
        "or .h5, where layers have names.") from e
  targets = {}
  for part, layer in zip(parts, convs, strict=True):
    is_se = "/se/" in part
    for leaf, tensor in zip(layer.leaves, layer.tensors):
      targets[tensor.name] = f"{part}/{leaf}" if is_se else f"{part}/conv"
  for part, layer in zip(normed, norms, strict=True):
    for leaf, tensor in zip(layer.leaves, layer.tensors):
      targets[tensor.name] = f"{part}/bn/{leaf}"
  for layer in found:
    if layer.kind == "dense":
      for leaf, tensor in zip(layer.leaves, layer.tensors):
        targets[tensor.name] = f"head/{leaf}"
  return targets


def _in_order(found: Sequence[Layer], container: str) -> list[Layer]:
  """Returns the layers of one container by their numbers, none missing."""
  ordered = sorted((layer for layer in found if layer.container == container),
                   key=lambda layer: layer.number)
  for number, layer in enumerate(ordered):
    if layer.number != number:
      raise ValueError(f"{container}/{layer.kind}_{number} is missing")
  return ordered


def _spelling(name: str, letter: str) -> str:
  return keras_h5.spelling(name, letter).removesuffix(":0")


def _walk(group: h5py.Group, path: str, config: Any,
          opener: Callable[[], h5py.File],
          budget: Iterator[int]) -> Iterator[Layer]:
  """Yields the layers of a model's group.

  Args:
    group: Of the model.
    path: Its path, "" for the root.
    config: What config.json says of the model; anything.
    opener: Opens the file again.
    budget: Runs out where a file has too many groups.
  """
  if path.count("/") > _MAX_DEPTH:
    raise ValueError(f"{path} is nested too deeply")
  for key in group:
    if next(budget, None) is None:
      raise ValueError(f"it has more than {_MAX_GROUPS} groups")
    if key == "vars" or _IGNORED.fullmatch(key):
      continue
    child, child_path = hdf5.member(group, key), f"{path}/{key}".lstrip("/")
    if not isinstance(child, h5py.Group):
      raise ValueError(f"{child.name} is not where Keras puts variables")
    if key in _CONTAINERS:
      yield from _walk(child, child_path, _configs_by_group(config), opener,
                       budget)
      continue
    inner = config.get(key) if isinstance(config, Mapping) else None
    layer = _layer(child, child_path, inner, opener)
    if layer.tensors:
      yield layer
    yield from _walk(child, child_path, inner, opener, budget)


def _layer(group: h5py.Group, path: str, config: Any,
           opener: Callable[[], h5py.File]) -> Layer:
  """Returns the layer of a group, with the variables that are its own."""
  tensors, name = [], None
  if group.get("vars", getlink=True) is not None:
    variables = hdf5.member(group, "vars")
    if not isinstance(variables, h5py.Group):
      raise ValueError(f"{variables.name} is no group")
    name = hdf5.attribute(variables, "name")
    name = name.decode() if isinstance(name, bytes) else name
    for number in range(len(variables)):
      dataset = hdf5.dataset(variables, str(number))
      tensors.append(_tensor(f"{path}/vars/{number}", dataset, opener))
  if name is None and isinstance(config, Mapping):
    name = config.get("name")
  match = _COUNTED.fullmatch(path.rpartition("/")[2])
  return Layer(path, match[1], int(match[2] or 0),
               name if isinstance(name, str) else None, tuple(tensors))


def _tensor(name: str, dataset: h5py.Dataset,
            opener: Callable[[], h5py.File]) -> layout.StoredTensor:
  read_values = functools.partial(hdf5.values, opener, dataset.name)
  # HDF5 has no bfloat16; Keras 3 writes the bits, and says so.
  if dataset.dtype == np.uint16 and (
      hdf5.attribute(dataset, "dtype") == "bfloat16"):
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    return layout.StoredTensor(name, dataset.shape, bfloat16,
                               lambda: read_values().view(bfloat16))
  return layout.StoredTensor(name, dataset.shape, dataset.dtype, read_values)


def _configs_by_group(config: Any) -> dict[str, Any]:
  """Returns group's name -> config for the layers of a model's config."""
  inner = config.get("config") if isinstance(config, Mapping) else None
  found = inner.get("layers") if isinstance(inner, Mapping) else None
  numbers, by_group = {}, {}
  for layer in found if isinstance(found, list) else ():
    if not isinstance(layer, Mapping):
      continue
    details = layer.get("config")
    name = details.get("name") if isinstance(details, Mapping) else None
    kind = _snake_case(str(layer.get("class_name")))
    number = numbers[kind] = numbers.get(kind, -1) + 1
    group = f"{kind}_{number}" if number else kind
    by_group[group] = {**layer, "name": layer.get("name", name)}
  return by_group


def _snake_case(name: str) -> str:
  """Returns "batch_normalization" for "BatchNormalization"; "conv2d"."""
  name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
  return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _config(archive: zipfile.ZipFile) -> Mapping[str, Any]:
  """Returns config.json's object.

  Raises:
    ValueError: if it is too large or no JSON object.
  """
  info = _member_info(archive, _CONFIG, _MAX_CONFIG_BYTES)
  try:
    with archive.open(info) as f:  # Its `read` might unpack much more.
      config = json.loads(f.read(info.file_size))
  except RecursionError as e:
    raise ValueError(f"{_CONFIG} is nested too deeply") from e
  if not isinstance(config, dict):
    raise ValueError(f"{_CONFIG} is no JSON object")
  return config


def _weights(path: pathlib.Path, archive: zipfile.ZipFile,
             verify: bool) -> io.BufferedIOBase:
  """Returns the HDF5 file inside as a seekable file.

  It stays where it is if it is stored as it is, as Keras does; otherwise it is
  put into a temporary file, which has no name and goes with the last reader.
  """
  info = _member_info(archive, _WEIGHTS, _MAX_WEIGHTS_BYTES)
  if info.file_size > _MAX_RATIO * max(info.compress_size, 1):
    raise ValueError(f"{_WEIGHTS} would grow from {info.compress_size} to "
                     f"{info.file_size} bytes, which weights never do")
  if info.compress_type == zipfile.ZIP_STORED:
    with path.open("rb") as f:
      start = zips.stored_start(f, info)
    weights = io.BufferedReader(_Window(path, start, info.file_size))
    crc = 0
    while verify and (chunk := weights.read(_CHUNK)):
      crc = zlib.crc32(chunk, crc)
    if verify and crc != info.CRC:
      raise ValueError(f"the check sum of {_WEIGHTS} is wrong")
    return weights
  weights = tempfile.TemporaryFile()
  with archive.open(info) as source:
    while chunk := source.read(_CHUNK):  # Never more than the stated size.
      weights.write(chunk)
  return weights


def _member_info(archive: zipfile.ZipFile, name: str,
                 max_bytes: int) -> zipfile.ZipInfo:
  """Returns the one member of that name; ValueError if it is not fit."""
  found = [info for info in archive.infolist() if info.filename == name]
  if len(found) != 1:
    raise ValueError(f"it holds {len(found)} members called {name}")
  zips.check_packing(found[0])
  if found[0].file_size > max_bytes:
    raise ValueError(f"{name} has {found[0].file_size} bytes; at most "
                     f"{max_bytes} are read")
  return found[0]


class _Window(io.RawIOBase):
  """A part of a file as a file."""

  def __init__(self, path: pathlib.Path, start: int, size: int):
    super().__init__()
    self._file = path.open("rb", buffering=0)
    self._start, self._size, self._place = start, size, 0

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}
    self._place = max(0, base[whence] + offset)
    return self._place

  def readinto(self, buffer) -> int:
    count = max(0, min(len(buffer), self._size - self._place))
    self._file.seek(self._start + self._place)
    count = self._file.readinto(memoryview(buffer)[:count])
    self._place += count
    return count

  def close(self) -> None:
    self._file.close()
    super().close()


def _damaged(path: pathlib.Path, cause: Exception) -> errors.CheckpointError:
  return errors.CheckpointError(
      f"{path} cannot be read as a .keras or .weights.h5 file of Keras "
      f"({cause}); expected a whole one. Download or save it again.")
