"""Modules in bfloat16 and float16: what they compute in, and how they train.

Images are loaded modules' own choice of precision, so every test goes through
a SavedModel; the network has four blocks.
"""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras
from tensorflow.core.protobuf import saved_model_pb2

from hub_export import canonical
from hub_export.regnet import modules
from hub_export.regnet import network
from hub_export.regnet import variants
from tests import random_networks

TINY = variants.Variant("tiny", depth=5, w_0=16, w_a=8.0, w_m=1.5,
                        group_width=8)
SIZE_PX = 32
CLASSES = 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of the outputs' standard deviation. Numbers have 8 and 11 bits; some twenty
# convolutions and additions add up their roundings.
TOLERANCE = {"bfloat16": 0.1, "float16": 0.0125}
# Half a bit of each: what agrees better was not computed in that dtype.
LEAST = {"bfloat16": 2**-10, "float16": 2**-13}


def _save(path, root):
  tf.saved_model.save(root, str(path), signatures=root.trace())
  canonical.canonicalise(path)  # As an export is.
  return str(path)


def _tensors(arch):
  """Returns weights and statistics that are unlike each other everywhere."""
  tensors = network.initial_tensors(arch, CLASSES, seed=1)
  random = np.random.default_rng(2)
  for name, values in tensors.items():
    if name.endswith(("/gamma", "/moving_variance")):
      tensors[name] = random.uniform(0.7, 1.4, values.shape).astype("f")
    elif name.endswith(("/beta", "/moving_mean", "/bias")):
      tensors[name] = random.normal(0, 0.2, values.shape).astype("f")
    elif name == "head/kernel":
      tensors[name] *= 30  # Else the bias would outweigh all that is tested.
  return tensors


@pytest.fixture(name="saved", scope="module")
def _saved(tmp_path_factory):
  """Returns name -> directory; the classifier is portable."""
  arch, = variants.architectures(TINY, "torch")
  tensors = _tensors(arch)
  path = tmp_path_factory.mktemp("modules")
  prep = type("Preparation", (), {"apply_batch": staticmethod(
      lambda encoded: tf.zeros([tf.size(encoded), SIZE_PX, SIZE_PX, 3]))})
  made = {}
  for name, portable in (("main", False), ("portable", True)):
    net = network.Network(arch, tensors, MEAN, STD, portable)
    labels = [str(i) for i in range(CLASSES)]
    made[name] = _save(path / name, modules.Classifier(net, labels, prep))
    if not portable:
      made["features"] = _save(
          path / "features", modules.FeatureExtractor(net, prep))
  return made


@pytest.fixture(name="images", scope="module")
def _images():
  # Statistics of few pixels would magnify the noise.
  return random_networks.images(2 * SIZE_PX + 8, 2 * SIZE_PX, seed=3, count=8)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_close_to_float32_and_not_the_same(saved, images, dtype):
  low = tf.cast(images, dtype)
  for name in ("main", "features"):
    model = hub.load(saved[name])
    expected, actual = model(tf.constant(images)), model(low)
    assert actual.dtype == tf.float32
    difference = random_networks.difference(actual, expected)
    assert LEAST[dtype] < difference < TOLERANCE[dtype]
    if name == "features":
      endpoints = model(low, return_endpoints=True)
      assert {k: v.dtype.name for k, v in endpoints.items()} == {
          "features": "float32", **{f"stage{i}": dtype for i in range(1, 5)}}
      np.testing.assert_allclose(endpoints["features"], actual, atol=1e-5)
    trained = model(tf.constant(images), training=True)
    assert random_networks.difference(
        model(low, training=True), trained) < 4 * TOLERANCE[dtype]


def test_what_is_no_tensor_is_taken_as_float32(saved, images):
  """Of all traces that an array fits after conversion, the first is taken."""
  model = hub.load(saved["main"])
  expected = model(tf.constant(images)).numpy()
  for given in (images, images.tolist()):
    np.testing.assert_allclose(model(given), expected, atol=1e-5)


def test_variables_and_statistics_stay_float32(saved, images):
  model = hub.load(saved["main"])
  trainable = {v.name for v in model.trainable_variables}
  before = {v.name: v.numpy() for v in model.variables}
  model(tf.constant(images), training=True)
  wanted = {v.name: v.numpy() for v in model.variables}
  for v in model.variables:
    v.assign(before[v.name])
  model(tf.cast(images, tf.bfloat16), training=True)
  for v in model.variables:
    assert v.dtype == tf.float32
    if v.name in trainable:
      np.testing.assert_array_equal(v, before[v.name])
    else:
      way = np.abs(wanted[v.name] - before[v.name]).max()
      assert 0 < np.abs(v - before[v.name]).max()
      np.testing.assert_allclose(v, wanted[v.name], atol=0.1 * way)


# Without oneDNN for float16, grouped gradients of a CPU need the portable form.
@pytest.mark.parametrize("policy, name", [
    ("mixed_bfloat16", "main"), ("mixed_bfloat16", "portable"),
    ("mixed_float16", "portable")])
def test_trains_under_a_keras_policy(saved, policy, name):
  tf_keras.utils.set_random_seed(0)
  random = np.random.default_rng(4)
  targets = np.arange(16) % 2
  images = random.uniform(0, 0.4, (16, SIZE_PX, SIZE_PX, 3)).astype("f")
  images[..., 0] += 0.5 * targets[:, None, None]
  tf_keras.mixed_precision.set_global_policy(policy)
  try:
    layer = hub.KerasLayer(saved[name], trainable=True)
    dense = tf_keras.layers.Dense(2, dtype="float32")
    model = tf_keras.Sequential([layer, dense])
    optimizer = tf_keras.optimizers.SGD(0.05)
    if policy == "mixed_float16":  # From 2**15 it would skip the first steps.
      optimizer = tf_keras.mixed_precision.LossScaleOptimizer(
          optimizer, initial_scale=2**8)
    model.compile(
        optimizer,
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [v.numpy() for v in layer.trainable_weights]
    losses = model.fit(images, targets, batch_size=16, epochs=4, verbose=0,
                       shuffle=False).history["loss"]
    assert layer.compute_dtype == policy.removeprefix("mixed_")
    assert losses[-1] < 0.8 * losses[0]
    for v, old in zip(layer.trainable_weights, before, strict=True):
      assert v.dtype == tf.float32 and np.isfinite(v.numpy()).all()
      assert (v.numpy() != old).any(), v.name
    assert np.isfinite(model.predict(images, verbose=0)).all()
  finally:
    tf_keras.mixed_precision.set_global_policy("float32")


# Without oneDNN for float16, as above.
@pytest.mark.parametrize("dtype, portable", [
    ("bfloat16", False), ("bfloat16", True), ("float16", True)])
def test_gradients_are_those_of_float32(images, monkeypatch, dtype, portable):
  """float16 is scaled up before and down after, as its policy does it.

  Without kinks: a ReLU's slope jumps, so that any rounding before it counts by
  its square root. With ReLUs float32's own gradients change by 0.45 of their
  length where the images alone are rounded to bfloat16, 0.18 to float16, and
  bfloat16's own are off by 0.54, float16's by 0.22. Without, all are off in
  proportion: by rounded images 0.013 and 0.0013, in those dtypes 0.064 and
  0.005, of one variable alone 0.087 and 0.01 at most.
  """
  monkeypatch.setattr(tf.nn, "relu", tf.nn.softplus)
  arch, = variants.architectures(TINY, "torch")
  net = network.Network(arch, _tensors(arch), MEAN, STD, portable)
  upstream = tf.random.stateless_normal([len(images), CLASSES], [9, 9])
  scale = 2.0**10 if dtype == "float16" else 1.0

  @tf.function(autograph=False)
  def gradients(given, scale):
    with tf.GradientTape() as tape:
      features, _ = net.features(given, True, tf.constant(0.9))
      loss = scale * tf.reduce_mean(net.logits(features) * upstream)
    return [g / scale for g in tape.gradient(loss, net.trainable_variables)]

  wanted = gradients(tf.constant(images), tf.constant(1.0))
  found = gradients(tf.cast(images, dtype), tf.constant(scale))
  for got, want, v in zip(found, wanted, net.trainable_variables, strict=True):
    assert got.dtype == tf.float32
    off = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert off < 2 * TOLERANCE[dtype], v.name


@pytest.mark.parametrize("dtype, tolerance", [
    ("bfloat16", 2**-7), ("float16", 2**-10)])
@pytest.mark.parametrize("training", [False, True])
def test_gates_sum_all_pixels_up_in_float32(dtype, tolerance, training):
  """Of 64 x 64 pixels: more than float16 holds, or its bits can count."""
  random = np.random.default_rng(5)
  gate = network.SqueezeExcite("se", {
      "se/squeeze/kernel": random.normal(0, 0.02, (1, 1, 4, 3)).astype("f"),
      "se/squeeze/bias": np.ones(3, "f"),
      "se/excite/kernel": random.normal(0, 0.5, (1, 1, 3, 4)).astype("f"),
      "se/excite/bias": random.normal(0, 0.5, 4).astype("f")})
  images = tf.cast(random.uniform(20, 40, (2, 64, 64, 4)), dtype)
  upstream = tf.constant(random.uniform(0.5, 1, (2, 64, 64, 4)), tf.float32)

  def run(x):
    with tf.GradientTape() as tape:
      y = tf.cast(gate(x, training), tf.float32)
      loss = tf.reduce_sum(y * upstream)
    return [y, *tape.gradient(loss, gate.trainable_variables)]

  found, wanted = run(images), run(tf.cast(images, tf.float32))
  for got, want in zip(found[:None if training else 1], wanted):
    assert np.linalg.norm(got - want) < tolerance * np.linalg.norm(want)


@pytest.mark.parametrize("name", ["main", "features"])
def test_one_trace_for_each_dtype_and_value_of_training(saved, name):
  with open(f"{saved[name]}/saved_model.pb", "rb") as f:
    graph, = saved_model_pb2.SavedModel.FromString(f.read()).meta_graphs
  found = []
  for function in graph.graph_def.library.function:
    dtypes = {n.attr["T"].type for n in function.node_def if n.op == "Conv2D"}
    # The default, True, is left out.
    norms = {n.attr["U"].type for n in function.node_def
             if n.op == "FusedBatchNormV3" and "is_training" not in n.attr}
    if dtypes:
      found.append((tuple(dtypes), tuple(norms)))
  floats = [t.as_datatype_enum for t in modules.COMPUTE_DTYPES]
  assert floats[0] == tf.float32.as_datatype_enum
  assert collections.Counter(found) == collections.Counter(
      ((t,), norms) for t in floats for norms in ((), (floats[0],)))
