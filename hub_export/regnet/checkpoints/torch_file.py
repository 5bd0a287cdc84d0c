"""Reads torch files (.pth, .pt, .pyth, .bin) without torch.

Two containers (torch/serialization.py). Since torch 1.6 a zip archive:
<root>/data.pkl, a storage's values in <root>/data/<key>, the byte order in
<root>/byteorder. Before that a stream: four pickles (a magic number, the
protocol, the machine, the object), a pickled list of storage keys, then for
each of these an int64 count and the values, little-endian.

The pickles are read by torch_pickle, which runs nothing. What a tensor says is
held against the file before any value is read, and values are read one tensor
at a time.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from hub_export import errors
from hub_export.regnet.checkpoints import torch_pickle
from hub_export.regnet.checkpoints import zips

_STREAM_MAGIC = 0x1950a86a20f9469cfc6c
_STREAM_MAGICS = (  # As pickles of protocol 2 and up, and 0 and 1, have it.
    _STREAM_MAGIC.to_bytes(10, "little"), str(_STREAM_MAGIC).encode())
_STREAM_PROTOCOL = 1001


@dataclasses.dataclass(frozen=True)
class TorchFile:
  """What a torch file says, and where in it the values lie."""
  path: pathlib.Path
  content: Any                  # Plain containers, Tensor, Inert.
  byte_order: str               # "<" or ">".
  starts: Mapping[str, int]     # Storage key -> where its values start.

  def dtype(self, tensor: torch_pickle.Tensor) -> np.dtype:
    """Returns the type that `values` have; bfloat16 comes out as float32."""
    if tensor.dtype == "bfloat16":
      return np.dtype(np.float32)
    return np.dtype(tensor.dtype)

  def values(self, tensor: torch_pickle.Tensor) -> np.ndarray:
    """Returns a tensor's values, in C order and a copy of their own.

    Raises:
      CheckpointError: if the file is shorter than it was, or the tensor (a
        small one that is repeated) has more values than its file.
    """
    item = torch_pickle.ITEM_BYTES[tensor.dtype]
    storage = tensor.storage
    wanted = math.prod(tensor.shape) * item
    if wanted > self.path.stat().st_size:
      raise _damaged(self.path, f"a tensor of sizes {list(tensor.shape)} "
                     "repeats its values until it is larger than the file")
    start = (self.starts[storage.key] + tensor.offset * item +
             storage.start * torch_pickle.ITEM_BYTES[storage.dtype])
    try:
      with self.path.open("rb") as f:
        f.seek(start)
        data = f.read(tensor.span * item)
    except OSError as e:
      raise _damaged(self.path, f"it cannot be read: {e.strerror}") from e
    if len(data) != tensor.span * item:
      raise _damaged(self.path, "it has become shorter")
    stored = "u2" if tensor.dtype == "bfloat16" else tensor.dtype
    flat = np.frombuffer(data, np.dtype(stored).newbyteorder(self.byte_order))
    if not flat.size:
      return np.zeros(tensor.shape, self.dtype(tensor))
    view = np.lib.stride_tricks.as_strided(
        flat, tensor.shape, [s * item for s in tensor.strides])
    if tensor.dtype == "bfloat16":  # The upper half of a float32.
      return (view.astype(np.uint32, order="C") << 16).view(np.float32)
    return view.astype(self.dtype(tensor), order="C")


def recognises(path: pathlib.Path) -> bool:
  """Returns whether the file is a torch file, by its first bytes or members.

  So is an archive without its end, or another damaged one, that starts as
  torch's do.
  """
  try:
    with path.open("rb") as f:
      head = f.read(64)
      if head.startswith(zips.MAGIC):
        try:
          return any(map(_is_pickle, zips.opened(f).namelist()))
        except zips.DAMAGE:
          return _is_pickle(zips.first_name(f))
  except OSError:
    return False
  return any(magic in head[:32] for magic in _STREAM_MAGICS)


def load(path: pathlib.Path) -> TorchFile:
  """Returns what a torch file says; values are read when they are asked for.

  Raises:
    CheckpointError: if it is no torch file, a damaged one, or one that asks
      for more than tensors in plain containers.
  """
  try:
    with path.open("rb") as f:
      if f.read(len(zips.MAGIC)) == zips.MAGIC:
        return _load_zip(path, f)
      f.seek(0)
      return _load_stream(path, f)
  except errors.CheckpointError as e:
    if str(e).startswith(str(path)):
      raise
    raise _damaged(path, str(e)) from e
  except (OSError, *zips.DAMAGE) as e:
    raise _damaged(path, torch_pickle.shown(e)) from e


def _damaged(path: pathlib.Path, what: str) -> errors.CheckpointError:
  return errors.CheckpointError(
      f"{path} cannot be read as a torch checkpoint: {what}. Expected a state "
      "dict as torch.save(model.state_dict(), path) writes it, alone or in a "
      "training checkpoint. Download it again, or load and save it so with "
      "torch, if its source is trusted.")


def _is_pickle(name: str) -> bool:
  """Returns whether a member is "<root>/data.pkl"."""
  return name.count("/") == 1 and name.endswith("/data.pkl")


def _load_zip(path: pathlib.Path, file: BinaryIO) -> TorchFile:
  """Returns the content of a zip container."""
  infos = zips.opened(file).infolist()
  members = {info.filename: info for info in infos}
  if len(members) != len(infos):
    raise errors.CheckpointError("it has two members of one name")
  for name in members:
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
      raise errors.CheckpointError(
          f"its member {torch_pickle.shown(name)!r} points out of the archive")
  pickles = [name for name in members if _is_pickle(name)]
  if len(pickles) != 1:
    raise errors.CheckpointError(
        f"it has {len(pickles)} members <root>/data.pkl; expected one")
  root = pickles[0].removesuffix("data.pkl")
  if any(name.startswith(f"{root}code/") for name in members):
    raise errors.CheckpointError("it is a TorchScript program, not weights")

  def member(name: str) -> tuple[int, int]:
    if name not in members:
      raise errors.CheckpointError(
          f"it has no member {torch_pickle.shown(name)!r}")
    return zips.stored_start(file, members[name]), members[name].file_size

  start, length = member(pickles[0])
  if length > torch_pickle.MAX_BYTES:
    raise errors.CheckpointError(
        f"its pickle has {length} bytes; expected no more than "
        f"{torch_pickle.MAX_BYTES}")
  file.seek(start)
  content, storages = torch_pickle.load(file)
  if file.tell() > start + length:
    raise errors.CheckpointError("its pickle goes beyond its member")
  order = "<"
  if f"{root}byteorder" in members:
    start, length = member(f"{root}byteorder")
    file.seek(start)
    word = file.read(min(length, 16))
    if word not in (b"little", b"big"):
      raise errors.CheckpointError(
          f"its byte order is {word!r}; expected little or big")
    order = ">" if word == b"big" else "<"
  starts = {}
  for key, storage in storages.items():
    starts[key], length = member(f"{root}data/{key}")
    if length != storage.whole_bytes:
      raise errors.CheckpointError(
          f"storage {torch_pickle.shown(key)!r} should have "
          f"{storage.whole_bytes} bytes, but its member has {length}")
  return TorchFile(path, content, order, starts)


def _load_stream(path: pathlib.Path, file: BinaryIO) -> TorchFile:
  """Returns the content of the container before torch 1.6."""
  file_bytes = path.stat().st_size
  if torch_pickle.load(file)[0] != _STREAM_MAGIC:
    raise errors.CheckpointError("it does not start with torch's magic number")
  protocol = torch_pickle.load(file)[0]
  if protocol != _STREAM_PROTOCOL:
    raise errors.CheckpointError(
        f"its protocol is {torch_pickle.shown(protocol)}; expected "
        f"{_STREAM_PROTOCOL}")
  torch_pickle.load(file)  # About the machine; the values are little-endian.
  content, storages = torch_pickle.load(file)
  keys, _ = torch_pickle.load(file)
  if (type(keys) is not list or not all(type(k) is str for k in keys) or
      len(set(keys)) != len(keys) or set(keys) != set(storages)):
    raise errors.CheckpointError(
        "the storages that it lists are not those of its tensors")
  starts = {}
  for key in keys:
    count, start = file.read(8), file.tell()
    wanted = storages[key].count
    if len(count) != 8 or start + storages[key].whole_bytes > file_bytes:
      raise errors.CheckpointError(
          f"it ends before storage {torch_pickle.shown(key)!r} does")
    if int.from_bytes(count, "little") != wanted:
      raise errors.CheckpointError(
          f"storage {torch_pickle.shown(key)!r} should have {wanted} values, "
          f"but says {int.from_bytes(count, 'little')}")
    starts[key] = start
    file.seek(start + storages[key].whole_bytes)
  return TorchFile(path, content, "<", starts)
