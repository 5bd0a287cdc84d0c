"""The tensors of timm's, torchvision's and pycls' state dicts, by name.

All three are torch modules that build the same network and call its parts
differently (read off models built with timm 1.0.31, torchvision 0.20.1 and the
pycls snapshot). Kernels are stored OIHW and dense ones (out, in). pycls feeds
images in BGR order, so its stem expects them so; timm's copies of the pycls
weights have timm's names and an RGB stem.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping

import numpy as np

from hub_export.regnet.checkpoints import layout

_LEAVES = {  # Of torch.nn.BatchNorm2d.
    "gamma": "weight", "beta": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var"}


@dataclasses.dataclass(frozen=True)
class _Naming:
  """What one source calls the parts of a network."""
  outside: Mapping[str, str]   # Canonical part -> theirs, outside the blocks.
  block: str                   # Prefix of a block; a template.
  inside: Mapping[str, str]    # Canonical part -> theirs, within a block.

  def block_pattern(self) -> re.Pattern[str]:
    """Returns what matches (stage, block, part) of names in blocks."""
    numbers = {"{s}": "(?P<s>[1-9][0-9]?)", "{b}": "(?P<b>[1-9][0-9]?)",
               "{i}": "(?P<i>0|[1-9][0-9]?)"}
    pattern = re.escape(self.block)
    for field, number in numbers.items():
      pattern = pattern.replace(re.escape(field), number, 1)
      pattern = pattern.replace(re.escape(field), "(?P=s)")
    return re.compile(pattern + "(?P<rest>.+)", re.ASCII)


_NAMINGS = {
    "timm": _Naming(
        {"stem/conv": "stem.conv", "stem/bn": "stem.bn", "head": "head.fc"},
        "s{s}.b{b}.",
        {"a/conv": "conv1.conv", "a/bn": "conv1.bn",
         "b/conv": "conv2.conv", "b/bn": "conv2.bn",
         "se/squeeze": "se.fc1", "se/excite": "se.fc2",
         "c/conv": "conv3.conv", "c/bn": "conv3.bn",
         "shortcut/conv": "downsample.conv", "shortcut/bn": "downsample.bn"}),
    "torchvision": _Naming(
        {"stem/conv": "stem.0", "stem/bn": "stem.1", "head": "fc"},
        "trunk_output.block{s}.block{s}-{i}.",
        {"a/conv": "f.a.0", "a/bn": "f.a.1",
         "b/conv": "f.b.0", "b/bn": "f.b.1",
         "se/squeeze": "f.se.fc1", "se/excite": "f.se.fc2",
         "c/conv": "f.c.0", "c/bn": "f.c.1",
         "shortcut/conv": "proj.0", "shortcut/bn": "proj.1"}),
    "pycls": _Naming(
        {"stem/conv": "stem.conv", "stem/bn": "stem.bn", "head": "head.fc"},
        "s{s}.b{b}.",
        {"a/conv": "f.a", "a/bn": "f.a_bn", "b/conv": "f.b", "b/bn": "f.b_bn",
         "se/squeeze": "f.se.f_ex.0", "se/excite": "f.se.f_ex.2",
         "c/conv": "f.c", "c/bn": "f.c_bn",
         "shortcut/conv": "proj", "shortcut/bn": "bn"}),
}
SOURCES = tuple(_NAMINGS)
_BGR_SOURCES = ("pycls",)
_COUNTER = ".num_batches_tracked"  # Of training steps; no network needs it.
# Of torch.optim.swa_utils.AveragedModel, beside "module.": torchvision's EMA.
AVERAGES_COUNTER = "n_averaged"
# What a wrapper of the model puts in front of every name: DataParallel,
# torch.compile, and training modules that hold the model.
_PREFIXES = ("module.", "_orig_mod.", "model.")


def spelling(source: str, name: str, prefix: str = "") -> str:
  """Returns what a canonical name is called in a state dict.

  Args:
    source: One of SOURCES.
    name: Canonical, such as "stage1/block1/a/conv".
    prefix: What the state dict has in front of every name.
  """
  naming = _NAMINGS[source]
  parts = name.split("/")
  if parts[0] in ("stem", "head"):
    part, leaf = _split(parts)
    return f"{prefix}{naming.outside[part]}.{leaf}"
  stage = int(parts[0].removeprefix("stage"))
  block = int(parts[1].removeprefix("block"))
  part, leaf = _split(parts[2:])
  theirs = naming.block.format(s=stage, b=block, i=block - 1)
  return f"{prefix}{theirs}{naming.inside[part]}.{leaf}"


def _split(parts: list[str]) -> tuple[str, str]:
  """Returns (canonical part, torch's leaf)."""
  if parts[-1] == "conv":
    return "/".join(parts), "weight"
  leaf = {"kernel": "weight", "bias": "bias"}.get(parts[-1]) or (
      _LEAVES[parts[-1]])
  return "/".join(parts[:-1]), leaf


def canonical(source: str, name: str) -> str | None:
  """Returns the canonical name of a state dict's entry, None if it has none.

  Args:
    source: One of SOURCES.
    name: Without a common prefix.
  """
  naming = _NAMINGS[source]
  if m := naming.block_pattern().fullmatch(name):
    numbers = m.groupdict()
    block = numbers.get("b") or str(int(numbers["i"]) + 1)
    prefix, table = f"stage{numbers['s']}/block{block}/", naming.inside
    name = numbers["rest"]
  else:
    prefix, table = "", naming.outside
  theirs, _, leaf = name.rpartition(".")
  for part, own in table.items():
    if own == theirs:
      ours = _leaf(part, leaf)
      return None if ours is None else f"{prefix}{part}{ours}"
  return None


def _leaf(part: str, leaf: str) -> str | None:
  """Returns the end of the canonical name of a part's tensor."""
  if part.endswith("bn"):
    return {theirs: f"/{ours}" for ours, theirs in _LEAVES.items()}.get(leaf)
  if part.endswith("conv"):
    return {"weight": ""}.get(leaf)
  return {"weight": "/kernel", "bias": "/bias"}.get(leaf)


def is_counter(source: str, name: str) -> bool:
  """Returns whether an entry is a batch norm's num_batches_tracked."""
  bn = name.removesuffix(_COUNTER)
  return bn != name and canonical(source, f"{bn}.running_mean") is not None


def common_prefix(names: Collection[str]) -> str:
  """Returns what wrappers of the model have put in front of every name."""
  prefix = ""
  while names:
    found = next((p for p in _PREFIXES
                  if all(n.startswith(prefix + p) for n in names)), None)
    if found is None:
      break
    prefix += found
  return prefix


def source_of(names: Collection[str]) -> str | None:
  """Returns whose names these are, None if no source's.

  Blocks decide; stem and head have the same names in timm and pycls.

  Args:
    names: Without a common prefix.
  """
  counts = {
      source: sum((canonical(source, name) or "").startswith("stage")
                  for name in names) for source in SOURCES}
  best = max(counts, key=counts.__getitem__)
  return best if counts[best] else None


def other_family(names: Collection[str]) -> str | None:
  """Returns what a model of timm is that has RegNet's name only, or None.

  Args:
    names: Without a common prefix.
  """
  names = set(names)
  blocks = {n for n in names if re.match(r"s\d+\.b\d+\.", n)}
  if not blocks:
    return None
  if any(".norm1." in n for n in blocks):
    return ("a RegNetV of timm (its blocks have norm1 in front of conv1), a "
            "network with pre-activation")
  if any(n.startswith("final_conv.") for n in names):
    return ("a RegNetZ of timm (it has final_conv after the last stage), a "
            "network of inverted bottlenecks")
  if source_of(names) != "timm":
    return None
  if not any(".downsample." in n for n in blocks):
    return ("a RegNetZ of timm (no block has a downsample shortcut), a "
            "network of inverted bottlenecks")
  if not any(n.endswith((".running_mean", ".running_var")) for n in names):
    return ("a network of timm with group norm, as regnety_040_sgn (its "
            "norms have no running_mean)")
  return None


def to_canonical(source: str, name: str,
                 stored: layout.StoredTensor) -> layout.StoredTensor:
  """Returns a tensor whose values come out in canonical layout.

  Args:
    source: One of SOURCES.
    name: Its canonical name.
    stored: As the state dict has it: OIHW, or (out, in) for a dense kernel.
      With another rank than that it is left as it is, a misfit.
  """
  if name.endswith(("/conv", "/kernel")):
    # The input axis of a grouped kernel counts one group's channels here and
    # there, and the groups lie in the same order along the output axis.
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(stored.shape))
    if axes is None or (len(axes) == 2) != (name == "head/kernel"):
      return stored
    flips = source in _BGR_SOURCES and name == "stem/conv"

    def read() -> np.ndarray:
      values = stored.read().transpose(axes)
      return values[:, :, ::-1, :] if flips else values

    return dataclasses.replace(
        stored, shape=tuple(stored.shape[a] for a in axes), read=read)
  return stored
