"""The network's parts against formulas written out in numpy."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from checks import trainability
from hub_export.regnet import network
from hub_export.regnet import variants

_RNG = np.random.default_rng(7)
_MEAN, _STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def _bn_tensors(prefix, width):
  return {f"{prefix}/{leaf}": _RNG.uniform(low, high, width).astype("f")
          for leaf, low, high in (("gamma", 0.5, 1.5), ("beta", -1, 1),
                                  ("moving_mean", -1, 1),
                                  ("moving_variance", 0.5, 2))}


@pytest.fixture(scope="module")
def small():
  """A whole network of the smallest variant with unlike statistics."""
  arch, = variants.architectures(variants.by_name("200mf"), "keras")
  tensors = network.initial_tensors(arch, 10, seed=3)
  for name in tensors:
    if name.endswith(("/gamma", "/moving_variance")):
      tensors[name] = _RNG.uniform(0.7, 1.4, tensors[name].shape).astype("f")
    elif name.endswith(("/beta", "/moving_mean", "/bias")):
      tensors[name] = _RNG.normal(0, 0.2, tensors[name].shape).astype("f")
  return arch, tensors


def test_batch_norm_at_inference():
  """Three layers of unlike widths; the second's kernel is too large to fold."""
  x = _RNG.normal(size=(2, 4, 5, 3)).astype("f")
  layers, expected = [], []
  for name, width in (("a", 5), ("b", 1 << 16), ("c", 4)):
    t = _bn_tensors(f"{name}/bn", width)
    t[f"{name}/conv"] = _RNG.normal(size=(1, 1, 3, width)).astype("f")
    layers.append(network.ConvBN(name, t))
    expected.append(
        (x @ t[f"{name}/conv"][0, 0] - t[f"{name}/bn/moving_mean"])
        / np.sqrt(t[f"{name}/bn/moving_variance"] + 1e-5)
        * t[f"{name}/bn/gamma"] + t[f"{name}/bn/beta"])
  assert [layer.is_folded(tf.float32) for layer in layers] == [
      True, False, True]
  for addend in (None, 2.0):
    this = network.Pass(False, tf.float32, layers)
    for layer, wanted in zip(layers, expected, strict=True):
      added = None if addend is None else tf.fill(wanted.shape, addend)
      np.testing.assert_allclose(layer(x, this, added), wanted + (addend or 0),
                                 atol=2e-5)


@pytest.mark.parametrize("momentum", [0.9, 0.25, 0.0, 1.0])
def test_batch_norm_in_training(momentum):
  """Two at once, of unlike widths, each by its own statistics."""
  this = network.Pass(True, tf.float32, [])
  expected = []
  for width in (3, 5):
    t = _bn_tensors("bn", width)
    x = _RNG.normal(2, 3, size=(2, 4, 5, width)).astype("f")
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    bn = network.BatchNorm("bn", t)
    actual = this.normalised(bn, tf.constant(x))
    np.testing.assert_allclose(
        actual, (x - mean) / np.sqrt(variance + 1e-5) * t["bn/gamma"]
        + t["bn/beta"], atol=1e-4)
    np.testing.assert_array_equal(bn.moving_mean, t["bn/moving_mean"])
    # The variance that is kept is the unbiased one, of n - 1.
    expected += [(bn.moving_mean, t["bn/moving_mean"], mean),
                 (bn.moving_variance, t["bn/moving_variance"],
                  variance * 40 / 39)]
  this.update_statistics(1 - momentum)
  for moving, old, new in expected:
    np.testing.assert_allclose(
        moving, momentum * old + (1 - momentum) * new, rtol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("padding", ["SAME", "SYMMETRIC"])
def test_grouped_conv_bn(training, portable, padding):
  """The folded way of inference equals convolution, then batch norm."""
  t = _bn_tensors("b/bn", 6)
  t["b/conv"] = _RNG.normal(size=(3, 3, 2, 6)).astype("f")
  x = _RNG.normal(size=(2, 7, 8, 6)).astype("f")
  part = network.GroupedConvBN("b", t, 2, padding, portable)
  actual = part(x, network.Pass(training, tf.float32, [part]))
  pads = ([[0, 0], [1, 1], [1, 1], [0, 0]] if padding == "SYMMETRIC"
          else padding)
  y = np.concatenate([tf.nn.conv2d(x[..., i:i + 2], t["b/conv"][..., i:i + 2],
                                   2, pads) for i in (0, 2, 4)], -1)
  mean = y.mean((0, 1, 2)) if training else t["b/bn/moving_mean"]
  variance = y.var((0, 1, 2)) if training else t["b/bn/moving_variance"]
  expected = ((y - mean) / np.sqrt(variance + 1e-5) * t["b/bn/gamma"]
              + t["b/bn/beta"])
  np.testing.assert_allclose(actual, expected, atol=2e-4)


def test_squeeze_excite():
  t = {"se/squeeze/kernel": _RNG.normal(size=(1, 1, 4, 2)).astype("f"),
       "se/squeeze/bias": _RNG.normal(size=2).astype("f"),
       "se/excite/kernel": _RNG.normal(size=(1, 1, 2, 4)).astype("f"),
       "se/excite/bias": _RNG.normal(size=4).astype("f")}
  x = _RNG.normal(size=(3, 5, 6, 4)).astype("f")
  hidden = np.maximum(x.mean((1, 2)) @ t["se/squeeze/kernel"][0, 0]
                      + t["se/squeeze/bias"], 0)
  gate = 1 / (1 + np.exp(-(hidden @ t["se/excite/kernel"][0, 0]
                           + t["se/excite/bias"])))
  for training in (False, True):
    np.testing.assert_allclose(network.SqueezeExcite("se", t)(x, training),
                               x * gate[:, None, None], atol=1e-5)


def test_endpoints_are_the_stages(small):
  arch, tensors = small
  net = network.Network(arch, tensors, _MEAN, _STD)
  images = _RNG.uniform(size=(2, 64, 96, 3)).astype("f")
  features, endpoints = net.features(images, False, 0.9)
  assert {k: tuple(v.shape) for k, v in endpoints.items()} == {
      "stage1": (2, 16, 24, 24), "stage2": (2, 8, 12, 56),
      "stage3": (2, 4, 6, 152), "stage4": (2, 2, 3, 368)}
  np.testing.assert_allclose(features, np.mean(endpoints["stage4"], (1, 2)),
                             atol=1e-6)
  assert min(np.min(v) for v in endpoints.values()) >= 0  # After the ReLU.


def test_portable_network_computes_and_learns_the_same(small):
  arch, tensors = small
  images = _RNG.uniform(size=(4, 40, 33, 3)).astype("f")
  results = []
  for portable in (False, True):
    net = network.Network(arch, tensors, _MEAN, _STD, portable)
    with tf.GradientTape() as tape:
      logits = net.logits(net.features(images, True, 0.9)[0])
      loss = tf.reduce_sum(tf.nn.log_softmax(logits)[:, 3])
    gradients = tape.gradient(loss, net.trainable_variables)
    moving = {v.name.removesuffix(":0"): v.numpy() for v in net.variables
              if "/moving_" in v.name}
    results.append((logits, gradients, moving))
  (logits, gradients, moving), (
      portable_logits, portable_gradients, portable_moving) = results
  np.testing.assert_allclose(portable_logits, logits, atol=1e-5)
  for name, values in moving.items():
    assert not np.any(values == tensors[name]), name
    np.testing.assert_allclose(portable_moving[name], values, atol=1e-4)
  for got, wanted in zip(portable_gradients, gradients, strict=True):
    np.testing.assert_allclose(
        got, wanted, atol=2e-3 * max(1.0, float(np.abs(wanted).max())))


def test_images_are_normalised_inside(monkeypatch):
  """Images come in [0, 1]; what reaches the stem is normalised by channel."""
  arch, = variants.architectures(variants.by_name("200mf"), "regnety")
  net = network.Network(arch, network.initial_tensors(arch, 10, seed=1),
                        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
  images = _RNG.uniform(size=(2, 64, 64, 3)).astype("f")
  normalised = np.stack([(images[..., 0] - 0.485) / 0.229,
                         (images[..., 1] - 0.456) / 0.224,
                         (images[..., 2] - 0.406) / 0.225], -1).astype("f")
  seen = []
  call = network.ConvBN.__call__

  def spy(self, x, *args):
    if self is net.stem:
      seen.append((x, call(self, x, *args)))
      return seen[-1][1]
    return call(self, x, *args)

  monkeypatch.setattr(network.ConvBN, "__call__", spy)
  net.features(images, False, 0.9)
  (fed, stem), = seen
  assert stem.shape == (2, 31, 31, 32)  # VALID: one less than SAME.
  np.testing.assert_allclose(fed, normalised, atol=1e-5)


def test_moving_statistics_are_kept_for_replicas(small):
  net = network.Network(*small, _MEAN, _STD)
  moving = [v for v in net.variables if "/moving_" in v.name]
  # One batch norm in the stem, three a block, one a shortcut.
  assert len(moving) == 2 * (1 + 3 * 13 + 4)
  for v in moving:
    assert not v.trainable
    assert v.synchronization == tf.VariableSynchronization.ON_READ
    assert v.aggregation == tf.VariableAggregation.MEAN


def test_tensors_of_another_network_are_refused(small):
  arch, tensors = small
  with pytest.raises(ValueError, match="stage1/block1/a/conv"):
    network.Network(arch, {n: t for n, t in tensors.items()
                           if n != "stage1/block1/a/conv"}, _MEAN, _STD)


def test_residual_addition_is_fused(small):
  """With oneDNN, nothing passes over a block's output after its convolution.

  Without it, nothing may be fused into a grouped convolution: the fused kernel
  refuses groups.
  """
  net = network.Network(*small, _MEAN, _STD)

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])],
               autograph=False)
  def infer(images):
    return net.features(images, False, 0.9)[0]

  context.enable_run_metadata()
  infer(tf.zeros([1, 32, 32, 3]))
  graph = context.export_run_metadata().function_graphs[-1]
  context.disable_run_metadata()
  nodes = graph.post_optimization_graph.node
  fused = collections.Counter(
      b"+".join(n.attr["fused_ops"].list.s).decode()
      for n in nodes if n.op == "_FusedConv2D")
  alone = sum(n.op == "Conv2D" for n in nodes)
  if trainability.has_onednn():
    # 13 grouped; in the first three stages 6 each of a and c, in the last 7
    # of each whose kernels are large, less the first a; 4 shortcuts; a stem.
    assert alone == 0 and fused["BiasAdd+Add+Relu"] == 6
    assert fused["BiasAdd+Relu"] == 13 + 8
  else:
    assert alone == 13 and sum(fused.values()) == 1 + 13 + 13 + 4
