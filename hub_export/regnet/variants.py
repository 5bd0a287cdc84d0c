"""RegNetX and RegNetY architectures as plain data, and what follows from them.

A variant is a row of the paper's tables ("Designing Network Design Spaces",
arXiv:2003.13678). The sources of checkpoints build slightly different networks
under the same name, so an architecture is a variant as one convention builds it.

Nothing here imports TensorFlow.
"""

import dataclasses
import difflib
import fnmatch
import math
import re
from collections.abc import Iterator, Mapping

from hub_export import errors

STEM_WIDTH = 32
STRIDE = 2                   # Of the stem and of each stage's first block.
BATCH_NORM_EPSILON = 1e-5    # In every source; Keras' default is 1e-3.
BATCH_NORM_MOMENTUM = 0.9    # Keras' sense: the weight of the old statistics.
ALL = "all"                  # Stands for every variant in `matching`.
_SE_RATIO = 0.25
_WIDTH_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class Variant:
  """One row of the paper's tables, or of what followed it."""
  name: str         # Stem of the handle, e.g. "regnety_600mf".
  depth: int        # Blocks over all four stages.
  w_0: int          # Initial width, in channels.
  w_a: float        # Slope of the width, in channels per block.
  w_m: float        # Width multiplier, a ratio.
  group_width: int  # Channels per group in the 3x3 convolution.

  @property
  def has_se(self) -> bool:
    """Whether blocks have squeeze-and-excitation; RegNetX' have none."""
    return not self.name.startswith("regnetx_")


@dataclasses.dataclass(frozen=True)
class Convention:
  """How the programs that trained RegNets build one."""
  name: str                       # As manifests and --convention have it.
  stem_padding: str               # Of the stride-2 stem: "SAME", "VALID" or
                                  # "SYMMETRIC", one pixel on every side.
  padding: str                    # Of the other 3x3 convolutions; only where
                                  # the stride is 2 does it matter.
  se_base: str                    # The SE width is 0.25 of the block's "input"
                                  # or "output" width.
  se_rounding: str                # "down" or "nearest".
  rounded_up: tuple[str, ...]     # Variants of which a second network exists,
                                  # with torchvision's widths; see `_divisible`.
  depths: Mapping[str, tuple[int, ...]]  # Where they differ from the paper's.


@dataclasses.dataclass(frozen=True)
class Stage:
  """One of the four stages; its first block has stride 2."""
  depth: int                  # Number of blocks.
  width: int                  # Output channels of every block.
  group_width: int            # Channels per group, never above `width`.
  se_widths: tuple[int, ...]  # Squeezed channels, one entry per block; 0 in a
                              # RegNetX, which squeezes nothing.


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A variant as one convention builds it."""
  name: str                   # The variant's name.
  stages: tuple[Stage, ...]
  convention: Convention

  @property
  def feature_dim(self) -> int:
    """Channels after the last stage."""
    return self.stages[-1].width


# Up to 32GF: pycls, configs/dds_baselines/*/RegNet*_dds_8gpu.yaml. The three
# larger ones: timm, timm/models/regnet.py (128GF in torchvision as well).
VARIANTS = (
    Variant("regnetx_200mf", depth=13, w_0=24, w_a=36.44, w_m=2.49,
            group_width=8),
    Variant("regnetx_400mf", depth=22, w_0=24, w_a=24.48, w_m=2.54,
            group_width=16),
    Variant("regnetx_600mf", depth=16, w_0=48, w_a=36.97, w_m=2.24,
            group_width=24),
    Variant("regnetx_800mf", depth=16, w_0=56, w_a=35.73, w_m=2.28,
            group_width=16),
    Variant("regnetx_1.6gf", depth=18, w_0=80, w_a=34.01, w_m=2.25,
            group_width=24),
    Variant("regnetx_3.2gf", depth=25, w_0=88, w_a=26.31, w_m=2.25,
            group_width=48),
    Variant("regnetx_4.0gf", depth=23, w_0=96, w_a=38.65, w_m=2.43,
            group_width=40),
    Variant("regnetx_6.4gf", depth=17, w_0=184, w_a=60.83, w_m=2.07,
            group_width=56),
    Variant("regnetx_8.0gf", depth=23, w_0=80, w_a=49.56, w_m=2.88,
            group_width=120),
    Variant("regnetx_12gf", depth=19, w_0=168, w_a=73.36, w_m=2.37,
            group_width=112),
    Variant("regnetx_16gf", depth=22, w_0=216, w_a=55.59, w_m=2.1,
            group_width=128),
    Variant("regnetx_32gf", depth=23, w_0=320, w_a=69.86, w_m=2.0,
            group_width=168),
    Variant("regnety_200mf", depth=13, w_0=24, w_a=36.44, w_m=2.49,
            group_width=8),
    Variant("regnety_400mf", depth=16, w_0=48, w_a=27.89, w_m=2.09,
            group_width=8),
    Variant("regnety_600mf", depth=15, w_0=48, w_a=32.54, w_m=2.32,
            group_width=16),
    Variant("regnety_800mf", depth=14, w_0=56, w_a=38.84, w_m=2.4,
            group_width=16),
    Variant("regnety_1.6gf", depth=27, w_0=48, w_a=20.71, w_m=2.65,
            group_width=24),
    Variant("regnety_3.2gf", depth=21, w_0=80, w_a=42.63, w_m=2.66,
            group_width=24),
    Variant("regnety_4.0gf", depth=22, w_0=96, w_a=31.41, w_m=2.24,
            group_width=64),
    Variant("regnety_6.4gf", depth=25, w_0=112, w_a=33.22, w_m=2.27,
            group_width=72),
    Variant("regnety_8.0gf", depth=17, w_0=192, w_a=76.82, w_m=2.19,
            group_width=56),
    Variant("regnety_12gf", depth=19, w_0=168, w_a=73.36, w_m=2.37,
            group_width=112),
    Variant("regnety_16gf", depth=18, w_0=200, w_a=106.23, w_m=2.48,
            group_width=112),
    Variant("regnety_32gf", depth=20, w_0=232, w_a=115.89, w_m=2.53,
            group_width=232),
    Variant("regnety_64gf", depth=20, w_0=352, w_a=147.48, w_m=2.4,
            group_width=328),
    Variant("regnety_128gf", depth=27, w_0=456, w_a=160.83, w_m=2.52,
            group_width=264),
    Variant("regnety_256gf", depth=27, w_0=640, w_a=230.83, w_m=2.53,
            group_width=373),
)

CONVENTIONS = (
    # tf_keras.applications.regnet.
    Convention("keras", stem_padding="SAME", padding="SAME", se_base="input",
               se_rounding="down", rounded_up=(), depths={}),
    # The regnety project (GSoC 2021).
    Convention("regnety", stem_padding="VALID", padding="SAME",
               se_base="output", se_rounding="down",
               rounded_up=(), depths={"regnety_400mf": (1, 3, 3, 6)}),
    # pycls, timm and torchvision; timm has torchvision's widths as well ("_tv").
    Convention("torch", stem_padding="SYMMETRIC", padding="SYMMETRIC",
               se_base="input", se_rounding="nearest",
               rounded_up=("regnetx_400mf", "regnety_800mf", "regnety_8.0gf"),
               depths={}),
)

# Names under which other networks are published, and what sets them apart.
_OTHER_FAMILIES = (
    (re.compile(r"regnet[_-]?v"), "RegNetV, timm's variation of RegNetY: SiLU "
     "in place of ReLU, and blocks that normalise before they convolve or "
     "shrink by average pooling"),
    (re.compile(r"regnet[_-]?z"), "RegNetZ of 'Fast and Accurate Model "
     "Scaling': inverted bottlenecks without a last activation, SiLU, and a "
     "wider last layer; the published weights are of timm's own variations, "
     "and no paper's figures are known for them"),
    (re.compile(r".*_sgn"), "timm's experiment with GroupNorm and SiLU in "
     "place of batch norm and ReLU; no weights of it are published"),
)
_NAME = re.compile(
    r"(?:regnet[_-]?)?([xy]?)[_-]?(\d+)(?:[._](\d))?(mf|gf)(?:_tv)?")
_UNITS_MF = {"mf": 1, "gf": 1000}
_CODE = re.compile(r"regnet[_-]?([xy])[_-]?(\d{3,4})(?:_tv)?")


def by_name(name: str) -> Variant:
  """Returns the variant that `name` or one of its aliases stands for.

  Args:
    name: In any published spelling: "regnety_1.6gf", "1.6gf", "regnety1.6gf",
      "regnet_y_1_6gf", "RegNetY-1.6GF", "RegNetY016", "regnety_016". Without
      a letter a RegNetY is meant.

  Raises:
    UsageError: if there is no such variant; names the nearest ones.
  """
  key = name.strip().lower()
  for pattern, reason in _OTHER_FAMILIES:
    if pattern.match(key):
      raise errors.UsageError(
          f"{name!r} is no RegNetX or RegNetY but {reason}. Expected one of "
          f"{', '.join(v.name for v in VARIANTS)}")
  if m := _NAME.fullmatch(key):
    letter, whole, tenths, unit = m.groups()
    size_mf = (int(whole) + int(tenths or 0) / 10) * _UNITS_MF[unit]
  elif m := _CODE.fullmatch(key):  # Hundreds of megaflops: "016" is 1.6GF.
    letter, size_mf = m[1], 100 * int(m[2])
  if m:
    for variant in VARIANTS:
      if (_size_mf(variant) == size_mf
          and variant.name.startswith(f"regnet{letter or 'y'}_")):
        return variant
  near = difflib.get_close_matches(
      re.sub(r"[\s_-]", "", key), map(compact_name, _SHORT), n=3, cutoff=0.5)
  names = [v.name for v in VARIANTS if {v.name, _short(v)} & {
      n for n in _SHORT if compact_name(n) in near}]
  raise errors.UsageError(
      f"unknown variant {name!r}; nearest: "
      f"{', '.join(names or [v.name for v in VARIANTS])}. Expected one of "
      f"{', '.join(v.name for v in VARIANTS)}, or an alias such as 600mf "
      "or RegNetY006")


def matching(text: str) -> tuple[Variant, ...]:
  """Returns the variants that a list stands for, in the registry's order.

  Args:
    text: Names, aliases and globs over the names, with commas between:
      "200mf,regnetx_*"; "all" is every variant.

  Raises:
    UsageError: if a part of the list stands for nothing.
  """
  found = set()
  for part in filter(None, (p.strip() for p in text.split(","))):
    if part.lower() == ALL:
      found.update(VARIANTS)
    elif any(c in part for c in "*?["):
      matches = [v for v in VARIANTS
                 if fnmatch.fnmatchcase(v.name, part.lower())]
      if not matches:
        raise errors.UsageError(
            f"no variant is like {part!r}; expected a pattern over "
            f"{', '.join(v.name for v in VARIANTS)}")
      found.update(matches)
    else:
      found.add(by_name(part))
  if not found:
    raise errors.UsageError(
        f"{text!r} names no variant; expected a name such as 600mf, a list, a "
        f"pattern such as regnety_*, or {ALL}")
  return tuple(v for v in VARIANTS if v in found)


def compact_name(name: str) -> str:
  """Returns "regnety600mf" for "regnety_600mf", as module names have it."""
  return name.replace("_", "")


def title(name: str) -> str:
  """Returns "RegNetY-600MF" for "regnety_600mf", as the literature writes."""
  family, size = name.split("_")
  return f"RegNet{family[-1].upper()}-{size.upper()}"


def convention(name: str) -> Convention:
  """Returns the convention called `name`; KeyError if there is none."""
  return {c.name: c for c in CONVENTIONS}[name]


def architectures(variant: Variant,
                  convention_name: str) -> tuple[Architecture, ...]:
  """Returns the networks that are built under the variant's name.

  They are one, or two where torchvision's widths differ from pycls': then the
  shapes of a checkpoint decide.
  """
  rules = convention(convention_name)
  roundings = ["nearest"]
  if variant.name in rules.rounded_up:
    roundings.append("up")
  return tuple(_architecture(variant, rules, r) for r in roundings)


def _architecture(variant: Variant, rules: Convention,
                  rounding: str) -> Architecture:
  widths, depths = _stages(variant, rounding)
  depths = rules.depths.get(variant.name, depths)
  stages = []
  width_in = STEM_WIDTH
  for width, depth in zip(widths, depths, strict=True):
    inputs = [width_in] + [width] * (depth - 1)
    base = inputs if rules.se_base == "input" else [width] * depth
    whole = round if rules.se_rounding == "nearest" else int
    stages.append(Stage(
        depth=depth, width=width,
        group_width=min(variant.group_width, width),
        se_widths=tuple(whole(_SE_RATIO * w) if variant.has_se else 0
                        for w in base)))
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
    if block.se_width:
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
  se_width: int     # 0 for none.


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
      size = _reduced(size, arch.convention.padding)
      total += size ** 2 * block.width_in * block.width
    total += size ** 2 * block.width * (9 * block.group_width + block.width)
    if block.se_width:
      total += 2 * block.width * block.se_width + block.width + block.se_width
  return total + (arch.feature_dim + 1) * num_classes


def _reduced(size: int, padding: str) -> int:
  """Returns the size after a 3x3 convolution of stride 2."""
  return math.ceil((size - 2 if padding == "VALID" else size) / STRIDE)


def _stages(variant: Variant,
            rounding: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns the stages' (widths, depths): equations 2 to 4 of the paper."""
  widths = []
  for j in range(variant.depth):
    u_j = variant.w_0 + variant.w_a * j
    s_j = round(math.log(u_j / variant.w_0) / math.log(variant.w_m))
    width = variant.w_0 * variant.w_m ** s_j
    widths.append(round(width / _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE)
  unique = sorted(set(widths))
  depths = tuple(widths.count(w) for w in unique)
  return tuple(_divisible(w, min(variant.group_width, w), rounding)
               for w in unique), depths


def _divisible(width: int, group: int, rounding: str) -> int:
  """Returns a stage's width as a whole number of groups.

  "nearest" is pycls' way, with Python's round half to even; "up" is
  torchvision's, which rounds halves up and gives away no more than 10 %.
  """
  if rounding == "nearest":
    return max(group, round(width / group) * group)
  rounded = max(group, int(width + group / 2) // group * group)
  return rounded + group if rounded < 0.9 * width else rounded


def _short(variant: Variant) -> str:
  """Returns the alias that leaves out the family: "600mf"."""
  return variant.name.split("_")[1]


def _size_mf(variant: Variant) -> float:
  """Returns the size in a variant's name, in megaflops."""
  size = _short(variant)
  return float(size[:-2]) * _UNITS_MF[size[-2:]]


# What a mistyped name is compared with.
_SHORT = tuple(dict.fromkeys(
    [v.name for v in VARIANTS] + [_short(v) for v in VARIANTS if v.has_se]))
