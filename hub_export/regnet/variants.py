"""RegNetY architectures as plain data, and what follows from them.

A variant is a row of the paper's tables ("Designing Network Design Spaces",
arXiv:2003.13678; figures from the configuration files of its code, pycls). The
sources of checkpoints build slightly different networks under the same name,
so an architecture is a variant as one source builds it.

Nothing here imports TensorFlow.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Mapping

from hub_export import errors

STEM_WIDTH = 32
STRIDE = 2                   # Of the stem and of each stage's first block.
BATCH_NORM_EPSILON = 1e-5    # In every source; Keras' default is 1e-3.
BATCH_NORM_MOMENTUM = 0.9    # Keras' sense: the weight of the old statistics.
_SE_RATIO = 0.25
_WIDTH_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class Variant:
  """One row of the paper's RegNetY table."""
  name: str         # Stem of the handle, e.g. "regnety_600mf".
  depth: int        # Blocks over all four stages.
  w_0: int          # Initial width, in channels.
  w_a: float        # Slope of the width, in channels per block.
  w_m: float        # Width multiplier, a ratio.
  group_width: int  # Channels per group in the 3x3 convolution.


@dataclasses.dataclass(frozen=True)
class Convention:
  """How one source of checkpoints builds and feeds a RegNet."""
  source: str                     # Name in handles, catalog and manifests.
  stem_padding: str               # Of the stride-2 stem: "SAME" or "VALID".
  se_base: str                    # The SE width is 0.25 of the block's "input"
                                  # or "output" width.
  mean: tuple[float, ...]         # RGB, on the scale of [0, 1].
  std: tuple[float, ...]          # RGB, on the scale of [0, 1].
  depths: Mapping[str, tuple[int, ...]]  # Where they differ from the paper's.


@dataclasses.dataclass(frozen=True)
class Stage:
  """One of the four stages; its first block has stride 2."""
  depth: int                  # Number of blocks.
  width: int                  # Output channels of every block.
  group_width: int            # Channels per group, never above `width`.
  se_widths: tuple[int, ...]  # Squeezed channels, one entry per block.


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A variant as one source builds it."""
  name: str                   # The variant's name.
  stages: tuple[Stage, ...]
  convention: Convention

  @property
  def feature_dim(self) -> int:
    """Channels after the last stage."""
    return self.stages[-1].width


# pycls, configs/dds_baselines/regnety/RegNetY-*_dds_8gpu.yaml.
VARIANTS = (
    Variant("regnety_200mf", depth=13, w_0=24, w_a=36.44, w_m=2.49,
            group_width=8),
    Variant("regnety_400mf", depth=16, w_0=48, w_a=27.89, w_m=2.09,
            group_width=8),
    Variant("regnety_600mf", depth=15, w_0=48, w_a=32.54, w_m=2.32,
            group_width=16),
    Variant("regnety_800mf", depth=14, w_0=56, w_a=38.84, w_m=2.4,
            group_width=16),
)

CONVENTIONS = (
    # tf_keras.applications.regnet divides by 255 and does nothing else; its
    # weights were trained so.
    Convention("keras", stem_padding="SAME", se_base="input",
               mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), depths={}),
    # The regnety project (GSoC 2021). Its normalisation layer holds variances
    # that are these deviations squared.
    Convention("regnety", stem_padding="VALID", se_base="output",
               mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
               depths={"regnety_400mf": (1, 3, 3, 6)}),
)


def by_name(name: str) -> Variant:
  """Returns the variant that `name` or one of its aliases stands for.

  Args:
    name: In any published spelling: "regnety_600mf", "600mf", "regnety600mf",
      "regnet_y_600mf", "RegNetY-600MF", "RegNetY006", "regnety_006".

  Raises:
    UsageError: if there is no such variant; names the nearest ones.
  """
  table = {alias: v for v in VARIANTS for alias in _aliases(v)}
  key = _squash(name)
  if key in table:
    return table[key]
  near = difflib.get_close_matches(key, table, n=3, cutoff=0.5)
  names = list(dict.fromkeys(table[k].name for k in near))
  names = names or [v.name for v in VARIANTS]
  raise errors.UsageError(
      f"unknown variant {name!r}; nearest: {', '.join(names)}. Expected one "
      f"of {', '.join(v.name for v in VARIANTS)}, or an alias such as 600mf "
      "or RegNetY006")


def compact_name(name: str) -> str:
  """Returns "regnety600mf" for "regnety_600mf", as module names have it."""
  return name.replace("_", "")


def convention(source: str) -> Convention:
  """Returns the convention of a source; KeyError if there is none."""
  return {c.source: c for c in CONVENTIONS}[source]


def architecture(variant: Variant, source: str) -> Architecture:
  """Returns the network that `source` builds under the variant's name."""
  rules = convention(source)
  widths, depths = _stages(variant)
  depths = rules.depths.get(variant.name, depths)
  stages = []
  width_in = STEM_WIDTH
  for width, depth in zip(widths, depths, strict=True):
    inputs = [width_in] + [width] * (depth - 1)
    base = inputs if rules.se_base == "input" else [width] * depth
    stages.append(Stage(
        depth=depth, width=width,
        group_width=min(variant.group_width, width),
        se_widths=tuple(int(_SE_RATIO * w) for w in base)))
    width_in = width
  return Architecture(variant.name, tuple(stages), rules)


def tensor_shapes(arch: Architecture,
                  num_classes: int) -> dict[str, tuple[int, ...]]:
  """Returns canonical name -> shape for every tensor of a network.

  Kernels are HWIO, where a grouped kernel's I counts one group's channels.

  Args:
    arch: The architecture.
    num_classes: Of the head; 0 leaves the head out.
  """
  shapes = {}

  def conv_bn(prefix: str, conv: str, bn: str, size: int, c_in: int,
              c_out: int) -> None:
    shapes[f"{prefix}/{conv}"] = (size, size, c_in, c_out)
    for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
      shapes[f"{prefix}/{bn}/{leaf}"] = (c_out,)

  conv_bn("stem", "conv", "bn", 3, 3, STEM_WIDTH)
  for block in blocks(arch):
    name, width = block.name, block.width
    conv_bn(f"{name}/a", "conv", "bn", 1, block.width_in, width)
    conv_bn(f"{name}/b", "conv", "bn", 3, block.group_width, width)
    for part, c_in, c_out in (("squeeze", width, block.se_width),
                              ("excite", block.se_width, width)):
      shapes[f"{name}/se/{part}/kernel"] = (1, 1, c_in, c_out)
      shapes[f"{name}/se/{part}/bias"] = (c_out,)
    conv_bn(f"{name}/c", "conv", "bn", 1, width, width)
    if block.stride != 1:
      conv_bn(f"{name}/shortcut", "conv", "bn", 1, block.width_in, width)
  if num_classes:
    shapes["head/kernel"] = (arch.feature_dim, num_classes)
    shapes["head/bias"] = (num_classes,)
  return shapes


@dataclasses.dataclass(frozen=True)
class Block:
  """One block, with its place in the network."""
  name: str         # Canonical prefix, such as "stage1/block1".
  stage: int        # From 1.
  index: int        # Within the stage, from 1.
  stride: int
  width_in: int
  width: int
  group_width: int
  se_width: int


def blocks(arch: Architecture) -> Iterator[Block]:
  """Yields the blocks from the stem to the head."""
  width_in = STEM_WIDTH
  for s, stage in enumerate(arch.stages, 1):
    for b, se_width in enumerate(stage.se_widths, 1):
      yield Block(f"stage{s}/block{b}", s, b, STRIDE if b == 1 else 1,
                  width_in, stage.width, stage.group_width, se_width)
      width_in = stage.width


def is_statistic(name: str) -> bool:
  """Returns whether a canonical name is a moving statistic, not trained."""
  return name.endswith(("/moving_mean", "/moving_variance"))


def parameter_counts(arch: Architecture, num_classes: int) -> tuple[int, int]:
  """Returns (trainable parameters, the same with the moving statistics)."""
  sizes = {n: math.prod(s) for n, s in tensor_shapes(arch, num_classes).items()}
  return (sum(size for n, size in sizes.items() if not is_statistic(n)),
          sum(sizes.values()))


def multiply_adds(arch: Architecture, num_classes: int, size_px: int) -> int:
  """Returns the multiply-adds for one square image.

  Counted as pycls does (its models/blocks.py): convolutions and the dense
  head with their biases; batch norm and activations count nothing.
  """
  size = _reduced(size_px, arch.convention.stem_padding)
  total = size ** 2 * 3 * 3 * 3 * STEM_WIDTH
  for block in blocks(arch):
    total += size ** 2 * block.width_in * block.width
    if block.stride != 1:
      size = _reduced(size, "SAME")
      total += size ** 2 * block.width_in * block.width
    total += size ** 2 * block.width * (9 * block.group_width + block.width)
    total += 2 * block.width * block.se_width + block.width + block.se_width
  return total + (arch.feature_dim + 1) * num_classes


def _reduced(size: int, padding: str) -> int:
  """Returns the size after a 3x3 convolution of stride 2."""
  return math.ceil((size - 2 if padding == "VALID" else size) / STRIDE)


def _stages(variant: Variant) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns the stages' (widths, depths): equations 2 to 4 of the paper."""
  widths = []
  for j in range(variant.depth):
    u_j = variant.w_0 + variant.w_a * j
    s_j = round(math.log(u_j / variant.w_0) / math.log(variant.w_m))
    width = variant.w_0 * variant.w_m ** s_j
    widths.append(round(width / _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE)
  unique = sorted(set(widths))
  depths = tuple(widths.count(w) for w in unique)
  # Each width has to be a whole number of groups; Python rounds half to even,
  # as pycls does (torchvision rounds up and gets other widths).
  group = variant.group_width
  return tuple(max(group, round(w / group) * group) for w in unique), depths


def _aliases(variant: Variant) -> list[str]:
  """Returns all squashed spellings of a variant's name."""
  size = variant.name.removeprefix("regnety_")    # 600mf
  keras = f"{int(size.removesuffix('mf')) // 100:03d}"  # 006
  return [size, f"regnety{size}", f"regnety{keras}"]


def _squash(name: str) -> str:
  return re.sub(r"[\s_.-]", "", name).lower()
