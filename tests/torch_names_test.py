"""Names and layouts of torch state dicts, against the libraries' own names.

The names of whole networks, and those of timm's other families, were stored by
the script that made the fixtures from the real modules.
"""

import json
import pathlib

import numpy as np
import pytest

from hub_export import errors
from hub_export.regnet import variants
from hub_export.regnet.checkpoints import layout
from hub_export.regnet.checkpoints import torch_checkpoint
from hub_export.regnet.checkpoints import torch_names
from tests import torch_pickles as by_hand

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "torch"
DESCRIBED = json.loads((FIXTURES / "tensors.json").read_text())
FAMILIES = json.loads((FIXTURES / "families.json").read_text())
# The networks of the script: depths, widths, SE widths of Y.
STAGES = ((1, 16, (8,)), (2, 24, (4, 6)), (1, 32, (6,)), (1, 40, (8,)))
SOURCES = {"timm_y": ("timm", 10), "timm_x": ("timm", 7),
           "torchvision_y": ("torchvision", 10),
           "torchvision_x": ("torchvision", 10),
           "pycls_y": ("pycls", 10), "pycls_x": ("pycls", 10)}

# Copied from the table of the sources' names, for block 2 of stage 3.
NAMES = {
    "stem/conv": ("stem.conv.weight", "stem.0.weight", "stem.conv.weight"),
    "stem/bn/moving_mean": ("stem.bn.running_mean", "stem.1.running_mean",
                            "stem.bn.running_mean"),
    "stage3/block2/a/conv": (
        "s3.b2.conv1.conv.weight",
        "trunk_output.block3.block3-1.f.a.0.weight", "s3.b2.f.a.weight"),
    "stage3/block2/a/bn/gamma": (
        "s3.b2.conv1.bn.weight",
        "trunk_output.block3.block3-1.f.a.1.weight", "s3.b2.f.a_bn.weight"),
    "stage3/block2/b/conv": (
        "s3.b2.conv2.conv.weight",
        "trunk_output.block3.block3-1.f.b.0.weight", "s3.b2.f.b.weight"),
    "stage3/block2/b/bn/beta": (
        "s3.b2.conv2.bn.bias",
        "trunk_output.block3.block3-1.f.b.1.bias", "s3.b2.f.b_bn.bias"),
    "stage3/block2/se/squeeze/kernel": (
        "s3.b2.se.fc1.weight",
        "trunk_output.block3.block3-1.f.se.fc1.weight",
        "s3.b2.f.se.f_ex.0.weight"),
    "stage3/block2/se/excite/bias": (
        "s3.b2.se.fc2.bias",
        "trunk_output.block3.block3-1.f.se.fc2.bias",
        "s3.b2.f.se.f_ex.2.bias"),
    "stage3/block2/c/conv": (
        "s3.b2.conv3.conv.weight",
        "trunk_output.block3.block3-1.f.c.0.weight", "s3.b2.f.c.weight"),
    "stage3/block2/c/bn/moving_variance": (
        "s3.b2.conv3.bn.running_var",
        "trunk_output.block3.block3-1.f.c.1.running_var",
        "s3.b2.f.c_bn.running_var"),
    "stage3/block2/shortcut/conv": (
        "s3.b2.downsample.conv.weight",
        "trunk_output.block3.block3-1.proj.0.weight", "s3.b2.proj.weight"),
    "stage3/block2/shortcut/bn/gamma": (
        "s3.b2.downsample.bn.weight",
        "trunk_output.block3.block3-1.proj.1.weight", "s3.b2.bn.weight"),
    "head/kernel": ("head.fc.weight", "fc.weight", "head.fc.weight"),
    "head/bias": ("head.fc.bias", "fc.bias", "head.fc.bias"),
}


def stored(values, name="x"):
  values = np.asarray(values, np.float32)
  return layout.StoredTensor(name, values.shape, values.dtype, lambda: values)


@pytest.fixture(name="save")
def _save(tmp_path):
  """Returns a function that saves nested dicts of instructions."""
  def save(items):
    path = tmp_path / "model.pth"
    content = by_hand.PROTOCOL_2 + by_hand.dictionary(items) + b"."
    path.write_bytes(by_hand.zipped(
        content, {k: np.full(4, int(k), "<f4").tobytes() for k in "012345"}))
    return path
  return save


def tensor(key):
  """Returns the instructions for a tensor with that value four times."""
  return by_hand.tensor(stored=by_hand.storage(str(key)))


def state(key, names=("s1.b1.f.a.weight", "s1.b1.f.a_bn.bias")):
  return by_hand.dictionary({name: tensor(key) for name in names})


def value_of(path):
  """Returns (the value of what is read, the notes)."""
  found = torch_checkpoint.read(path)
  return float(found.tensors["stage1/block1/a/bn/beta"].read()[0]), found.notes


@pytest.mark.parametrize("number, source", [
    (0, "timm"), (1, "torchvision"), (2, "pycls")])
def test_names_both_ways(number, source):
  for name, theirs in NAMES.items():
    assert torch_names.spelling(source, name) == theirs[number]
    assert torch_names.canonical(source, theirs[number]) == name
    assert torch_names.spelling(source, name, "module.") == (
        f"module.{theirs[number]}")


@pytest.mark.parametrize("network", SOURCES)
def test_every_tensor_of_the_real_networks_has_its_name(network):
  source, classes = SOURCES[network]
  stages = tuple(variants.Stage(d, w, 8, se if "_y" in network else (0,) * d)
                 for d, w, se in STAGES)
  expected = variants.tensor_shapes(variants.Architecture(
      "small", stages, variants.convention("torch")), classes)
  names = list(DESCRIBED[network])
  assert torch_names.source_of(names) == source
  assert torch_names.other_family(names) is None
  weights = [n for n in names if not torch_names.is_counter(source, n)]
  assert all(n.endswith("num_batches_tracked") for n in set(names) - set(
      weights))
  found = {torch_names.canonical(source, n): n for n in weights}
  assert set(found) == set(expected) and len(weights) == len(expected)
  for name, theirs in found.items():
    assert torch_names.spelling(source, name) == theirs
    shape = tuple(DESCRIBED[network][theirs][0])
    tensor_ = torch_names.to_canonical(source, name, stored(np.zeros(shape)))
    assert tensor_.shape == tensor_.read().shape == expected[name]


@pytest.mark.parametrize("source, name", [
    ("timm", "s1.b0.conv1.conv.weight"), ("timm", "s01.b1.conv1.conv.weight"),
    ("timm", "s1.b1.conv4.conv.weight"), ("timm", "s1.b1.conv1.conv.bias"),
    ("timm", "s1.b1.conv1.bn.kernel"), ("timm", "s1.b1.f.a.weight"),
    ("timm", "x.s1.b1.conv1.conv.weight"), ("timm", "head.fc.weight.x"),
    ("timm", "s1.b1."), ("timm", ""), ("timm", "s\u0661.b1.conv1.conv.weight"),
    ("torchvision", "trunk_output.block1.block2-0.f.a.0.weight"),
    ("torchvision", "trunk_output.block1.block1-00.f.a.0.weight"),
    ("torchvision", "trunk_output.block1.block1-0.f.a.2.weight"),
    ("pycls", "s1.b1.f.a_bn.running_std"), ("pycls", "s1.b1.proj.bias")])
def test_what_has_no_canonical_name(source, name):
  assert torch_names.canonical(source, name) is None


def test_sources_are_told_by_the_blocks():
  assert torch_names.source_of(["stem.conv.weight", "head.fc.bias"]) is None
  assert torch_names.source_of(["conv1.weight", "layer1.0.bn1.bias"]) is None
  assert torch_names.source_of([]) is None


def test_kernels_become_hwio():
  oihw = np.arange(6 * 2 * 3 * 3).reshape(6, 2, 3, 3)
  for source in torch_names.SOURCES:
    hwio = torch_names.to_canonical(
        source, "stage1/block1/b/conv", stored(oihw)).read()
    assert hwio.shape == (3, 3, 2, 6)
    for h, w, i, o in ((0, 1, 0, 0), (2, 0, 1, 5), (1, 2, 0, 3)):
      assert hwio[h, w, i, o] == oihw[o, i, h, w]
    dense = torch_names.to_canonical(
        source, "head/kernel", stored([[1, 2, 3], [4, 5, 6]])).read()
    np.testing.assert_array_equal(dense, [[1, 4], [2, 5], [3, 6]])
    squeeze = torch_names.to_canonical(
        source, "stage1/block1/se/squeeze/kernel",
        stored(np.array([[1, 2], [3, 4], [5, 6]])[:, :, None, None])).read()
    np.testing.assert_array_equal(squeeze[0, 0], [[1, 3, 5], [2, 4, 6]])


@pytest.mark.parametrize("source, order", [
    ("timm", [0, 1, 2]), ("torchvision", [0, 1, 2]), ("pycls", [2, 1, 0])])
def test_only_the_stem_of_pycls_is_reversed(source, order):
  kernel = np.zeros((32, 3, 3, 3)) + np.arange(3)[:, None, None]
  stem = torch_names.to_canonical(source, "stem/conv", stored(kernel)).read()
  np.testing.assert_array_equal(stem[1, 2, :, 7], order)
  block = torch_names.to_canonical(
      source, "stage1/block1/b/conv", stored(kernel)).read()
  np.testing.assert_array_equal(block[1, 2, :, 7], [0, 1, 2])


@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (4, 3, 3), (1,) * 5])
def test_another_rank_is_left_to_be_told_of(shape):
  assert torch_names.to_canonical(
      "pycls", "stem/conv", stored(np.zeros(shape))).shape == shape


def test_values_are_not_read_before_they_are_asked_for():
  def read():
    raise OSError("too early")
  lazy = layout.StoredTensor("x", (8, 3, 3, 3), np.dtype("f4"), read)
  found = torch_names.to_canonical("pycls", "stem/conv", lazy)
  assert found.shape == (3, 3, 3, 8)
  with pytest.raises(OSError, match="too early"):
    found.read()


@pytest.mark.parametrize("name, part", [
    ("regnetv_040", "RegNetV"), ("regnetz_005", "final_conv"),
    ("regnetz_040", "RegNetZ"), ("regnety_040_sgn", "group norm")])
def test_other_families_of_timm_are_refused(save, name, part):
  names = FAMILIES[name]
  assert part in torch_names.other_family(names)
  path = save({f"module.{n}": tensor(0) for n in names})
  with pytest.raises(errors.CheckpointError, match=part) as caught:
    torch_checkpoint.read(path)
  assert "another family than RegNetX and RegNetY" in str(caught.value)


def test_torchvisions_averaged_weights(save):
  """AveragedModel counts beside the model that it wraps."""
  names = ("module.s1.b1.f.a.weight", "module.s1.b1.f.a_bn.bias")
  found = torch_checkpoint.read(save(
      {"model_ema": by_hand.dictionary({
          "n_averaged": tensor("0"), **{n: tensor("0") for n in names}})}))
  assert found.unexpected == ()
  assert {t.name for t in found.tensors.values()} == set(names)


def test_prefixes_of_wrappers_and_counters(save):
  names = ("module._orig_mod.s1.b1.f.a.weight",
           "module._orig_mod.s1.b1.f.a_bn.num_batches_tracked",
           "module._orig_mod.s1.b1.f.x_bn.num_batches_tracked")
  path = save({n: tensor(0) for n in names} | {
      "module._orig_mod.note": by_hand.literal("text")})
  found = torch_checkpoint.read(path)
  assert list(found.tensors) == ["stage1/block1/a/conv"]
  assert found.tensors["stage1/block1/a/conv"].name == names[0]
  assert found.unexpected == (names[2], "module._orig_mod.note")
  assert found.spelling("head/bias") == "module._orig_mod.head.fc.bias"
  assert torch_names.common_prefix(["module.a", "b"]) == ""
  assert torch_names.common_prefix(["model.a", "model.module.b"]) == "model."


def numpy_scalar(value, order="<"):
  """Returns np.float64(value) as numpy 1 pickles it."""
  data = np.array(value, f"{order}f8").tobytes().decode("latin1")
  return (by_hand.named("numpy.core.multiarray.scalar") + b"(" +
          by_hand.call("numpy.dtype", "f8", False, True) +
          by_hand.literal((3, order, None, None, None, -1, -1, 0)) + b"b" +
          by_hand.call("_codecs.encode", data, "latin1") + b"tR")


def test_figures_of_a_big_endian_machine_decide_as_well(save):
  value, notes = value_of(save({
      "model_state": state(1), "ema_state": state(2),
      "test_err": numpy_scalar(29.5, ">"), "ema_err": numpy_scalar(28.5, ">")}))
  assert value == 2 and "28.5 % against 29.5 %" in notes[0]


@pytest.mark.parametrize("figures, value, part", [
    ({"test_err": 29.5, "ema_err": 28.5}, 2, "EMA weights are taken"),
    ({"test_err": 28.5, "ema_err": 29.5}, 1, "model weights are taken"),
    ({"test_err": 28.5, "ema_err": 28.5}, 1, "not lower"),
    ({"ema_err": 28.5}, 2, "28.5 % against 100 %"),
    ({"test_err": 28.5}, 1, "100 % against 28.5 %"), ({}, 1, "model weights"),
    ({"test_err": float("nan"), "ema_err": 5.0}, 2, "5 % against 100 %")])
def test_pycls_takes_the_better_weights(save, figures, value, part):
  path = save({"model_state": state(1), "ema_state": state(2)} | {
      name: numpy_scalar(figure) for name, figure in figures.items()})
  found, notes = value_of(path)
  assert found == value
  assert part in notes[0] and len(notes) == 1
  assert value_of(save({"model_state": state(3), "ema_err": numpy_scalar(1)})
                  ) == (3, ())


@pytest.mark.parametrize("keys, value", [
    (("state_dict", "state_dict_ema"), 2), (("state_dict", "model_ema"), 2),
    (("model", "model_ema"), 2), (("model_ema", "state_dict_ema"), 2),
    (("model", "state_dict"), 2)])
def test_timms_order_of_weights(save, keys, value):
  path = save({keys[0]: state(1), keys[1]: state(2), "epoch": b"K\x05"})
  found, notes = value_of(path)
  assert found == value
  assert f"those under {keys[1]} are taken" in notes[0]
  # What is alone needs no word, and None is nothing (timm).
  assert value_of(save({keys[0]: state(1), keys[1]: b"N"})) == (1, ())


@pytest.mark.parametrize("items, part", [
    ({"classy_state_dict": b"}"}, "original file of SEER"),
    ({"epoch": b"K\x05", "lr": b"N"}, "its entries are epoch, lr"),
    ({"model": b"}"}, "its entries are model"),
    ({"model_state": b"N"}, "no tensors"),
    ({f"layer1.{i}.conv.weight": tensor(0) for i in range(9)},
     "layer1.5.conv.weight and 3 more")])
def test_what_holds_no_regnet(save, items, part):
  with pytest.raises(errors.CheckpointError) as caught:
    torch_checkpoint.read(save(items))
  assert part in str(caught.value)


def test_headless_files_exist_of_timm_alone(save):
  names = {source: torch_names.spelling(source, "stage1/block1/shortcut/conv")
           for source in torch_names.SOURCES}
  names["timm"] = "s1.b1.downsample.bn.running_mean"
  assert {source: torch_checkpoint.read(save({name: tensor(0)})).may_lack_head
          for source, name in names.items()} == {
              "timm": True, "pycls": False, "torchvision": False}
