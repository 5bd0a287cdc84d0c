"""Networks from the files of timm, torchvision and pycls against the originals.

The files and the outputs were made by the real libraries (pycls: by a network
of its own in the script); see fixtures/make_torch_fixtures.py. The networks
are narrow, the code path is that of the published ones.
"""

import dataclasses
import functools
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from hub_export import preprocessing
from hub_export.regnet import checkpoints
from hub_export.regnet import network
from hub_export.regnet import variants
from hub_export.regnet.checkpoints import torch_checkpoint

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "torch"
# Two float32 programs, each correct, differ by the order of their sums: about
# 1e-6 of the logits' standard deviation.
TOLERANCE = 1e-4

# File -> (its reference, source, format, classes).
FILES = {
    "timm_y.safetensors": ("timm_y", "timm", "safetensors", 10),
    "timm_y_bf16.safetensors": ("timm_y_bf16", "timm", "safetensors", 10),
    "timm_x.bin": ("timm_x", "timm", "torch", 7),
    "timm_training.pth.tar": ("timm_training", "timm", "torch", 10),
    "torchvision_y.pth": ("torchvision_y", "torchvision", "torch", 10),
    "torchvision_x.pth": ("torchvision_x", "torchvision", "torch", 10),
    "pycls_y.pyth": ("pycls_y", "pycls", "torch", 10),
    "pycls_x.pyth": ("pycls_x", "pycls", "torch", 10),
}
# What the script built: depths, widths, and the SE widths of Y.
STAGES = ((1, 16, (8,)), (2, 24, (4, 6)), (1, 32, (6,)), (1, 40, (8,)))


def architecture(is_y, convention="torch"):
  """Returns the small network as a convention would build it."""
  stages = tuple(
      variants.Stage(depth, width, 8, se if is_y else (0,) * depth)
      for depth, width, se in STAGES)
  return variants.Architecture(
      "regnety_small" if is_y else "regnetx_small", stages,
      variants.convention(convention))


@functools.cache
def reference():
  with np.load(FIXTURES / "reference.npz") as archive:
    return dict(archive)


@functools.cache
def tensors(file):
  """Returns canonical name -> float32 values of a fixture."""
  found = torch_checkpoint.read(FIXTURES / file)
  return {name: np.ascontiguousarray(t.read(), np.float32)
          for name, t in found.tensors.items()}


def outputs(values, size, arch=None, mean=preprocessing.IMAGENET_MEAN,
            std=preprocessing.IMAGENET_STD):
  """Returns (logits, features) of our network for the reference's images."""
  is_y = any("/se/" in name for name in values)
  ours = network.Network(arch or architecture(is_y), values, mean, std)
  images = reference()[f"images/{size}"].astype(np.float32) / 255
  features, _ = ours.features(tf.constant(images), False, tf.constant(0.9))
  return ours.logits(features).numpy(), features.numpy()


def difference(actual, expected):
  """Returns the largest difference, in standard deviations of `expected`."""
  assert actual.shape == expected.shape
  return float(np.max(np.abs(actual - expected)) / np.std(expected))


def logits_difference(file, size="even", values=None, **kwargs):
  actual, _ = outputs(values or tensors(file), size, **kwargs)
  return difference(actual, reference()[f"{FILES[file][0]}/{size}/logits"])


def test_every_fixture_is_compared():
  assert set(FILES) == {
      p.name for p in FIXTURES.iterdir()
      if p.suffix not in (".md", ".json", ".npz") and
      not p.name.startswith("layouts")}


@pytest.mark.parametrize("file", FILES)
def test_layout(file):
  _, source, kind, classes = FILES[file]
  found = torch_checkpoint.read(FIXTURES / file)
  assert (found.source, found.format) == (source, kind)
  assert found.unexpected == found.duplicates == ()
  is_y = any("/se/" in name for name in found.tensors)
  assert is_y == ("_x." not in file)
  assert {name: t.shape for name, t in found.tensors.items()} == (
      variants.tensor_shapes(architecture(is_y), classes))


@pytest.mark.parametrize("file", FILES)
def test_opened_by_content_alone(file, tmp_path, monkeypatch):
  """Whatever its name is; and all of it is what the reader gives."""
  _, source, kind, classes = FILES[file]
  arch = architecture("_x." not in file)
  monkeypatch.setattr(
      variants, "architectures",
      lambda variant, rules: (arch,) if rules == "torch" else ())
  path = tmp_path / "weights"
  path.write_bytes((FIXTURES / file).read_bytes())
  opened = checkpoints.open(path, variants.by_name("200mf"))
  assert (opened.layout.source, opened.layout.format) == (source, kind)
  assert opened.num_classes == classes
  assert opened.channel_order == ("BGR" if source == "pycls" else "RGB")
  expected = tensors(file)
  assert set(opened.tensors) == set(expected)
  for name, values in expected.items():
    np.testing.assert_array_equal(opened.tensors[name], values)
    assert opened.tensors[name].dtype == np.float32


@pytest.mark.parametrize("size", ["even", "odd"])
@pytest.mark.parametrize("file", FILES)
def test_outputs_are_the_originals(file, size):
  logits, features = outputs(tensors(file), size)
  expected = {part: reference()[f"{FILES[file][0]}/{size}/{part}"]
              for part in ("logits", "features")}
  assert difference(logits, expected["logits"]) < TOLERANCE
  assert difference(features, expected["features"]) < TOLERANCE


# What each mistake moves the logits by, at least (the least by 8e-3).
NOTICED = 10 * TOLERANCE


@pytest.mark.parametrize("file", ["pycls_y.pyth", "pycls_x.pyth"])
def test_an_unreversed_pycls_stem_is_noticed(file):
  values = dict(tensors(file))
  values["stem/conv"] = values["stem/conv"][:, :, ::-1]
  assert logits_difference(file, values=values) > NOTICED


@pytest.mark.parametrize("file", ["timm_y.safetensors", "torchvision_y.pth"])
def test_a_reversed_rgb_stem_is_noticed(file):
  values = dict(tensors(file))
  values["stem/conv"] = values["stem/conv"][:, :, ::-1]
  assert logits_difference(file, values=values) > NOTICED


def test_missing_normalisation_is_noticed():
  file = "torchvision_y.pth"
  assert logits_difference(file, mean=(0.0,) * 3, std=(1.0,) * 3) > NOTICED
  assert logits_difference(file, mean=(0.0,) * 3) > NOTICED
  # pycls normalises in RGB, before it reverses the channels.
  assert logits_difference(
      "pycls_y.pyth", mean=preprocessing.IMAGENET_MEAN[::-1]) > NOTICED


@pytest.mark.parametrize("field", ["stem_padding", "padding"])
def test_other_padding_is_noticed(field):
  arch = architecture(True)
  rules = dataclasses.replace(arch.convention, **{field: "SAME"})
  arch = dataclasses.replace(arch, convention=rules)
  assert logits_difference("timm_y.safetensors", arch=arch) > NOTICED


def test_another_epsilon_is_noticed(monkeypatch):
  monkeypatch.setattr(variants, "BATCH_NORM_EPSILON", 1e-3)
  assert logits_difference("timm_y.safetensors") > NOTICED


def test_other_weights_of_a_file_are_noticed():
  logits, _ = outputs(tensors("pycls_y.pyth"), "even")
  model = reference()["pycls_y_model/even/logits"]
  assert difference(logits, model) > NOTICED
  logits, _ = outputs(tensors("timm_training.pth.tar"), "even")
  assert difference(logits, reference()["timm_y/even/logits"]) > NOTICED


def test_another_order_of_groups_is_noticed():
  values = dict(tensors("timm_y.safetensors"))
  name = "stage4/block1/b/conv"
  kernel = values[name]  # [3, 3, group width, groups * group width].
  values[name] = kernel.reshape(3, 3, 8, 5, 8).swapaxes(3, 4).reshape(
      kernel.shape)
  assert logits_difference("timm_y.safetensors", values=values) > NOTICED
  values[name] = kernel.swapaxes(0, 1)  # Height for width.
  assert logits_difference("timm_y.safetensors", values=values) > NOTICED
