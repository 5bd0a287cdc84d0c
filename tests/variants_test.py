"""The registry against the paper's tables and the sources' own models."""

import pytest

from hub_export import errors
from hub_export.regnet import variants

# Read off models built by pycls and by tf_keras.applications: depths, widths,
# groups, SE widths (first block / others), trainable parameters, multiply-adds
# at 224 px (pycls dev/model_complexity.json) and parameters with statistics.
KERAS = {
    "regnety_200mf": ((1, 1, 4, 7), (24, 56, 152, 368), (3, 7, 19, 46),
                      ((8,), (6,), (14, 38), (38, 92)),
                      3162996, 199519076, 3183844),
    "regnety_400mf": ((1, 3, 6, 6), (48, 104, 208, 440), (6, 13, 26, 55),
                      ((8,), (12, 26), (26, 52), (52, 110)),
                      4344144, 401849056, 4371296),
    "regnety_600mf": ((1, 3, 7, 4), (48, 112, 256, 608), (3, 7, 16, 38),
                      ((8,), (12, 28), (28, 64), (64, 152)),
                      6055160, 601227608, 6084920),
    "regnety_800mf": ((1, 3, 8, 2), (64, 128, 320, 768), (4, 8, 20, 48),
                      ((8,), (16, 32), (32, 80), (80, 192)),
                      6263168, 797183328, 6293056),
}
# The regnety project's models, run under tf_keras: depths, trainable and total
# parameters (its README prints the totals).
REGNETY = {
    "regnety_200mf": ((1, 1, 4, 7), 3210920, 3231768),
    "regnety_400mf": ((1, 3, 3, 6), 4035466, 4058874),
    "regnety_600mf": ((1, 3, 7, 4), 6184712, 6214472),
    "regnety_800mf": ((1, 3, 8, 2), 6471224, 6501112),
}


def test_every_variant_is_covered():
  names = [v.name for v in variants.VARIANTS]
  assert sorted(KERAS) == sorted(REGNETY) == sorted(names)


@pytest.mark.parametrize("name", KERAS)
def test_keras_architecture(name):
  depths, widths, groups, se_widths, trainable, macs, total = KERAS[name]
  arch = variants.architecture(variants.by_name(name), "keras")
  assert tuple(s.depth for s in arch.stages) == depths
  assert tuple(s.width for s in arch.stages) == widths
  assert tuple(s.width // s.group_width for s in arch.stages) == groups
  for stage, expected in zip(arch.stages, se_widths, strict=True):
    assert stage.se_widths == expected[:1] + expected[1:] * (stage.depth - 1)
  assert variants.parameter_counts(arch, 1000) == (trainable, total)
  assert variants.multiply_adds(arch, 1000, 224) == macs


@pytest.mark.parametrize("name", REGNETY)
def test_regnety_architecture(name):
  depths, trainable, total = REGNETY[name]
  arch = variants.architecture(variants.by_name(name), "regnety")
  assert tuple(s.depth for s in arch.stages) == depths
  assert all(s.se_widths == (s.width // 4,) * s.depth for s in arch.stages)
  assert variants.parameter_counts(arch, 1000) == (trainable, total)


@pytest.mark.parametrize("alias", [
    "600mf", "regnety600mf", "RegNetY006", "regnety_006", "regnet_y_600mf",
    "RegNetY-600MF", "regnety_600mf", "600MF"])
def test_aliases(alias):
  assert variants.by_name(alias).name == "regnety_600mf"


@pytest.mark.parametrize("name,near", [
    ("601mf", "regnety_600mf"), ("regnety_80mf", "regnety_800mf"),
    ("resnet50", "regnety_200mf"), ("", "regnety_400mf")])
def test_unknown_names_are_refused_with_the_nearest(name, near):
  with pytest.raises(errors.UsageError, match=near):
    variants.by_name(name)


def test_regnetx_is_not_taken_for_regnety():
  with pytest.raises(errors.UsageError, match="unknown variant"):
    variants.by_name("regnetx_600mf")


def test_headless_shapes_leave_out_the_head_alone():
  arch = variants.architecture(variants.by_name("200mf"), "keras")
  whole = variants.tensor_shapes(arch, 1000)
  headless = variants.tensor_shapes(arch, 0)
  assert set(whole) - set(headless) == {"head/kernel", "head/bias"}
  assert whole["head/kernel"] == (368, 1000)
  # Stem convolution, its batch norm, and a block's 26 tensors at most.
  assert len(headless) == 5 + 13 * (3 * 5 + 4) + 4 * 5


def test_the_stem_of_regnety_shrinks_by_one_more():
  keras = variants.architecture(variants.by_name("200mf"), "keras")
  regnety = variants.architecture(variants.by_name("200mf"), "regnety")
  # 112 against 111 after the stem, then 56 28 14 7 in both: they differ by the
  # stem, the first 1x1 convolution at full size, and the SE widths.
  stem = (112 ** 2 - 111 ** 2) * (27 * 32 + 32 * 24)
  se = sum((2 * s.width + 1) * (sum(r.se_widths) - sum(s.se_widths))
           for s, r in zip(keras.stages, regnety.stages))
  assert (variants.multiply_adds(keras, 1000, 224)
          - variants.multiply_adds(regnety, 1000, 224)) == stem - se
