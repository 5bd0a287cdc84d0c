"""Reads the HDF5 files of tf_keras.applications.regnet.

Layout (tf_keras/src/saving/legacy/hdf5_format.py): the attribute `layer_names`
lists groups, one per layer, whose attribute `weight_names` lists the tensors'
paths below the group. A whole-model file has all that under /model_weights, a
weights-only file at the root. Attributes over 64 KB are split into numbered
chunks. Layers are matched by the end of their names: the first part is the
model's, and the head is named from a counter.
"""

import functools
import json
import pathlib
import re
from collections.abc import Iterable

import h5py

from hub_export import errors
from hub_export.regnet.checkpoints import hdf5
from hub_export.regnet.checkpoints import layout

DESCRIPTION = "an .h5 file of tf_keras.applications.regnet"
_MAGIC = b"\x89HDF\r\n\x1a\n"
METADATA_ATTRIBUTE = "regnety_hub_demo"  # JSON; see demo.py.

_PARTS = {  # Canonical -> end of the layer's name.
    "a/conv": "conv_1x1_1", "a/bn": "conv_1x1_1_bn",
    "b/conv": "conv_3x3", "b/bn": "conv_3x3_bn",
    "c/conv": "conv_1x1_2", "c/bn": "conv_1x1_2_bn",
    "shortcut/conv": "skip_1x1", "shortcut/bn": "skip_bn",
    "se/squeeze": "squeeze_and_excite_squeeze",
    "se/excite": "squeeze_and_excite_excite",
}
_CANONICAL = {v: k for k, v in _PARTS.items()}
_BLOCK = re.compile(r".*_Stage_(\d{1,3})_([XY])Block_(\d{1,3})_(\w+)")
_STEM = re.compile(r".*_stem_(conv|bn)")


def recognises(path: pathlib.Path) -> bool:
  """Returns whether a file is HDF5, by its first bytes.

  Raises:
    OSError: if it is there and cannot be read.
  """
  if not path.is_file():
    return False
  with path.open("rb") as f:
    return f.read(len(_MAGIC)) == _MAGIC


def read(path: pathlib.Path) -> layout.Layout:
  """Returns the layout of a file; values are read when they are asked for.

  Raises:
    CheckpointError: if it is no HDF5 file of tf_keras, or a damaged one.
  """
  try:
    with path.open("rb") as raw:
      hdf5.check_heaps(raw)
    with h5py.File(path, "r") as f:
      group = f
      if f.get("model_weights", getlink=True) is not None:
        group = hdf5.member(f, "model_weights")
      stored = _stored(path, group)
      metadata = hdf5.attribute(f, METADATA_ATTRIBUTE)
      metadata = json.loads(metadata) if metadata is not None else None
  except hdf5.DAMAGE as e:
    raise errors.CheckpointError(
        f"{path} cannot be read as a tf_keras HDF5 checkpoint ({e}); expected "
        "a whole file in the layout of model.save_weights or model.save. "
        "Download or save it again.") from e
  tensors, unexpected, duplicates = layout.collect(stored, canonical)
  return layout.Layout(
      source="keras", format="keras_h5", tensors=tensors,
      unexpected=unexpected, duplicates=duplicates, files=(path,),
      spelling=functools.partial(spelling, letter=block_letter(stored)),
      may_lack_head=True, metadata=metadata)


def block_letter(names: Iterable[str]) -> str:
  """Returns "X" if a layer's name says that the network is a RegNetX."""
  found = (m[2] for name in names if (m := _BLOCK.match(name)))
  return next(found, "Y")


def has_layer_name(name: str) -> bool:
  """Returns whether a layer is called as one of tf_keras' RegNets."""
  return bool(_STEM.fullmatch(name) or _BLOCK.fullmatch(name))


def spelling(name: str, letter: str = "Y") -> str:
  """Returns what a canonical name is called in the file, "*" for the model."""
  parts = name.split("/")
  leaf = "kernel" if parts[-1] == "conv" else parts[-1]
  if parts[0] == "head":
    return f"*head_dense/{leaf}:0"
  if parts[0] == "stem":
    return f"*_stem_{parts[1]}/{leaf}:0"
  stage = int(parts[0].removeprefix("stage")) - 1
  block = int(parts[1].removeprefix("block")) - 1
  layer = _PARTS["/".join(parts[2:4])]
  return f"*_Stage_{stage}_{letter}Block_{block}_{layer}/{leaf}:0"


def canonical(name: str, tensor: layout.StoredTensor) -> str | None:
  """Returns the canonical name of "<layer>/<leaf>"."""
  layer, leaf = name.rsplit("/", 1)
  leaf = leaf.removesuffix(":0")
  suffix = "" if leaf == "kernel" else f"/{leaf}"
  if m := _STEM.fullmatch(layer):
    return f"stem/{m[1]}{suffix}" if _fits(m[1], leaf) else None
  if m := _BLOCK.fullmatch(layer):
    part = _CANONICAL.get(m[4])
    if part is None or not _fits(part, leaf):
      return None
    prefix = f"stage{int(m[1]) + 1}/block{int(m[3]) + 1}"
    if part.startswith("se/"):
      suffix = f"/{leaf}"
    return f"{prefix}/{part}{suffix}"
  # The head's name comes from a counter; it is the one dense layer.
  if leaf in ("kernel", "bias") and len(tensor.shape) == (
      2 if leaf == "kernel" else 1):
    return f"head/{leaf}"
  return None


def _fits(part: str, leaf: str) -> bool:
  """Returns whether a layer of this kind may have such a tensor."""
  if part.endswith("bn"):
    return leaf in ("gamma", "beta", "moving_mean", "moving_variance")
  return leaf == "kernel" or (leaf == "bias" and part.startswith("se/"))


def _stored(path: pathlib.Path,
            group: h5py.Group) -> dict[str, layout.StoredTensor]:
  """Returns "<layer>/<leaf>" -> tensor for all that the attributes list."""
  names = hdf5.names(group, "layer_names")
  if names is None:
    raise ValueError("it has no attribute layer_names")
  opener = functools.partial(h5py.File, path, "r")
  stored = {}
  for layer in names:
    for weight in hdf5.names(hdf5.member(group, layer), "weight_names") or ():
      dataset = hdf5.dataset(group, f"{layer}/{weight}")
      name = f"{layer}/{weight.rsplit('/', 1)[-1]}"
      if name in stored:
        raise ValueError(f"{name} is listed twice")
      stored[name] = layout.StoredTensor(
          name, dataset.shape, dataset.dtype,
          functools.partial(hdf5.values, opener, dataset.name))
  return stored
