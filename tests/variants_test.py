"""The registry against the sources' own models."""

import math

import pytest

from hub_export import errors
from hub_export.regnet import variants

# Read off models built by pycls, timm, torchvision, tf_keras.applications and
# the regnety project (its own: "-regnety"; torchvision's where they differ:
# "-tv"): depths, widths, groups, SE widths (first block/others), trainable
# parameters, parameters with moving statistics, and multiply-adds at 224 px as
# pycls counts them (its dev/model_complexity.json).
TABLE = """
regnetx-200mf|1 1 4 7|24 56 152 368|3 7 19 46|-|2684792|2705640|199040872
regnetx-400mf|1 2 7 12|32 64 160 384|2 4 10 24|-|5157512|5194184|397678568
regnetx-400mf-tv|1 2 7 12|32 64 160 400|2 4 10 25|-|5495976|5533832|-
regnetx-600mf|1 3 5 7|48 96 240 528|2 4 10 22|-|6196040|6229320|600891112
regnetx-800mf|1 3 7 5|64 128 288 672|4 8 18 42|-|7259656|7296968|799700712
regnetx-1.6gf|2 4 10 2|72 168 408 912|3 7 17 38|-|9190136|9233640|1602850792
regnetx-3.2gf|2 6 15 2|96 192 432 1008|2 4 9 21|-|15296552|15359112|3176622952
regnetx-4.0gf|2 5 14 2|80 240 560 1360|2 6 14 34|-|22118248|22194312|3964499816
regnetx-6.4gf|2 4 10 1|168 392 784 1624|3 7 14 29|-|26209256|26283464|6460292264
regnetx-8.0gf|2 5 15 1|80 240 720 1920|1 2 6 16|-|39572648|39663112|7995133416
regnetx-12gf|2 5 11 1|224 448 896 2240|2 4 8 20|-|46106056|46202440|12086679016
regnetx-16gf|2 6 13 1|256 512 896 2048|2 4 7 16|-|54278536|54389704|15940756456
regnetx-32gf|2 7 13 1|336 672 1344 2520|2 4 8 15|-|107811560|107973576|31735930792
regnety-200mf|1 1 4 7|24 56 152 368|3 7 19 46|8 6 14/38 38/92|3162996|3183844|199519076
regnety-200mf-regnety|1 1 4 7|24 56 152 368|3 7 19 46|6 14 38/38 92/92|3210920|3231768|-
regnety-400mf|1 3 6 6|48 104 208 440|6 13 26 55|8 12/26 26/52 52/110|4344144|4371296|401849056
regnety-400mf-regnety|1 3 3 6|48 104 208 440|6 13 26 55|12 26/26 52/52 110/110|4035466|4058874|-
regnety-600mf|1 3 7 4|48 112 256 608|3 7 16 38|8 12/28 28/64 64/152|6055160|6084920|601227608
regnety-600mf-regnety|1 3 7 4|48 112 256 608|3 7 16 38|12 28/28 64/64 152/152|6184712|6214472|-
regnety-800mf|1 3 8 2|64 128 320 768|4 8 20 48|8 16/32 32/80 80/192|6263168|6293056|797183328
regnety-800mf-tv|1 3 8 2|64 144 320 784|4 9 20 49|8 16/36 36/80 80/196|6432512|6462944|-
regnety-800mf-regnety|1 3 8 2|64 128 320 768|4 8 20 48|16 32/32 80/80 192/192|6471224|6501112|-
regnety-1.6gf|2 6 17 2|48 120 336 888|2 5 14 37|8/12 12/30 30/84 84/222|11202430|11255102|1612087326
regnety-3.2gf|2 5 13 1|72 216 576 1512|3 9 24 63|8/18 18/54 54/144 144|19436338|19502498|3176496162
regnety-4.0gf|2 6 12 2|128 192 512 1088|2 3 8 17|8/32 32/48 48/128 128/272|20646656|20708928|3973301344
regnety-6.4gf|2 7 14 2|144 288 576 1296|2 4 8 18|8/36 36/72 72/144 144/324|30583252|30665684|6355221876
regnety-8.0gf|2 4 10 1|168 448 896 2016|3 8 16 36|8/42 42/112 112/224 224|39180068|39265812|7963074196
regnety-8.0gf-tv|2 4 10 1|224 448 896 2016|4 8 16 36|8/56 56/112 112/224 224|39381472|39468000|-
regnety-12gf|2 5 11 1|224 448 896 2240|2 4 8 20|8/56 56/112 112/224 224|51822544|51918928|12092395504
regnety-16gf|2 4 11 1|224 448 1232 3024|2 4 11 27|8/56 56/112 112/308 308|83590140|83712956|15911534044
regnety-32gf|2 5 12 1|232 696 1392 3712|1 3 6 16|8/58 58/174 174/348 348|145046770|145205058|32279583362
regnety-64gf|2 5 12 1|328 984 1968 4920|1 3 6 15|8/82 82/246 246/492 492|281378786|281599922|-
regnety-128gf|2 7 17 1|528 1056 2904 7392|2 4 11 28|8/132 132/264 264/726 726|644812894|645227966|-
regnety-256gf|2 7 17 1|746 1492 4103 10444|2 4 11 28|8/186 186/373 373/1026 1026|1282601138|1283187558|-
"""
ROWS = {line.split("|")[0]: line.split("|")[1:]
        for line in TABLE.strip().splitlines()}


def _architecture(arch_id):
  """Returns the registry's network of a row."""
  name, _, which = arch_id.replace("-", "_", 1).partition("-")
  found = variants.architectures(
      variants.by_name(name), "regnety" if which == "regnety" else "torch")
  return found[1] if which == "tv" else found[0]


def _numbers(text):
  return tuple(map(int, text.split()))


def test_every_architecture_is_in_the_table():
  listed = [_architecture(row) for row in ROWS]
  built = [a for v in variants.VARIANTS
           for a in variants.architectures(v, "torch")]
  assert sorted(a.name for a in built) == sorted(
      a.name for a in listed if a.convention.name == "torch")
  assert len(variants.VARIANTS) == 27 and len(ROWS) == 34


@pytest.mark.parametrize("row", ROWS)
def test_architecture(row):
  depths, widths, groups, se_widths, trainable, total, macs = ROWS[row]
  arch = _architecture(row)
  assert tuple(s.depth for s in arch.stages) == _numbers(depths)
  assert tuple(s.width for s in arch.stages) == _numbers(widths)
  assert tuple(s.width // s.group_width for s in arch.stages) == _numbers(groups)
  for stage, text in zip(arch.stages, se_widths.split(), strict=False):
    if text == "-":
      assert all(s.se_widths == (0,) * s.depth for s in arch.stages)
    else:
      first, *others = map(int, text.split("/"))
      assert stage.se_widths == (first, *(
          others or [first]) * (stage.depth - 1))
  assert variants.parameter_counts(arch, 1000) == (int(trainable), int(total))
  if macs != "-":
    assert variants.multiply_adds(arch, 1000, 224) == int(macs)


@pytest.mark.parametrize("row", [
    r for r in ROWS if "-regnety" not in r and "-tv" not in r
    and not r.startswith(("regnety-64gf", "regnety-128gf", "regnety-256gf"))])
def test_keras_has_the_widths_of_the_paper(row):
  """tf_keras.applications has these 24, with the same counts."""
  arch, = variants.architectures(
      variants.by_name(_architecture(row).name), "keras")
  assert variants.parameter_counts(arch, 1000) == (
      int(ROWS[row][4]), int(ROWS[row][5]))
  assert arch.stages == _architecture(row).stages


def test_keras_rounds_se_widths_down():
  """Python's int() there, round() elsewhere: 4103 / 4 is 1025.75."""
  variant = variants.by_name("256gf")
  keras, = variants.architectures(variant, "keras")
  torch, = variants.architectures(variant, "torch")
  assert keras.stages[3].se_widths[0] == 1025
  assert torch.stages[3].se_widths[0] == 1026


def test_regnetx_has_no_squeeze_and_excitation():
  arch, = variants.architectures(variants.by_name("regnetx_200mf"), "torch")
  shapes = variants.tensor_shapes(arch, 1000)
  assert not [name for name in shapes if "/se/" in name]
  assert sum(math.prod(s) for n, s in shapes.items()) == 2705640


@pytest.mark.parametrize("alias,name", [
    *((a, "regnety_600mf") for a in (
        "600mf", "regnety600mf", "RegNetY006", "regnety_006", "regnet_y_600mf",
        "RegNetY-600MF", "regnety_600mf", "600MF", " 600mf ")),
    *((a, "regnety_1.6gf") for a in (
        "1.6gf", "regnety_016", "RegNetY016", "regnet_y_1_6gf", "1_6gf",
        "RegNetY-1.6GF", "regnety1.6gf")),
    *((a, "regnety_16gf") for a in (
        "16gf", "regnety_160", "RegNetY160", "regnet_y_16gf", "RegNetY-16GF")),
    *((a, "regnetx_8.0gf") for a in (
        "regnetx_080", "regnet_x_8gf", "RegNetX-8.0GF", "RegNetX080")),
    ("8gf", "regnety_8.0gf"), ("regnety_080_tv", "regnety_8.0gf"),
    ("regnetx_004_tv", "regnetx_400mf"), ("regnety_1280", "regnety_128gf"),
    ("regnet_y_128gf", "regnety_128gf"), ("regnety_2560", "regnety_256gf"),
])
def test_aliases(alias, name):
  assert variants.by_name(alias).name == name


@pytest.mark.parametrize("name,near", [
    ("601mf", "regnety_600mf"), ("regnety_80mf", "regnety_800mf"),
    ("regnetx_80gf", "regnetx_8.0gf"), ("regnety_16mf", "regnety_16gf"),
    ("resnet50", "regnety_200mf"), ("", "regnety_400mf")])
def test_unknown_names_are_refused_with_the_nearest(name, near):
  with pytest.raises(errors.UsageError, match=near):
    variants.by_name(name)


@pytest.mark.parametrize("name,reason", [
    ("regnetv_040", "RegNetV"), ("regnetv_064.ra3_in1k", "RegNetV"),
    ("regnetz_040_h", "Fast and Accurate Model Scaling"),
    ("RegNetZ-B16", "inverted"), ("regnety_040_sgn", "GroupNorm")])
def test_other_families_are_refused_with_the_reason(name, reason):
  with pytest.raises(errors.UsageError, match=reason):
    variants.by_name(name)


@pytest.mark.parametrize("text,names", [
    ("600mf", ["regnety_600mf"]),
    ("regnetx_200mf, 200mf", ["regnetx_200mf", "regnety_200mf"]),
    ("200mf,regnet?_200mf", ["regnetx_200mf", "regnety_200mf"]),
    ("regnety_*gf", ["regnety_1.6gf", "regnety_3.2gf", "regnety_4.0gf",
                     "regnety_6.4gf", "regnety_8.0gf", "regnety_12gf",
                     "regnety_16gf", "regnety_32gf", "regnety_64gf",
                     "regnety_128gf", "regnety_256gf"])])
def test_lists_and_patterns(text, names):
  assert [v.name for v in variants.matching(text)] == names


def test_all_is_every_variant():
  assert variants.matching("all") == variants.VARIANTS


@pytest.mark.parametrize("text", ["resnet*", "", ",", "600mf,601mf"])
def test_lists_of_nothing_are_refused(text):
  with pytest.raises(errors.UsageError):
    variants.matching(text)


def test_headless_shapes_leave_out_the_head_alone():
  arch, = variants.architectures(variants.by_name("200mf"), "keras")
  whole = variants.tensor_shapes(arch, 1000)
  headless = variants.tensor_shapes(arch, 0)
  assert set(whole) - set(headless) == {"head/kernel", "head/bias"}
  assert whole["head/kernel"] == (368, 1000)
  # Stem convolution, its batch norm, and a block's 26 tensors at most.
  assert len(headless) == 5 + 13 * (3 * 5 + 4) + 4 * 5


def test_the_stem_of_regnety_shrinks_by_one_more():
  keras, = variants.architectures(variants.by_name("200mf"), "keras")
  regnety, = variants.architectures(variants.by_name("200mf"), "regnety")
  # 112 against 111 after the stem, then 56 28 14 7 in both: they differ by the
  # stem, the first 1x1 convolution at full size, and the SE widths.
  stem = (112 ** 2 - 111 ** 2) * (27 * 32 + 32 * 24)
  se = sum((2 * s.width + 1) * (sum(r.se_widths) - sum(s.se_widths))
           for s, r in zip(keras.stages, regnety.stages))
  assert (variants.multiply_adds(keras, 1000, 224)
          - variants.multiply_adds(regnety, 1000, 224)) == stem - se


@pytest.mark.parametrize("name,title", [
    ("regnety_600mf", "RegNetY-600MF"), ("regnetx_8.0gf", "RegNetX-8.0GF")])
def test_titles_are_the_literatures(name, title):
  assert variants.title(name) == title
