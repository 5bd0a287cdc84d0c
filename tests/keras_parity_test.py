"""Networks from .h5 files against tf_keras.applications, the real program.

Keras is fed pixels in [0, 255], as its RegNets want it, ours in [0, 1].
Weights and moving statistics are random: see random_networks.py.
"""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from hub_export import errors
from hub_export.regnet import checkpoints
from hub_export.regnet import grouped
from hub_export.regnet import network
from hub_export.regnet import variants
from tests import random_networks

# Two float32 programs, each correct, differ by the order of their sums: 1e-6
# to 1e-5 of the logits' standard deviation over 50 layers. A wrong convention
# moves the logits by over 1e-2 of it.
TOLERANCE = 1e-4

BUILDERS = {
    "regnetx_200mf": tf_keras.applications.RegNetX002,
    "regnety_200mf": tf_keras.applications.RegNetY002,
    "regnety_400mf": tf_keras.applications.RegNetY004,
    "regnety_600mf": tf_keras.applications.RegNetY006,
    "regnety_800mf": tf_keras.applications.RegNetY008,
}
# As tf_keras counts them, statistics included.
PARAMETERS = {"regnetx_200mf": 2705640, "regnety_200mf": 3183844,
              "regnety_400mf": 4371296, "regnety_600mf": 6084920,
              "regnety_800mf": 6293056}


@functools.cache
def keras_model(name, include_top=True, size=(224, 224)):
  """Returns a Keras model with random weights, the same for every size."""
  model = BUILDERS[name](weights=None, include_top=include_top,
                         input_shape=(*size, 3))
  if include_top and size == (224, 224):
    random_networks.randomise(
        model, random_networks.images(*size, seed=1) * 255, seed=2)
  else:
    # Without a head there are two weights less, the last two.
    weights = keras_model(name).get_weights()
    model.set_weights(weights if include_top else weights[:-2])
  return model


@functools.cache
def keras_output(name, include_top=True, size=(224, 224)):
  """Returns (images in [0, 1], what Keras makes of them)."""
  images = random_networks.images(*size, seed=3)
  model = keras_model(name, include_top, size)
  return images, model(images * 255, training=False).numpy()


def opened(path, name):
  return checkpoints.open(path, variants.by_name(name))


def run(checkpoint, images, portable=False, mean=(0.0,) * 3, std=(1.0,) * 3):
  """Returns (logits or None, features) of our network."""
  ours = network.Network(checkpoint.architecture, checkpoint.tensors, mean, std,
                         portable)
  features, _ = ours.features(tf.constant(images), False, tf.constant(0.9))
  logits = ours.logits(features).numpy() if checkpoint.num_classes else None
  return logits, features.numpy()


def assert_features(name, features, stage4):
  """Asserts that features are the global mean of Keras' last stage."""
  expected = stage4.mean(axis=(1, 2))
  # A single feature, not a sum over hundreds as a logit: more noise.
  assert random_networks.difference(features, expected) < 3 * TOLERANCE
  head = keras_model(name).layers[-1].kernel.numpy()
  assert random_networks.difference(
      features @ head, expected @ head) < TOLERANCE




@pytest.mark.parametrize("name", BUILDERS)
def test_weights_file(name, tmp_path):
  model = keras_model(name)
  assert model.count_params() == PARAMETERS[name]
  path = tmp_path / "weights.h5"
  model.save_weights(path)
  checkpoint = opened(path, name)
  assert checkpoint.num_classes == 1000
  assert checkpoint.architecture.convention.name == "keras"
  images, expected = keras_output(name)
  logits, _ = run(checkpoint, images)
  assert random_networks.difference(logits, expected) < TOLERANCE


@pytest.mark.parametrize("name", ["regnety_400mf", "regnety_800mf"])
def test_oblong_images(name, tmp_path):
  size = (256, 320)
  path = tmp_path / "weights.h5"
  keras_model(name).save_weights(path)
  images, expected = keras_output(name, size=size)
  logits, _ = run(opened(path, name), images)
  assert random_networks.difference(logits, expected) < TOLERANCE


@pytest.mark.parametrize("name", ["regnety_400mf"])
def test_weights_without_top(name, tmp_path):
  path = tmp_path / "weights_notop.h5"
  keras_model(name, include_top=False).save_weights(path)
  checkpoint = opened(path, name)
  assert checkpoint.num_classes == 0
  images, stage4 = keras_output(name, include_top=False)
  _, features = run(checkpoint, images)
  assert_features(name, features, stage4)


@pytest.mark.parametrize("include_top", [True, False])
@pytest.mark.parametrize("name", ["regnetx_200mf", "regnety_400mf"])
def test_whole_model(name, include_top, tmp_path):
  """model.save puts the weights elsewhere in the file; they are the same."""
  model = keras_model(name, include_top)
  path, weights = tmp_path / "model.h5", tmp_path / "weights.h5"
  model.save(path)
  model.save_weights(weights)
  assert opened(path, name).digests == opened(weights, name).digests
  images, expected = keras_output(name, include_top)
  logits, features = run(opened(path, name), images)
  if include_top:
    assert random_networks.difference(logits, expected) < TOLERANCE
  else:
    assert_features(name, features, expected)


@pytest.mark.parametrize("name", ["regnety_200mf"])
def test_whole_model_with_optimizer_state(name, tmp_path):
  model = tf_keras.models.clone_model(keras_model(name))
  model.set_weights(keras_model(name).get_weights())
  model.compile("adam", "mse", metrics=["accuracy"])
  model.optimizer.build(model.trainable_variables)
  path = tmp_path / "model.h5"
  model.save(path)
  # Two moments of float32 each come on top of the parameters.
  assert path.stat().st_size > 2.5 * 4 * PARAMETERS[name]
  images, expected = keras_output(name)
  logits, _ = run(opened(path, name), images)
  assert random_networks.difference(logits, expected) < TOLERANCE


def test_backbone_digest_is_the_same_without_the_head(tmp_path):
  whole, headless = tmp_path / "whole.h5", tmp_path / "headless.h5"
  keras_model("regnety_200mf").save_weights(whole)
  keras_model("regnety_200mf", include_top=False).save_weights(headless)
  whole = opened(whole, "regnety_200mf")
  headless = opened(headless, "regnety_200mf")
  backbone = whole.digests["backbone_sha256"]
  assert backbone == headless.digests["backbone_sha256"]
  assert backbone == headless.digests["sha256"]
  assert whole.digests["sha256"] != whole.digests["backbone_sha256"]


def test_stages_are_those_of_keras(tmp_path):
  """The endpoints are the outputs of each stage's last block."""
  name = "regnety_200mf"
  model = keras_model(name)
  path = tmp_path / "weights.h5"
  model.save_weights(path)
  checkpoint = opened(path, name)
  images, _ = keras_output(name)
  lasts = [f"regnety002_Stage_{s}_YBlock_{d - 1}_exit_relu"
           for s, d in enumerate((1, 1, 4, 7))]
  stages = tf_keras.Model(
      model.inputs, [model.get_layer(last).output for last in lasts])
  expected = stages(images * 255, training=False)
  ours = network.Network(checkpoint.architecture, checkpoint.tensors,
                         (0.0,) * 3, (1.0,) * 3)
  _, endpoints = ours.features(tf.constant(images), False, tf.constant(0.9))
  assert list(endpoints) == ["stage1", "stage2", "stage3", "stage4"]
  for ours, theirs in zip(endpoints.values(), expected, strict=True):
    # Single pixels, not means over them, and the worst of a million: noise of
    # 1e-4, where another stage's output would differ by 1 and more.
    assert random_networks.difference(ours, theirs) < 10 * TOLERANCE


class TestBrokenConventions:
  """Would the comparison notice? Each time, one thing is done wrong."""

  NAME = "regnety_400mf"
  FAR = 100 * TOLERANCE

  @pytest.fixture(name="checkpoint")
  def checkpoint_fixture(self, tmp_path):
    path = tmp_path / "weights.h5"
    keras_model(self.NAME).save_weights(path)
    return opened(path, self.NAME)

  def difference(self, checkpoint, change=lambda images: images, **fed):
    images, expected = keras_output(self.NAME)
    logits, _ = run(checkpoint, change(images), **fed)
    return random_networks.difference(logits, expected)

  def test_nothing_broken(self, checkpoint):
    assert self.difference(checkpoint) < TOLERANCE

  def test_portable_form(self, checkpoint):
    images, expected = keras_output(self.NAME)
    logits, _ = run(checkpoint, images, portable=True)
    assert random_networks.difference(logits, expected) < TOLERANCE

  def test_epsilon_of_keras_default(self, checkpoint, monkeypatch):
    monkeypatch.setattr(variants, "BATCH_NORM_EPSILON", 1e-3)
    # Variances here are about 1, so that little comes of it.
    assert self.difference(checkpoint) > 10 * TOLERANCE

  @pytest.mark.parametrize("rules", [
      {"stem_padding": "SYMMETRIC"}, {"padding": "SYMMETRIC"},
      {"stem_padding": "VALID"}])
  def test_other_padding(self, checkpoint, rules):
    arch = checkpoint.architecture
    broken = dataclasses.replace(checkpoint, architecture=dataclasses.replace(
        arch, convention=dataclasses.replace(arch.convention, **rules)))
    assert self.difference(broken) > self.FAR

  def test_mean_and_deviation_of_imagenet(self, checkpoint):
    assert self.difference(checkpoint, mean=(0.485, 0.456, 0.406),
                           std=(0.229, 0.224, 0.225)) > self.FAR

  def test_channels_reversed(self, checkpoint):
    assert self.difference(checkpoint, lambda x: x[..., ::-1]) > self.FAR

  def test_pixels_up_to_255(self, checkpoint):
    assert self.difference(checkpoint, lambda x: x * 255) > self.FAR

  def test_groups_in_another_order(self, checkpoint, monkeypatch):
    real = grouped.conv2d

    def conv2d(images, kernel, stride, padding):
      groups = images.shape[3] // kernel.shape[2]
      rows = tf.reshape(images, [*images.shape[:3], groups, -1])
      mixed = tf.reshape(tf.transpose(rows, [0, 1, 2, 4, 3]), images.shape)
      return real(mixed, kernel, stride, padding)

    monkeypatch.setattr(grouped, "conv2d", conv2d)
    assert self.difference(checkpoint) > self.FAR

  def test_mean_and_variance_exchanged(self, checkpoint):
    tensors = dict(checkpoint.tensors)
    mean = tensors["stem/bn/moving_mean"]
    tensors["stem/bn/moving_mean"] = tensors["stem/bn/moving_variance"]
    tensors["stem/bn/moving_variance"] = np.abs(mean)
    broken = dataclasses.replace(checkpoint, tensors=tensors)
    assert self.difference(broken) > self.FAR

  def test_se_width_from_the_output(self, tmp_path, monkeypatch):
    path = tmp_path / "weights.h5"
    keras_model(self.NAME).save_weights(path)
    monkeypatch.setattr(variants, "CONVENTIONS", tuple(
        dataclasses.replace(c, se_base="output") for c in variants.CONVENTIONS))
    with pytest.raises(errors.CheckpointError, match=(
        r"misshapen: regnety004_Stage_0_YBlock_0_squeeze_and_excite_squeeze/"
        r"kernel:0 is \[1, 1, 48, 8\], expected \[1, 1, 48, 12\]")):
      opened(path, self.NAME)
