"""What lies in an HDF5 file itself: no links out of it, no foreign values.

An HDF5 file can name other files, whose content would then be read, and
published, as weights: by soft and external links, external storage and virtual
datasets. All of these are refused, here for every reader of HDF5.
"""

import math
from collections.abc import Callable

import h5py
import numpy as np

# h5py raises any of these on damaged files.
DAMAGE = (OSError, KeyError, ValueError, RuntimeError, TypeError)
# A chunk is unpacked whole, even for one value of it; those that h5py chooses
# by itself have at most this many bytes.
_CHUNK_BYTES = 1 << 20
# Keras splits what has more than 64 KB; a damaged length would keep the
# library busy, or the memory, for as long as it says.
_ATTRIBUTE_BYTES = 1 << 20


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
  return found


def names(group: h5py.Group, attribute: str) -> list[str] | None:
  """Returns a list of names, put together from chunks where it is split."""
  if attribute in group.attrs:
    chunks = [_value(group, attribute)]
  else:
    chunks = []
    while f"{attribute}{len(chunks)}" in group.attrs:
      chunks.append(_value(group, f"{attribute}{len(chunks)}"))
    if not chunks:
      return None
  return [n.decode() if isinstance(n, bytes) else str(n)
          for chunk in chunks for n in chunk]


def _value(group: h5py.Group, attribute: str) -> np.ndarray:
  """Returns an attribute, if it has a size that one may have."""
  stated = group.attrs.get_id(attribute)
  count = math.prod(stated.shape or ())
  if max(count, 1) * stated.dtype.itemsize > _ATTRIBUTE_BYTES:
    raise ValueError(
        f"its attribute {attribute} would have {count} values of "
        f"{stated.dtype.itemsize} bytes")
  return group.attrs[attribute]


def values(opener: Callable[[], h5py.File], name: str) -> np.ndarray:
  """Returns a dataset's values, from a file that is opened for them."""
  with opener() as f:
    return f[name][()]
