"""The reference against the network, and against the sources' own programs."""

import collections.abc
import pathlib
import weakref

import numpy as np
import pytest
import tensorflow as tf

from hub_export import preprocessing
from hub_export.regnet import network
from hub_export.regnet import reference
from hub_export.regnet import variants
from hub_export.regnet.checkpoints import torch_checkpoint
from tests import random_networks

# Of float64 here and float32 there, in networks of few layers; a tenth of the
# least that the checks let pass.
TOLERANCE = 1e-5
MEAN, STD = preprocessing.IMAGENET_MEAN, preprocessing.IMAGENET_STD


# Files whose outputs timm, torchvision and pycls themselves have computed; see
# fixtures/make_torch_fixtures.py.
FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "torch"
FILES = ("timm_y.safetensors", "timm_x.bin", "torchvision_y.pth",
         "torchvision_x.pth", "pycls_y.pyth", "pycls_x.pyth")


def _stored(file):
  """Returns canonical name -> float32 values of a fixture."""
  found = torch_checkpoint.read(FIXTURES / file)
  return {name: np.ascontiguousarray(t.read(), np.float32)
          for name, t in found.tensors.items()}


@pytest.mark.parametrize("size", ["even", "odd"])
@pytest.mark.parametrize("file", FILES)
def test_as_the_real_libraries(file, size):
  with np.load(FIXTURES / "reference.npz") as archive:
    images = archive[f"images/{size}"].astype(np.float32) / 255
    expected = {part: archive[f"{file.split('.')[0]}/{size}/{part}"]
                for part in ("features", "logits")}
  features, logits = reference.outputs(
      _stored(file), "torch", MEAN, STD, images)
  assert random_networks.difference(
      expected["features"], features) < TOLERANCE
  assert random_networks.difference(expected["logits"], logits) < TOLERANCE


class _OneByOne(collections.abc.Mapping):
  """Tensors of which no two are ever held at once, as of a large file."""

  def __init__(self, tensors):
    self._tensors = tensors
    self._given = None
    self.asked = []

  def __getitem__(self, name):
    assert self._given is None or self._given() is None, (
        f"{self.asked[-1]} is still held when {name} is asked for")
    values = self._tensors[name].copy()
    self._given = weakref.ref(values)
    self.asked.append(name)
    return values

  def __contains__(self, name):
    return name in self._tensors

  def __iter__(self):
    return iter(self._tensors)

  def __len__(self):
    return len(self._tensors)


def test_each_tensor_once_and_let_go():
  tensors = _OneByOne(_stored("timm_y.safetensors"))
  images = random_networks.images(64, 64, seed=3)
  reference.outputs(tensors, "torch", MEAN, STD, images)
  assert sorted(tensors.asked) == sorted(tensors)


def _tensors(arch, classes, seed=0):
  """Returns tensors whose every part matters, and stays in bounds."""
  rng = np.random.default_rng(seed)
  tensors = network.initial_tensors(arch, classes, seed)
  for name, values in tensors.items():
    if name.endswith("/gamma"):
      values[:] = rng.uniform(0.7, 1.3, values.shape)
    elif name.endswith(("/beta", "/bias")):
      values[:] = rng.normal(0, 0.2, values.shape)
  net = network.Network(arch, tensors, MEAN, STD)
  images = random_networks.images(96, 96, seed=seed, count=4)
  net.features(tf.constant(images), True, tf.constant(0.0))
  return {v.name.removesuffix(":0"): v.numpy() for v in net.variables}


def _network(arch, tensors, images):
  net = network.Network(arch, tensors, MEAN, STD)
  features, _ = net.features(tf.constant(images), False, tf.constant(0.9))
  return features.numpy(), net.logits(features).numpy()


@pytest.mark.parametrize("convention", [c.name for c in variants.CONVENTIONS])
@pytest.mark.parametrize("name", ["regnety_200mf", "regnetx_200mf"])
def test_as_the_network(name, convention):
  """Within what float32 costs, which is what the golden check lets pass."""
  arch = variants.architectures(variants.by_name(name), convention)[0]
  tensors = _tensors(arch, 10)
  images = random_networks.images(64, 97, seed=3)
  exact, rounded = (
      reference.outputs(tensors, convention, MEAN, STD, images, dtype)
      for dtype in (np.float64, np.float32))
  for ours, here, there in zip(
      _network(arch, tensors, images), exact, rounded, strict=True):
    noise = random_networks.difference(there, here)
    assert noise < 1e-4
    assert random_networks.difference(ours, here) < 4 * noise
    assert (here.dtype, there.dtype) == (np.float64, np.float32)


def test_without_a_head():
  arch = variants.architectures(variants.by_name("200mf"), "torch")[0]
  tensors = _tensors(arch, 10)
  images = random_networks.images(64, 64, seed=3)
  features, _ = reference.outputs(tensors, "torch", MEAN, STD, images)
  headless = {n: t for n, t in tensors.items() if not n.startswith("head/")}
  again, logits = reference.outputs(headless, "torch", MEAN, STD, images)
  assert logits is None
  np.testing.assert_array_equal(again, features)
