"""Tests that a module gives the same bytes whatever its process did before."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from hub_export import canonical
from hub_export import preprocessing
from hub_export.regnet import modules
from hub_export.regnet import network
from hub_export.regnet import variants
from tests import tiny_export
from tests import tiny_module

_ROOT = pathlib.Path(__file__).absolute().parents[1]
_STEPS = preprocessing.Preprocessing(
    (preprocessing.Resize("shorter", 40, "bilinear", True),), 32)


def trace_others(number, is_portable):
  """Traces functions that a process may have traced before."""
  for i in range(number):
    @tf.function
    def serving(images, i=i):
      return tf.map_fn(lambda x: x + i, images)
    serving.get_concrete_function(tf.TensorSpec([None], tf.float32))
  tiny_module.make(seed=7, is_portable=is_portable)


def save_tiny(directory, is_portable):
  """Saves the tiny module as it is written, less what belongs to exports."""
  module = tiny_module.make(is_portable=is_portable)
  tf.saved_model.save(module.root, str(directory), signatures=module.signatures)
  canonical.canonicalise(directory)
  return module


def save_network(directory):
  """Saves a RegNetY-200MF with random weights: two forms of gradient in it."""
  arch, = variants.architectures(variants.by_name("200mf"), "keras")
  tensors = network.initial_tensors(arch, 10, seed=3)
  net = network.Network(arch, tensors, _STEPS.mean, _STEPS.std, portable=True)
  root = modules.Classifier(net, tuple("0123456789"), _STEPS)
  tf.saved_model.save(root, str(directory), signatures=root.trace())
  canonical.canonicalise(directory)


# What another process runs, after as many others of its own.
_PROGRAM = """
import pathlib, sys
from tests import canonical_test as t
directory = pathlib.Path(sys.argv[1])
for is_portable in (False, True):
  t.trace_others(3, not is_portable)
  t.save_tiny(directory / f"tiny{is_portable}", is_portable)
t.trace_others(40, False)
t.save_network(directory / "network")
"""


@pytest.fixture(name="elsewhere", scope="module")
def _elsewhere(tmp_path_factory):
  """Directory of what a process with another history saved."""
  directory = tmp_path_factory.mktemp("elsewhere")
  done = subprocess.run(
      [sys.executable, "-c", _PROGRAM, str(directory)], cwd=_ROOT,
      env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
      capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return directory


def _assert_same(one, other):
  found, expected = tiny_export.tree(one), tiny_export.tree(other)
  assert found.keys() == expected.keys()
  assert [k for k in found if found[k] != expected[k]] == []


class TestBytes:

  @pytest.mark.parametrize("is_portable", [False, True])
  def test_same_in_two_processes(self, tmp_path, elsewhere, is_portable):
    save_tiny(tmp_path / "here", is_portable)
    _assert_same(tmp_path / "here", elsewhere / f"tiny{is_portable}")

  def test_same_network_in_two_processes(self, tmp_path, elsewhere):
    save_network(tmp_path / "here")
    _assert_same(tmp_path / "here", elsewhere / "network")

  @pytest.mark.parametrize("is_portable", [False, True])
  def test_same_twice_in_one_process(self, tmp_path, is_portable):
    module = save_tiny(tmp_path / "a", is_portable)
    # The same module once more: its signatures' wrappers are traced again.
    tf.saved_model.save(module.root, str(tmp_path / "b"),
                        signatures=module.signatures)
    canonical.canonicalise(tmp_path / "b")
    _assert_same(tmp_path / "a", tmp_path / "b")
    trace_others(2, True)
    save_tiny(tmp_path / "c", is_portable)
    _assert_same(tmp_path / "a", tmp_path / "c")

  def test_canonical_stays_canonical(self, tmp_path):
    save_tiny(tmp_path, is_portable=True)
    before = tiny_export.tree(tmp_path)
    canonical.canonicalise(tmp_path)
    assert tiny_export.tree(tmp_path) == before

  def test_other_weights_and_graphs_differ(self, tmp_path):
    """Sameness is worth something only where what differs differs."""
    module = tiny_module.make(seed=1)
    tf.saved_model.save(module.root, str(tmp_path / "weights"),
                        signatures=module.signatures)
    canonical.canonicalise(tmp_path / "weights")
    for name, is_portable in (("plain", False), ("portable", True)):
      save_tiny(tmp_path / name, is_portable)
    trees = {name: tiny_export.tree(tmp_path / name)
             for name in ("weights", "plain", "portable")}
    assert len({t["fingerprint.pb"] for t in trees.values()}) == 3
    data = "variables/variables.data-00000-of-00001"
    assert trees["plain"][data] == trees["portable"][data]
    assert trees["plain"][data] != trees["weights"][data]
    assert trees["plain"]["saved_model.pb"] != trees["portable"][
        "saved_model.pb"]

  def test_names_are_unique_and_hold_no_counter(self, tmp_path):
    trace_others(5, True)
    save_tiny(tmp_path, is_portable=True)
    saved = saved_model_pb2.SavedModel.FromString(
        (tmp_path / "saved_model.pb").read_bytes())
    library = saved.meta_graphs[0].graph_def.library
    names = [f.signature.name for f in library.function]
    assert len(set(names)) == len(names) > 10
    assert names == sorted(names)
    objects = saved.meta_graphs[0].object_graph_def
    assert set(objects.concrete_functions) <= set(names)
    registered = [g.registered_op_type for g in library.registered_gradients]
    # Of three traces of __call__: inference, training, images of a fixed size.
    assert registered == [f"CustomGradient-000{i}" for i in range(3)]


class TestLoaded:
  """A renamed graph still computes what it did."""

  @pytest.mark.parametrize("is_portable", [False, True])
  def test_outputs_and_gradients(self, tmp_path, is_portable):
    module = save_tiny(tmp_path, is_portable)
    loaded = tf.saved_model.load(str(tmp_path))
    images = tf.constant(module.golden_images)
    for training in (False, True):
      results = []
      for root in (module.root, loaded):
        with tf.GradientTape() as tape:
          tape.watch(images)
          logits = root(images, training=training)
          # Not a plain sum, whose gradient hides a mixed-up upstream one.
          loss = tf.reduce_sum(logits * [[1.0, -2.0, 3.0, 0.5]])
        results.append([logits, *tape.gradient(
            loss, [images, *root.trainable_variables])])
      assert all(np.abs(value).max() > 1e-3 for value in results[0])
      for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(loaded(images), loaded(images, training=True))

  def test_signatures_and_their_loop(self, tmp_path):
    module = save_tiny(tmp_path, is_portable=True)
    signatures = tf.saved_model.load(str(tmp_path)).signatures
    np.testing.assert_allclose(
        signatures["serving_default"](
            images=tf.constant(module.golden_images))["logits"],
        module.golden_outputs, rtol=1e-5)
    pixels = (module.golden_images * 255).astype(np.uint8)
    encoded = tf.constant([tf.io.encode_png(p).numpy() for p in pixels])
    logits = module.root(pixels.astype(np.float32) / 255).numpy()
    result = signatures["image_bytes"](image_bytes=encoded)
    np.testing.assert_array_equal(result["classes"][:, 0], logits.argmax(1))
    shares = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(
        result["probabilities"][:, 0], shares.max(1) / shares.sum(1), rtol=1e-4)
