"""What lies in an HDF5 file itself: no links out of it, no foreign values.

An HDF5 file can name other files, whose content would then be read, and
published, as weights: by soft and external links, external storage and virtual
datasets. All of these are refused, here for every reader of HDF5.
"""

import io
import math
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import h5py
import numpy as np

# Of strings of any length, such as attributes; three bytes that the library
# does not look at follow.
_HEAP = b"GCOL\x01"
_HEAP_HEADER_BYTES = 16
_CHUNK = 1 << 20
# h5py raises any of these on damaged files.
DAMAGE = (OSError, KeyError, ValueError, RuntimeError, TypeError)
# A chunk is unpacked whole, even for one value of it; those that h5py chooses
# by itself have at most this many bytes.
_CHUNK_BYTES = 1 << 20
# Keras splits what has more than 64 KB; a damaged length would keep the
# library busy, or the memory, for as long as it says.
_ATTRIBUTE_BYTES = 1 << 20
# The values of an attribute may all be one and the same string of the heap,
# and are copied out of it at once. The largest RegNet has some 500 layers.
_ATTRIBUTE_VALUES = 1024
# Of one string: the configuration of the largest RegNet has 0.4 MB.
_STRING_BYTES = 1 << 20


def check_heaps(file: BinaryIO) -> None:
  """Raises ValueError if reading a string would never end, or be very long.

  libhdf5 1.14 walks from object to object through a heap of strings, and stays
  where it is when one that is damaged claims to have no size. All of the file
  is read once.
  """
  place, tail = 0, b""
  while True:
    file.seek(place)
    chunk = file.read(_CHUNK)
    if not chunk:
      return
    text, start = tail + chunk, place - len(tail)
    hit = text.find(_HEAP)
    while hit >= 0:
      _check_heap(file, start + hit)
      hit = text.find(_HEAP, hit + 1)
    tail = text[-(len(_HEAP) - 1):]
    place += len(chunk)


def _check_heap(file: BinaryIO, start: int) -> None:
  """Raises ValueError if the objects of one heap do not lead to its end."""
  end = file.seek(0, io.SEEK_END)
  place = start + _HEAP_HEADER_BYTES
  file.seek(place - 8)
  size, = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
  end = min(end, start + size)
  while place + 16 <= end:
    file.seek(place)
    index, size = struct.unpack("<H6xQ", file.read(16))
    step = size if index == 0 else 16 + -(-size // 8) * 8
    if step == 0 or place + step > end:
      raise ValueError(f"the strings at byte {start} are damaged")
    if index and size > _STRING_BYTES:
      raise ValueError(f"a string at byte {place} has {size} bytes")
    place += step


def member(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
  """Returns what lies at a path, following no link out of the file.

  Raises:
    KeyError: if there is nothing.
    ValueError: if something on the way is a link, or no group.
  """
  found = group
  for part in path.split("/"):
    if not isinstance(found, h5py.Group):
      raise ValueError(f"{found.name} is no group, and has no {part!r}")
    link = found.get(part, getlink=True)
    if link is None:
      raise KeyError(f"{found.name} has no {part!r}")
    if not isinstance(link, h5py.HardLink):
      raise ValueError(f"{found.name}/{part} is a link; expected the data")
    found = found[part]
  return found


def dataset(group: h5py.Group, path: str) -> h5py.Dataset:
  """Returns the dataset at a path, which has values of its own.

  Raises:
    KeyError: if there is nothing.
    ValueError: if it is something else, its values lie elsewhere, or would
      take much more memory to unpack than they have.
  """
  found = member(group, path)
  if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
    raise ValueError(f"{found.name} does not hold its own values")
  if found.shape is None:
    raise ValueError(f"{found.name} has no values")
  if found.chunks and math.prod(found.chunks) * found.dtype.itemsize > max(
      found.nbytes, _CHUNK_BYTES):
    raise ValueError(
        f"{found.name} has {found.nbytes} bytes and is packed in chunks of "
        f"{math.prod(found.chunks) * found.dtype.itemsize}")
  # The library unpacks a chunk to whatever size it has, and all filters one
  # after another. Keras packs nothing.
  if found.id.get_create_plist().get_nfilters():
    raise ValueError(f"{found.name} is packed; expected plain values. h5repack "
                     "-f NONE unpacks a file")
  return found


def names(group: h5py.Group, name: str) -> list[str] | None:
  """Returns a list of names, put together from chunks where it is split."""
  if name in group.attrs:
    chunks = [attribute(group, name)]
  else:
    chunks = []
    while f"{name}{len(chunks)}" in group.attrs:
      chunks.append(attribute(group, f"{name}{len(chunks)}"))
    if not chunks:
      return None
  return [n.decode() if isinstance(n, bytes) else str(n)
          for chunk in chunks for n in chunk]


def attribute(found: h5py.Group | h5py.Dataset, name: str) -> Any:
  """Returns an attribute as h5py has it, None if there is none.

  Raises:
    ValueError: if it has a size that none should have.
  """
  if name not in found.attrs:
    return None
  stated = found.attrs.get_id(name)
  count = math.prod(stated.shape or ())
  if count > _ATTRIBUTE_VALUES or (
      max(count, 1) * stated.dtype.itemsize > _ATTRIBUTE_BYTES):
    raise ValueError(
        f"its attribute {name} would have {count} values of "
        f"{stated.dtype.itemsize} bytes")
  return found.attrs[name]


def values(opener: Callable[[], h5py.File], name: str) -> np.ndarray:
  """Returns a dataset's values, from a file that is opened for them.

  Raises:
    ValueError: if they were never written; the library would make up zeros.
  """
  with opener() as f:
    found = f[name]
    if found.id.get_storage_size() < found.nbytes:
      raise ValueError("it was never written, or not all of it")
    return found[()]
