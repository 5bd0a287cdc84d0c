"""Networks from TensorFlow checkpoints against the regnety project's network.

The project's program cannot run here (it wants another Keras); a stand-in with
its conventions and its checkpoints' names takes its place.
"""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from hub_export.regnet import checkpoints
from hub_export.regnet import network
from hub_export.regnet import variants
from hub_export.regnet import catalog
from tests import random_networks
from tests import regnety_standin

# As in keras_parity_test.py: float noise is 1e-6 to 1e-5, a fault over 1e-2.
TOLERANCE = 1e-4

# Totals with statistics, from the project's README (there as 3.23 to 6.5 M).
PARAMETERS = {"regnety_200mf": 3231768, "regnety_400mf": 4058874,
              "regnety_600mf": 6214472, "regnety_800mf": 6501112}


@functools.cache
def model_of(name):
  """Returns the stand-in with random weights and an optimizer that has run."""
  model = regnety_standin.build(name)
  random_networks.randomise(
      model, random_networks.images(224, 224, seed=11) * 255, seed=12)
  # The optimizer of 2021: its slots are what lies in the published files.
  model.compile(tf_keras.optimizers.legacy.Adam(), "mse", metrics=["accuracy"])
  # Adam moves nothing by a gradient of 0.
  model.optimizer.apply_gradients(
      [(tf.zeros_like(v), v) for v in model.trainable_variables])
  return model


def saved(name, directory):
  prefix = directory / f"{name}_best"
  model_of(name).save_weights(prefix)
  return prefix


def logits_of(checkpoint, images, mean=(0.485, 0.456, 0.406),
              std=(0.229, 0.224, 0.225)):
  ours = network.Network(checkpoint.architecture, checkpoint.tensors,
                         mean, std)
  features, _ = ours.features(tf.constant(images), False, tf.constant(0.9))
  return ours.logits(features).numpy()


def test_every_variant_is_covered():
  names = [e.variant for e in catalog.ENTRIES if e.source == "regnety"]
  assert list(PARAMETERS) == list(regnety_standin.MODELS) == names


@pytest.mark.parametrize("name", PARAMETERS)
def test_stand_in_has_the_published_size(name):
  assert model_of(name).count_params() == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_logits(name, tmp_path):
  prefix = saved(name, tmp_path)
  checkpoint = checkpoints.open(prefix, variants.by_name(name))
  assert checkpoint.num_classes == 1000
  assert checkpoint.architecture.convention.name == "regnety"
  assert sum(t.size for t in checkpoint.tensors.values()) == PARAMETERS[name]
  images = random_networks.images(224, 224, seed=13)
  expected = model_of(name)(images * 255, training=False)
  assert random_networks.difference(
      logits_of(checkpoint, images), expected) < TOLERANCE


@pytest.mark.parametrize("name", ["regnety_200mf", "regnety_400mf"])
def test_oblong_images(name, tmp_path):
  checkpoint = checkpoints.open(saved(name, tmp_path), variants.by_name(name))
  images = random_networks.images(256, 320, seed=14)
  expected = regnety_standin.at_size(model_of(name), images * 255)
  assert random_networks.difference(
      logits_of(checkpoint, images), expected) < TOLERANCE


def test_keys_are_those_of_the_published_files(tmp_path):
  """Otherwise a reader that fits the stand-in would prove nothing."""
  name = "regnety_400mf"
  reader = tf.train.load_checkpoint(str(saved(name, tmp_path)))
  value = "/.ATTRIBUTES/VARIABLE_VALUE"
  shapes = reader.get_variable_to_shape_map()
  assert shapes[f"layer_with_weights-0/conv3x3/kernel{value}"] == [3, 3, 3, 32]
  assert f"layer_with_weights-0/bn/moving_variance{value}" in shapes
  block = "layer_with_weights-3/stage/0/"
  for part, shape in {
      "conv1x1_1/kernel": [1, 1, 104, 208], "bn1x1_1/gamma": [208],
      "conv3x3/kernel": [3, 3, 8, 208], "bn3x3/beta": [208],
      "se/squeeze_conv/kernel": [1, 1, 208, 52], "se/squeeze_conv/bias": [52],
      "se/excite_conv/kernel": [1, 1, 52, 208], "se/excite_conv/bias": [208],
      "conv1x1_2/kernel": [1, 1, 208, 208], "bn1x1_2/moving_mean": [208],
      "skip_conv/kernel": [1, 1, 104, 208], "bn_skip/gamma": [208]}.items():
    assert shapes[f"{block}{part}{value}"] == shape
  assert shapes[f"layer_with_weights-5/fc/kernel{value}"] == [440, 1000]
  # What else lies in a file that was written in training.
  assert ("layer_with_weights-0/conv3x3/kernel/.OPTIMIZER_SLOT/optimizer/m"
          f"{value}") in shapes
  assert f"optimizer/iter{value}" in shapes
  assert "_CHECKPOINTABLE_OBJECT_GRAPH" in shapes


def test_checkpoint_with_a_save_counter(tmp_path):
  """tf.train.Checkpoint counts its saves, and numbers the files by it."""
  name = "regnety_200mf"
  plain = checkpoints.open(saved(name, tmp_path), variants.by_name(name))
  path = tf.train.Checkpoint(root=model_of(name)).save(tmp_path / "epoch")
  assert "save_counter/.ATTRIBUTES/VARIABLE_VALUE" in (
      tf.train.load_checkpoint(path).get_variable_to_shape_map())
  counted = checkpoints.open(tmp_path / "epoch-1", variants.by_name(name))
  assert counted.digests["sha256"] == plain.digests["sha256"]


def test_optimizer_of_today(tmp_path):
  """Its moments are called otherwise: optimizer/_variables/1."""
  name = "regnety_200mf"
  plain = checkpoints.open(saved(name, tmp_path), variants.by_name(name))
  model = tf_keras.Sequential(
      [tf_keras.layers.InputLayer((224, 224, 3)), *model_of(name).layers])
  model.compile("adam", "mse")
  model.optimizer.build(model.trainable_variables)
  model.save_weights(tmp_path / "today")
  assert any(key.startswith("optimizer/_variables/") for key, _ in
             tf.train.list_variables(str(tmp_path / "today")))
  today = checkpoints.open(tmp_path / "today", variants.by_name(name))
  assert today.digests["sha256"] == plain.digests["sha256"]


class TestBrokenConventions:
  """Would the comparison notice? Each time, one thing is done wrong."""

  NAME = "regnety_400mf"
  FAR = 100 * TOLERANCE

  @pytest.fixture(name="checkpoint")
  def checkpoint_fixture(self, tmp_path):
    return checkpoints.open(saved(self.NAME, tmp_path),
                            variants.by_name(self.NAME))

  def difference(self, checkpoint, fed=None, **rules):
    """Returns how far the logits are off with other rules."""
    images = random_networks.images(224, 224, seed=13)
    arch = checkpoint.architecture
    broken = dataclasses.replace(checkpoint, architecture=dataclasses.replace(
        arch, convention=dataclasses.replace(arch.convention, **rules)))
    expected = model_of(self.NAME)(images * 255, training=False)
    return random_networks.difference(logits_of(broken, images, **(fed or {})), expected)

  def test_nothing_broken(self, checkpoint):
    assert self.difference(checkpoint) < TOLERANCE

  def test_stem_with_padding(self, checkpoint):
    assert self.difference(checkpoint, stem_padding="SAME") > self.FAR

  def test_mean_forgotten(self, checkpoint):
    assert self.difference(checkpoint, {"mean": (0.0,) * 3}) > self.FAR

  def test_variance_for_deviation(self, checkpoint):
    assert self.difference(checkpoint, {
        "std": (0.052441, 0.050176, 0.050625)}) > self.FAR

  def test_deviations_in_reverse(self, checkpoint):
    assert self.difference(checkpoint, {
        "std": (0.225, 0.224, 0.229)}) > 10 * TOLERANCE

  def test_epsilon_of_keras_default(self, checkpoint, monkeypatch):
    monkeypatch.setattr(variants, "BATCH_NORM_EPSILON", 1e-3)
    assert self.difference(checkpoint) > 10 * TOLERANCE

  def test_kernel_turned(self, checkpoint):
    """A grouped kernel read upside down fits in shape."""
    tensors = dict(checkpoint.tensors)
    name = "stage2/block1/b/conv"
    tensors[name] = np.ascontiguousarray(tensors[name][::-1])
    assert self.difference(
        dataclasses.replace(checkpoint, tensors=tensors)) > self.FAR
