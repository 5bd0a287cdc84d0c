"""Reads safetensors files.

The safetensors library maps the file and checks its header: JSON that names
each tensor's type, shape and place, without gaps or overlaps. The entry
`__metadata__` of the header is no tensor.
"""

import functools
import pathlib

# Gives NumPy the type "bfloat16", by whose name the library asks for it.
import ml_dtypes
import numpy as np
import safetensors

from hub_export import errors
from hub_export.regnet.checkpoints import layout

_LENGTH_BYTES = 8
# Of the deepest variant it has 70 KB; the library would take 100 MB.
_MAX_HEADER_BYTES = 8 << 20

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16",
    "BF16": "float32",  # As which it is handed out, exactly.
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool",
}


def recognises(path: pathlib.Path) -> bool:
  """Returns whether the file starts with a header of safetensors.

  The header may be cut off: who downloaded half of a file is to be told so.
  """
  try:
    length = _header_bytes(path)
    with path.open("rb") as f:
      start = f.read(_LENGTH_BYTES + 1)
  except OSError:
    return False
  return (start.endswith(b"{") and
          2 <= length <= max(path.stat().st_size - _LENGTH_BYTES,
                             _MAX_HEADER_BYTES))


def load(path: pathlib.Path) -> dict[str, layout.StoredTensor]:
  """Returns name -> tensor; values are read when they are asked for.

  Raises:
    CheckpointError: if it is no safetensors file or a damaged one, or has a
      type that NumPy lacks.
  """
  stored = {}
  try:
    if _header_bytes(path) > _MAX_HEADER_BYTES:
      raise ValueError(f"its header would have {_header_bytes(path)} bytes")
    with safetensors.safe_open(path, framework="numpy") as f:
      for name in f.keys():
        entry = f.get_slice(name)
        dtype = _DTYPES.get(entry.get_dtype())
        if dtype is None:
          raise ValueError(f"{_shown(name)} is of type {entry.get_dtype()}")
        stored[name] = layout.StoredTensor(
            name, tuple(entry.get_shape()), np.dtype(dtype),
            functools.partial(_read, path, name))
  except (safetensors.SafetensorError, OSError, ValueError) as e:
    raise _damaged(path, e) from e
  return stored


def _read(path: pathlib.Path, name: str) -> np.ndarray:
  """Returns a tensor's values."""
  try:
    with safetensors.safe_open(path, framework="numpy") as f:
      values = f.get_tensor(name)
  except (safetensors.SafetensorError, OSError, ValueError, TypeError) as e:
    raise _damaged(path, e) from e
  if values.dtype == ml_dtypes.bfloat16:
    return values.astype(np.float32)
  return values


def _header_bytes(path: pathlib.Path) -> int:
  """Returns the length that the file states for its header."""
  with path.open("rb") as f:
    return int.from_bytes(f.read(_LENGTH_BYTES), "little")


def _shown(name: str) -> str:
  return "".join(c if c.isprintable() else "?" for c in name[:120])


def _damaged(path: pathlib.Path, e: Exception) -> errors.CheckpointError:
  return errors.CheckpointError(
      f"{path} cannot be read as a safetensors checkpoint: "
      f"{_shown(str(e))}. Expected a whole file as safetensors' save_file "
      "writes it, of type F16, BF16, F32 or F64. Download it again.")
