"""Writes an inference function as a TensorFlow.js graph model.

The format is what tf.loadGraphModel takes: model.json with the graph, and the
constants' values in shards beside it. The Python package tensorflowjs 4.22
writes the same, but cannot be imported without JAX, Flax and TensorFlow
Decision Forests, which has no release for TensorFlow 2.21; what is left of it
for a graph of constants are the passes below.

TensorFlow.js computes a convolution as if it had one group, so grouped ones are
refused here: the function has to split and concatenate.
"""

import collections
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format
import numpy as np
import tensorflow as tf

from hub_export import errors
from hub_export import forms
from hub_export import hub_module
from hub_export.forms import frozen

MODEL = "model.json"
_SHARD_BYTES = 4 << 20  # What browsers cache as one file, as in tensorflowjs.
# What inference of convolutional networks needs and all of TensorFlow.js'
# backends have.
_OPS = frozenset((
    "Add", "AddV2", "AvgPool", "BiasAdd", "Cast", "ConcatV2", "Const", "Conv2D",
    "ExpandDims", "Identity", "MatMul", "MaxPool", "Maximum", "Mean", "Mul",
    "Neg", "Pack", "Pad", "Placeholder", "RealDiv", "Relu", "Reshape", "Rsqrt",
    "Shape", "Sigmoid", "Softmax", "Split", "Squeeze", "StridedSlice", "Sub",
    "_FusedConv2D", "_FusedMatMul"))
_FUSED = {"Conv2D": "_FusedConv2D", "MatMul": "_FusedMatMul"}

Nodes = dict[str, tf.compat.v1.NodeDef]


def make(inference: hub_module.Inference, choice: forms.Choice | None,
         name: str, manifest: dict[str, Any]) -> hub_module.Payload:
  """Returns a module in the TF.js form; see making.Maker.

  Raises:
    HubExportError: if the weights are too large for one graph.
  """
  del choice  # There is none.
  network = inference.network(
      hub_module.Build(groups="split", keeps_images=True))
  frozen.check_size(network, name)

  def write(directory: pathlib.Path) -> None:
    about = frozen.metadata(inference, name, manifest)
    if inference.labels:
      about["labels"] = list(inference.labels)
    for file, content in convert(frozen.function(inference, network),
                                 about).items():
      (directory / file).write_bytes(content)

  return frozen.payload(
      inference, name, {**manifest, "parent": inference.name},
      network.num_bytes, write)


def convert(function: tf.types.experimental.ConcreteFunction,
            metadata: Mapping[str, Any]) -> dict[str, bytes]:
  """Returns the files of the graph model, by name.

  Args:
    function: Inference, of float32 [batch, height, width, 3], with a dict of
      outputs; without variables or calls of other functions.
    metadata: JSON, for whoever loads the model
      (`model.userDefinedMetadata`).

  Raises:
    HubExportError: if the graph has something that TensorFlow.js lacks.
  """
  nodes = {n.name: n for n in function.graph.as_graph_def().node}
  outputs = {name: _origin(nodes, tensor.name) for name, tensor in
             sorted(function.structured_outputs.items())}
  nodes = _reachable(nodes, list(outputs.values()), keep=[
      t.op.name for t in function.inputs])
  channels = {
      t.op.name: t.op.inputs[0].shape[-1]
      for t in (op.outputs[0] for op in function.graph.get_operations()
                if op.type == "Conv2D" and op.name in nodes)}
  _check(nodes, channels)
  nodes = _fused(_into_parts(nodes, list(outputs.values())),
                 list(outputs.values()))
  nodes, outputs = _renamed(nodes, outputs)
  weights = [(n.name, tf.make_ndarray(n.attr["value"].tensor))
             for n in nodes.values() if n.op == "Const"]
  shards, manifest = _shards(weights)
  topology = _topology(nodes.values())
  signature = {
      "inputs": {t.op.name: _described(t, t.name) for t in function.inputs},
      "outputs": {name: _described(function.structured_outputs[name], tensor)
                  for name, tensor in outputs.items()}}
  text = json.dumps({
      "format": "graph-model",
      "generatedBy": tf.__version__,
      "convertedBy": "RegNetY Hub",
      "signature": signature,
      "userDefinedMetadata": dict(metadata),
      "modelTopology": topology,
      "weightsManifest": [manifest],
  }, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
  return {MODEL: text.encode(), **shards}


def _check(nodes: Nodes, channels: Mapping[str, int]) -> None:
  """Raises HubExportError if TensorFlow.js cannot run these nodes."""
  problems = []
  strange = collections.Counter(
      n.op for n in nodes.values() if n.op not in _OPS)
  problems += [f"{count} of {op}" for op, count in sorted(strange.items())]
  for name, width in channels.items():
    kernel = nodes[_producer(nodes[name].input[1])]
    shape = kernel.attr["value"].tensor.tensor_shape.dim
    if kernel.op != "Const":
      problems.append(f"{name}, whose kernel is no constant")
    elif shape[2].size != width:
      problems.append(f"{name}, which has {width // shape[2].size} groups")
  if problems:
    raise errors.HubExportError(errors.join_problems(
        "the graph has what TensorFlow.js cannot run", problems,
        "Expected convolutions of one group by constants, and the operations "
        f"{', '.join(sorted(_OPS))}."))


def _reachable(nodes: Nodes, outputs: Sequence[str], keep: Sequence[str]
               ) -> Nodes:
  """Returns what the outputs need, in order, without identities."""
  needed, waiting = set(keep), [_producer(name) for name in outputs]
  while waiting:
    name = waiting.pop()
    if name not in needed:
      needed.add(name)
      waiting += [_producer(i) for i in _inputs(nodes, nodes[name])]
  found = {}
  for name, node in nodes.items():
    if name not in needed:
      continue
    copy = tf.compat.v1.NodeDef()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend(_inputs(nodes, node))
    found[name] = copy
  return found


def _inputs(nodes: Nodes, node: tf.compat.v1.NodeDef) -> list[str]:
  """Returns a node's inputs, less control and identities in between."""
  return [_origin(nodes, name) for name in node.input
          if not name.startswith("^")]


def _origin(nodes: Nodes, tensor: str) -> str:
  """Returns the tensor that identities hand on."""
  while nodes[_producer(tensor)].op == "Identity":
    tensor = nodes[_producer(tensor)].input[0]
  return tensor


def _users(nodes: Nodes, outputs: Sequence[str]) -> collections.Counter[str]:
  """Returns how often each node's result is used."""
  users = collections.Counter(
      _producer(i) for n in nodes.values() for i in n.input)
  users.update(_producer(name) for name in outputs)
  return users


def _into_parts(nodes: Nodes, outputs: Sequence[str]) -> Nodes:
  """Returns the nodes with what follows a concatenation before it.

  Bias and activation of each group's convolution can be fused with that then.
  """
  users = _users(nodes, outputs)
  found = dict(nodes)
  for node in nodes.values():
    if node.op not in ("BiasAdd", "Relu"):
      continue
    concat = found[_producer(node.input[0])]
    if concat.op != "ConcatV2" or users[concat.name] != 1:
      continue
    biases = None
    if node.op == "BiasAdd":
      widths = [_width(found, part) for part in concat.input[:-1]]
      bias = tf.make_ndarray(found[node.input[1]].attr["value"].tensor)
      # Else it is not the channels that are concatenated.
      if None in widths or sum(widths) != bias.size:
        continue
      biases = np.split(bias, np.cumsum(widths)[:-1])
    parts = []
    for i, part in enumerate(concat.input[:-1]):
      own = tf.compat.v1.NodeDef()
      own.CopyFrom(node)
      own.name = f"{node.name}/part{i}"
      own.input[0] = part
      if biases:
        constant = tf.compat.v1.NodeDef(name=f"{own.name}/bias", op="Const")
        constant.attr["dtype"].type = node.attr["T"].type
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(biases[i]))
        found[constant.name] = constant
        own.input[1] = constant.name
      found[own.name] = own
      parts.append(own.name)
    del found[concat.name]
    concat.name = node.name
    concat.input[:-1] = parts
    found[node.name] = concat
  used = _users(found, outputs)
  return {name: node for name, node in found.items()
          if used[name] or node.op == "Placeholder"}


def _width(nodes: Nodes, name: str) -> int | None:
  """Returns the channels that a convolution gives; None for other nodes."""
  node = nodes[_producer(name)]
  if node.op != "Conv2D":
    return None
  return nodes[node.input[1]].attr["value"].tensor.tensor_shape.dim[3].size


def _fused(nodes: Nodes, outputs: Sequence[str]) -> Nodes:
  """Returns the nodes with bias and activation inside of what they follow.

  Each is a pass over memory, and in TensorFlow.js a kernel's start, which for
  the many small convolutions of split groups costs as much as they do.
  """
  users = _users(nodes, outputs)
  found = dict(nodes)
  for node in nodes.values():
    if node.op != "BiasAdd":
      continue
    first = found[_producer(node.input[0])]
    if first.op not in _FUSED or users[first.name] != 1:
      continue
    fused = tf.compat.v1.NodeDef()
    fused.CopyFrom(first)
    fused.name, fused.op = node.name, _FUSED[first.op]
    fused.input.append(node.input[1])
    fused.attr["num_args"].i = 1
    fused.attr["epsilon"].f = 0.0
    fused.attr["fused_ops"].list.s.append(b"BiasAdd")
    del found[first.name]
    found[node.name] = fused
  for node in nodes.values():
    # Of other activations not all backends know all.
    if node.op != "Relu":
      continue
    first = found[_producer(node.input[0])]
    if users[first.name] != 1 or first.op not in _FUSED.values():
      continue
    del found[first.name]
    first.name = node.name
    first.attr["fused_ops"].list.s.append(node.op.encode())
    found[node.name] = first
  return found


def _renamed(nodes: Nodes, outputs: Mapping[str, str]
             ) -> tuple[Nodes, dict[str, str]]:
  """Returns the nodes in order of use, with short names, and the outputs'.

  Names that TensorFlow gave would tell how often it had given them before, and
  the same model would not give the same bytes.
  """
  order, names = [], {}

  def visit(name: str) -> None:
    # By hand, for networks are deeper than Python's stack.
    waiting = [name]
    while waiting:
      name = waiting[-1]
      new = [p for p in map(_producer, nodes[name].input) if p not in names]
      if new:
        waiting.append(new[0])
        continue
      waiting.pop()
      if name not in names:
        names[name] = (name if nodes[name].op == "Placeholder"
                       else f"n{len(order)}")
        order.append(nodes[name])

  for name, node in nodes.items():
    if node.op == "Placeholder":
      visit(name)
  for tensor in outputs.values():
    visit(_producer(tensor))

  def renamed(tensor: str) -> str:
    _, colon, index = tensor.partition(":")
    return names[_producer(tensor)] + (f":{index}" if colon else "")

  for node in order:
    inputs = [renamed(i) for i in node.input]
    node.name = names[node.name]
    del node.input[:]
    node.input.extend(inputs)
  return ({n.name: n for n in order},
          {name: renamed(tensor) for name, tensor in outputs.items()})


def _topology(nodes: Sequence[tf.compat.v1.NodeDef]) -> dict[str, Any]:
  """Returns the graph as JSON; the values of constants are left out."""
  graph = tf.compat.v1.GraphDef()
  graph.versions.producer = 1  # TensorFlow.js wants to find one.
  for node in nodes:
    kept = graph.node.add()
    kept.name, kept.op = node.name, node.op
    kept.input.extend(node.input)
    for key, value in node.attr.items():
      if key.startswith("_"):
        continue
      if node.op == "Const" and key == "value":
        tensor = kept.attr[key].tensor
        tensor.dtype = value.tensor.dtype
        tensor.tensor_shape.CopyFrom(value.tensor.tensor_shape)
      else:
        kept.attr[key].CopyFrom(value)
  return json_format.MessageToDict(graph)


def _shards(weights: Sequence[tuple[str, np.ndarray]]
            ) -> tuple[dict[str, bytes], dict[str, Any]]:
  """Returns the shards' bytes by file name, and their entry in the model."""
  parts, entries = [], []
  for name, values in weights:
    kind = "int32" if values.dtype.kind == "i" else "float32"
    parts.append(values.astype(f"<{kind[0]}4").tobytes())
    entries.append({"name": name, "shape": list(values.shape), "dtype": kind})
  content = b"".join(parts)
  count = math.ceil(len(content) / _SHARD_BYTES)
  shards = {
      f"group1-shard{i + 1}of{count}.bin":
      content[i * _SHARD_BYTES:(i + 1) * _SHARD_BYTES] for i in range(count)}
  return shards, {"paths": list(shards), "weights": entries}


def _described(tensor: tf.Tensor, name: str) -> dict[str, Any]:
  """Returns an entry of the signature, as json_format writes a TensorInfo."""
  return {"name": name, "dtype": "DT_FLOAT", "tensorShape": {
      "dim": [{"size": str(-1 if size is None else size)}
              for size in tensor.shape]}}


def _producer(tensor: str) -> str:
  """Returns the name of the node that a tensor comes from."""
  return tensor.partition(":")[0]
