"""What a reader finds in a checkpoint, before anything is believed."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class StoredTensor:
  """One tensor that lies in a checkpoint; `read` fetches its values."""
  name: str                      # As the checkpoint spells it.
  shape: tuple[int, ...]         # Stated by the checkpoint, not yet checked.
  dtype: np.dtype
  read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Layout:
  """A checkpoint's tensors under their canonical names."""
  source: str                            # Whose names they are: "timm".
  format: str                            # Of the file, such as "safetensors".
  tensors: Mapping[str, StoredTensor]    # Canonical name -> tensor.
  unexpected: tuple[str, ...]            # Names that mean nothing here.
  duplicates: tuple[str, ...]            # Second claims on a canonical name.
  files: tuple[pathlib.Path, ...]        # All that the checkpoint consists of.
  spelling: Callable[[str], str]         # Canonical name -> name in the file.
  may_lack_head: bool                    # Whether headless files are published.
  metadata: Mapping[str, Any] | None = None  # What this project's demo adds.
  manifest: Mapping[str, Any] | None = None  # Of this project's own exports.
  convention: str | None = None          # How to build it, where a file tells.
  channel_order: str = "RGB"             # That the stem was trained on; where it
                                         # is "BGR", `read` gives it reversed.
  mean: tuple[float, ...] | None = None  # That the file's network takes off the
  std: tuple[float, ...] | None = None   # images, and divides by; RGB in [0, 1].
  notes: tuple[str, ...] = ()            # What the user should be told.


def collect(
    stored: Mapping[str, StoredTensor],
    canonical: Callable[[str, StoredTensor], str | None],
) -> tuple[dict[str, StoredTensor], tuple[str, ...], tuple[str, ...]]:
  """Sorts tensors into (by canonical name, unexpected, duplicates).

  Args:
    stored: The checkpoint's own name -> tensor.
    canonical: Returns a tensor's canonical name, None if it has none.
  """
  tensors, unexpected, duplicates = {}, [], []
  for name, tensor in stored.items():
    target = canonical(name, tensor)
    if target is None:
      unexpected.append(name)
    elif target in tensors:
      duplicates.append(f"{name} (as {tensors[target].name})")
    else:
      tensors[target] = tensor
  return tensors, tuple(unexpected), tuple(duplicates)
