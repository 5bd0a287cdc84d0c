"""The network for inference against the NumPy reference, in all its builds."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context  # No public way to see a graph.

from checks import trainability
from hub_export import hub_module
from hub_export.regnet import inference
from hub_export.regnet import reference
from tests import random_networks
from tests import tiny_inference

_MEAN, _STD = tiny_inference.MEAN, tiny_inference.STD
# float32 against float64, in few layers.
_TOLERANCE = 1e-5
# bfloat16 has 8 bits: a rounding is off by 1/512 of a number at most, and some
# thirty follow each other.
_BF16_TOLERANCE = 0.06
_BUILDS = {
    "plain": hub_module.Build(),
    "split": hub_module.Build(groups="split"),
    "images": hub_module.Build(keeps_images=True),
    "tied": hub_module.Build(ties_shapes=True),
    "split_images": hub_module.Build(groups="split", keeps_images=True),
}


def _outputs(net, images):
  features = tf.function(net.features, autograph=False)(tf.constant(images))
  return features, net.logits(features)


def _expected(arch, weights, images):
  return reference.outputs(weights, arch.convention.name, _MEAN, _STD, images)


@pytest.mark.parametrize("height,width", [(39, 48), (64, 33)])
@pytest.mark.parametrize("convention", ["keras", "torch", "regnety"])
def test_as_the_reference(convention, height, width):
  arch = tiny_inference.architecture(convention)
  weights = tiny_inference.tensors(arch)
  images = tiny_inference.images(height=height, width=width)
  found = _outputs(inference.Network(arch, weights, _MEAN, _STD), images)
  for ours, theirs in zip(found, _expected(arch, weights, images), strict=True):
    assert ours.dtype == tf.float32
    assert random_networks.difference(ours, theirs) < _TOLERANCE


@pytest.mark.parametrize("has_se", [True, False])
@pytest.mark.parametrize("build", _BUILDS)
def test_builds_differ_in_their_operations_alone(build, has_se):
  arch = tiny_inference.architecture("torch", has_se)
  weights = tiny_inference.tensors(arch)
  images = tiny_inference.images()
  net = inference.Network(arch, weights, _MEAN, _STD, _BUILDS[build])
  for ours, theirs in zip(_outputs(net, images),
                          _expected(arch, weights, images), strict=True):
    assert random_networks.difference(ours, theirs) < _TOLERANCE

  graph = _graph(net)
  convolutions = [op for op in graph.get_operations() if op.type == "Conv2D"]
  is_grouped = [op.inputs[0].shape[-1] != op.inputs[1].shape[2]
                for op in convolutions]
  assert any(is_grouped) == (_BUILDS[build].groups == "native")
  assert any(op.type == "MatMul" for op in graph.get_operations()) == (
      has_se and not _BUILDS[build].keeps_images)


def _graph(net):
  return tf.function(net.features, autograph=False).get_concrete_function(
      tf.TensorSpec([None, None, None, 3])).graph


def test_bfloat16_keeps_half_the_bytes_and_most_of_the_outputs():
  arch = tiny_inference.architecture()
  weights = tiny_inference.tensors(arch)
  images = tiny_inference.images()
  exact = inference.Network(arch, weights, _MEAN, _STD)
  net = inference.Network(arch, weights, _MEAN, _STD,
                          hub_module.Build(dtype="bfloat16"))
  head = weights["head/kernel"].nbytes + weights["head/bias"].nbytes
  assert net.num_bytes - head == (exact.num_bytes - head) / 2
  features, logits = _outputs(net, images)
  assert features.dtype == logits.dtype == tf.float32
  wanted = _expected(arch, weights, images)
  off = random_networks.difference(features, wanted[0])
  # Less would mean that it was not computed in bfloat16.
  assert 1e-4 < off < _BF16_TOLERANCE
  assert random_networks.difference(logits, wanted[1]) < _BF16_TOLERANCE


@pytest.mark.parametrize("build", [
    {}, {"keeps_images": True}, {"dtype": "bfloat16", "ties_shapes": True}])
@pytest.mark.parametrize("head", [False, True])
def test_constants_are_those_of_the_graph(build, head):
  arch = tiny_inference.architecture()
  weights = tiny_inference.tensors(arch)
  net = inference.Network(arch, weights, _MEAN, _STD, hub_module.Build(**build))

  def run(images):
    features = net.features(images)
    return net.logits(features) if head else features

  graph = tf.function(run, autograph=False).get_concrete_function(
      tf.TensorSpec([None, None, None, 3])).graph
  found = {op.name: tf.make_ndarray(op.get_attr("value"))
           for op in graph.get_operations()
           if op.type == "Const" and op.outputs[0].dtype.is_floating}
  expected = net.constants(head)
  assert sorted(found) == sorted(f"weights/{name}" for name in expected)
  for name, value in expected.items():
    assert found[f"weights/{name}"].dtype == value.dtype
    np.testing.assert_array_equal(found[f"weights/{name}"], value)


def test_there_is_no_variable_and_no_batch_norm():
  arch = tiny_inference.architecture()
  net = inference.Network(arch, tiny_inference.tensors(arch), _MEAN, _STD)
  graph = _graph(net)
  kinds = {op.type for op in graph.get_operations()}
  assert not kinds & {"VarHandleOp", "ReadVariableOp", "FusedBatchNormV3",
                      "Rsqrt"}
  assert not graph.variables


def test_no_head_no_logits():
  arch = tiny_inference.architecture()
  weights = tiny_inference.tensors(arch, num_classes=0)
  net = inference.Network(arch, weights, _MEAN, _STD)
  assert not net.has_head
  features = tf.function(net.features)(tf.constant(tiny_inference.images()))
  wanted, none = _expected(arch, weights, tiny_inference.images())
  assert none is None
  assert random_networks.difference(features, wanted) < _TOLERANCE


def test_folding_is_in_float64():
  """A scale that float32 rounds twice is off by more than one rounding."""
  arch = tiny_inference.architecture()
  weights = tiny_inference.tensors(arch)
  net = inference.Network(arch, weights, _MEAN, _STD)
  name = "stage1/block1/a"
  scale = (weights[f"{name}/bn/gamma"].astype(np.float64)
           / np.sqrt(weights[f"{name}/bn/moving_variance"].astype(np.float64)
                     + 1e-5))
  exact = weights[f"{name}/conv"] * scale
  constants = [tf.make_ndarray(op.get_attr("value"))
               for op in _graph(net).get_operations() if op.type == "Const"]
  assert any(np.array_equal(c, exact.astype(np.float32)) for c in constants)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_block_ends_in_one_operation_with_onednn(dtype):
  """Convolution, bias, sum and activation; where there is no oneDNN, several.

  Grappler has to see that both summands have one shape, whatever it is.
  """
  arch = tiny_inference.architecture("torch")
  net = inference.Network(
      arch, tiny_inference.tensors(arch), _MEAN, _STD,
      hub_module.Build(dtype=dtype, ties_shapes=True))
  function = tf.function(net.features, autograph=False, input_signature=[
      tf.TensorSpec([None, None, None, 3])])
  images = tf.constant(tiny_inference.images())
  context.context().enable_graph_collection()
  function(images)
  record = context.context().export_run_metadata()
  context.context().disable_graph_collection()
  fused = [node.attr["fused_ops"].list.s
           for graph in record.function_graphs
           for node in graph.post_optimization_graph.node
           if node.op == "_FusedConv2D"]
  blocks = sum(stage.depth for stage in arch.stages)
  assert fused.count([b"BiasAdd", b"Add", b"Relu"]) == (
      blocks if trainability.has_onednn() else 0)


_WITHOUT_ONEDNN = """
import numpy as np
import tensorflow as tf
from checks import trainability
from hub_export import hub_module
from hub_export.regnet import inference
from tests import tiny_inference

assert not trainability.has_onednn()
arch = tiny_inference.architecture()
weights = tiny_inference.tensors(arch)
for dtype in ("float32", "bfloat16"):
  net = inference.Network(
      arch, weights, tiny_inference.MEAN, tiny_inference.STD,
      hub_module.Build(dtype=dtype, ties_shapes=True))
  run = tf.function(net.features, autograph=False)
  print(run(tf.constant(tiny_inference.images())).numpy().tolist())
"""


def test_grouped_convolutions_run_without_onednn():
  """As on Arm, and by default on older processors; bfloat16 is emulated."""
  process = subprocess.run(
      [sys.executable, "-c", _WITHOUT_ONEDNN], text=True, check=True,
      stdout=subprocess.PIPE,
      env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0",
                        "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
  arch = tiny_inference.architecture()
  wanted, _ = _expected(arch, tiny_inference.tensors(arch),
                        tiny_inference.images())
  for line, tolerance in zip(process.stdout.splitlines(),
                             (_TOLERANCE, _BF16_TOLERANCE), strict=True):
    found = np.array(json.loads(line), np.float32)
    assert random_networks.difference(found, wanted) < tolerance
