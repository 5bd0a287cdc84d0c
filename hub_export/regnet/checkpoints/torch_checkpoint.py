"""Reads the checkpoints of timm, torchvision and pycls, whatever the container.

A torch file holds a state dict, alone or among what a training leaves: under
model_state and ema_state (pycls), state_dict and state_dict_ema (timm), model
and model_ema. A safetensors file is a state dict. Where a file holds two sets
of weights, the one is taken that its own project would take, and said so.
"""

import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from hub_export import errors
from hub_export.regnet.checkpoints import layout
from hub_export.regnet.checkpoints import safetensors_file
from hub_export.regnet.checkpoints import torch_file
from hub_export.regnet.checkpoints import torch_names
from hub_export.regnet.checkpoints import torch_pickle

# timm/models/_helpers.py, load_state_dict: in this order.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_UNKNOWN_ERROR = 100.0  # Percent; what pycls assumes where none is stored.
_SHOWN_NAMES = 6


def recognises(path: pathlib.Path) -> bool:
  """Returns whether the file is a torch or safetensors file, by content."""
  return torch_file.recognises(path) or safetensors_file.recognises(path)


def read(path: pathlib.Path, kind: str | None = None) -> layout.Layout:
  """Returns the layout of a file; values are read when they are asked for.

  Args:
    path: The file.
    kind: "torch" or "safetensors"; None to find out.

  Raises:
    CheckpointError: if it is neither a torch nor a safetensors file, a damaged
      one, or holds no RegNetX or RegNetY of timm, torchvision or pycls.
  """
  notes = ()
  if kind == "safetensors" or (
      kind is None and safetensors_file.recognises(path)):
    kind, entries = "safetensors", safetensors_file.load(path)
    rest = ()
  else:
    kind, file = "torch", torch_file.load(path)
    state, notes = _weights(path, file.content)
    entries = {
        name: layout.StoredTensor(name, tensor.shape, file.dtype(tensor),
                                  functools.partial(file.values, tensor))
        for name, tensor in state.items()
        if isinstance(name, str) and isinstance(tensor, torch_pickle.Tensor)}
    rest = tuple(torch_pickle.shown(n) for n in state if n not in entries)
    entries.pop(torch_names.AVERAGES_COUNTER, None)
  prefix = torch_names.common_prefix(entries)
  names = [name.removeprefix(prefix) for name in entries]
  if (family := torch_names.other_family(names)) is not None:
    raise errors.CheckpointError(
        f"{path} is {family}: another family than RegNetX and RegNetY, for "
        "all its name. Expected one of these two; take another checkpoint.")
  source = torch_names.source_of(names)
  if source is None:
    raise errors.CheckpointError(
        f"{path} holds no RegNet that is known here: its tensors are called "
        f"{_listed(entries)}. Expected a RegNetX or RegNetY of "
        f"{', '.join(torch_names.SOURCES)}, with the names that it has there.")
  return _layout(path, kind, source, prefix, entries, rest, notes)


def _layout(path: pathlib.Path, kind: str, source: str, prefix: str,
            entries: Mapping[str, layout.StoredTensor], rest: tuple[str, ...],
            notes: tuple[str, ...]) -> layout.Layout:
  """Returns the layout of a state dict's entries.

  Args:
    path: The file.
    kind: Its format.
    source: Whose names the entries have.
    prefix: In front of every name.
    entries: Name -> tensor, as the file has them.
    rest: Entries that are no tensors.
    notes: What the user should be told.
  """
  wanted = {
      name: tensor for name, tensor in entries.items()
      if not torch_names.is_counter(source, name.removeprefix(prefix))}
  found, unexpected, duplicates = layout.collect(
      wanted, lambda name, _: torch_names.canonical(
          source, name.removeprefix(prefix)))
  tensors = {name: torch_names.to_canonical(source, name, tensor)
             for name, tensor in found.items()}
  return layout.Layout(
      source=source, format=kind, tensors=tensors,
      unexpected=tuple(map(torch_pickle.shown, unexpected)) + rest,
      duplicates=duplicates, files=(path,),
      spelling=lambda name: torch_names.spelling(source, name, prefix),
      # timm publishes backbones (SEER); the others do not.
      may_lack_head=source == "timm", notes=notes,
      channel_order="BGR" if source == "pycls" else "RGB")


def _weights(path: pathlib.Path,
             content: Any) -> tuple[Mapping[Any, Any], tuple[str, ...]]:
  """Returns (the state dict, notes) of what a torch file says."""
  if not isinstance(content, dict):
    raise errors.CheckpointError(
        f"{path} holds a {type(content).__name__}; expected a state dict, or "
        "a training checkpoint with one. Save model.state_dict().")
  if "classy_state_dict" in content:
    raise errors.CheckpointError(
        f"{path} is an original file of SEER (it has classy_state_dict), "
        "which is not read here. timm publishes the same weights under its "
        "own names; use those, such as regnety_320.seer.")
  if "model_state" in content:
    state, notes = _pycls_weights(content)
  else:
    state, notes = _wrapped_weights(content)
  if not isinstance(state, dict) or not any(
      isinstance(v, torch_pickle.Tensor) for v in state.values()):
    raise errors.CheckpointError(
        f"{path} holds no tensors where a checkpoint has them; its entries "
        f"are {_listed(content)}. Expected a state dict, alone or under "
        f"model_state, {', '.join(_WRAPPERS)}. Save model.state_dict().")
  return state, notes


def _pycls_weights(content: Mapping[Any, Any]) -> tuple[Any, tuple[str, ...]]:
  """Returns the better of two states, as pycls' load_checkpoint does."""
  state, ema = content["model_state"], content.get("ema_state")
  if ema is None:
    return state, ()
  error, ema_error = (_percent(content.get(k)) for k in ("test_err", "ema_err"))
  takes_ema = ema_error < error
  figures = f"{ema_error:.4g} % against {error:.4g} %"
  return (ema if takes_ema else state), (
      "The file holds model and EMA weights; as pycls does, the "
      f"{'EMA' if takes_ema else 'model'} weights are taken: the EMA's error "
      f"is {'' if takes_ema else 'not '}lower ({figures}; 100 % where none "
      "is stored).",)


def _percent(value: Any) -> float:
  if type(value) in (int, float) and math.isfinite(value):
    return float(value)
  return _UNKNOWN_ERROR


def _wrapped_weights(content: Mapping[Any, Any]) -> tuple[Any, tuple[str, ...]]:
  """Returns the state dict within or beside what a training leaves."""
  present = [name for name in _WRAPPERS if isinstance(content.get(name), dict)]
  if not present:
    return content, ()
  notes = ()
  if len(present) > 1:
    notes = (
        f"The file holds weights under {' and '.join(present)}; those under "
        f"{present[0]} are taken, as timm does.",)
  return content[present[0]], notes


def _listed(names: Mapping[Any, Any]) -> str:
  """Returns the first few names, for a message."""
  shown = [torch_pickle.shown(name) for name, _ in zip(names, range(
      _SHOWN_NAMES))]
  more = len(names) - len(shown)
  return ", ".join(shown) + (f" and {more} more" if more else "") or "none"
