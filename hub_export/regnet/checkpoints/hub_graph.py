"""Reads off a SavedModel's graph how its RegNet pads and normalises.

The first convolution tells: it is the one with stride 2 that the images reach
through nothing but normalisation and padding. That is so in the modules that
this project exports and in whatever they are saved again in, a Keras model for
instance. The graph is parsed, never loaded or run.
"""

import dataclasses
import pathlib

from google.protobuf import message
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import function_pb2
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from hub_export import errors

# The graph of the largest RegNet has some 10 MB. Parsed, a message of two bytes
# takes some fifty.
_MAX_BYTES = 128 << 20
_MAX_STEPS = 8         # Between the images and the first convolution.
_REAL = (types_pb2.DT_FLOAT, types_pb2.DT_BFLOAT16, types_pb2.DT_HALF)
_STRIDES = [1, 2, 2, 1]
_SYMMETRIC = [[0, 0], [1, 1], [1, 1], [0, 0]]


@dataclasses.dataclass(frozen=True)
class Built:
  """How a network is built."""
  convention: str                        # A name in variants.CONVENTIONS.
  mean: tuple[float, ...] | None         # RGB, on the scale of [0, 1]; None if
  std: tuple[float, ...] | None          # it is not to be seen.


def read(path: pathlib.Path) -> Built | None:
  """Returns how the RegNet of a saved_model.pb is built; None if unclear.

  Raises:
    CheckpointError: if the file is damaged.
  """
  try:
    size = path.stat().st_size
    if size > _MAX_BYTES:
      raise ValueError(f"it has {size} bytes; at most {_MAX_BYTES} are read")
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    if not model.meta_graphs:
      raise ValueError("it has no graph")
  except (OSError, ValueError, message.DecodeError) as e:
    raise errors.CheckpointError(
        f"{path} cannot be read as the graph of a SavedModel ({e}); expected a "
        "whole file. Copy or save the directory again.") from e
  found = {built for graph in model.meta_graphs
           for function in graph.graph_def.library.function
           for built in _stems(function)}
  return found.pop() if len(found) == 1 else None


def _stems(function: function_pb2.FunctionDef) -> list[Built]:
  """Returns what each first convolution in a function tells."""
  nodes = {node.name: node for node in function.node_def}
  arguments = {argument.name for argument in function.signature.input_arg}
  found = []
  for node in function.node_def:
    if node.op == "Conv2D" and list(node.attr["strides"].list.i) == _STRIDES:
      way = _way(node, nodes, arguments)
      if way is not None:
        found.append(_built(node, way, nodes))
  return [built for built in found if built]


def _way(node: node_def_pb2.NodeDef, nodes: dict[str, node_def_pb2.NodeDef],
         arguments: set[str]) -> list[node_def_pb2.NodeDef] | None:
  """Returns the nodes from a convolution back to an argument; None if far."""
  way = []
  for _ in range(_MAX_STEPS):
    if not node.input:
      return None
    name = node.input[0].split(":")[0]
    if name in arguments:
      return way
    node = nodes.get(name)
    if node is None:
      return None
    if node.op == "Identity" or _is_precision(node):
      continue
    if node.op not in ("Sub", "RealDiv", "Pad"):
      return None
    way.append(node)
  return None


def _is_precision(node: node_def_pb2.NodeDef) -> bool:
  """Returns whether a node changes the precision of real numbers alone."""
  return node.op == "Cast" and all(
      node.attr[key].type in _REAL for key in ("SrcT", "DstT"))


def _built(conv: node_def_pb2.NodeDef, way: list[node_def_pb2.NodeDef],
           nodes: dict[str, node_def_pb2.NodeDef]) -> Built | None:
  """Returns what the nodes before the first convolution mean; None if unclear.

  Args:
    conv: The convolution.
    way: The nodes before it, the last one first.
    nodes: All of the function, by name.
  """
  padding = conv.attr["padding"].s
  convention = {b"SAME": "keras", b"VALID": "regnety"}.get(padding)
  ops = [node.op for node in way]
  if ops[:1] == ["Pad"]:
    pads = _constant(way[0], nodes, (4, 2))
    if padding != b"VALID" or pads is None or pads.tolist() != _SYMMETRIC:
      return None
    convention, way, ops = "torch", way[1:], ops[1:]
  if convention is None:
    return None
  if not ops:
    return Built(convention, (0.0,) * 3, (1.0,) * 3)
  if ops != ["RealDiv", "Sub"]:
    return Built(convention, None, None)
  std, mean = (_constant(node, nodes, (3,)) for node in way)
  if mean is None or std is None:
    return Built(convention, None, None)
  # float32 gives 0.48500001430511475 where 0.485 is meant.
  return Built(convention, *(tuple(float(str(x)) for x in values)
                             for values in (mean, std)))


def _constant(node: node_def_pb2.NodeDef,
              nodes: dict[str, node_def_pb2.NodeDef],
              shape: tuple[int, ...]) -> np.ndarray | None:
  """Returns a node's second input; None if it is no constant of that shape."""
  if len(node.input) < 2:
    return None
  constant = nodes.get(node.input[1].split(":")[0])
  if constant is None or constant.op != "Const":
    return None
  tensor = constant.attr["value"].tensor
  if tuple(d.size for d in tensor.tensor_shape.dim) != shape:
    return None
  try:
    values = tf.make_ndarray(tensor)
  except (TypeError, ValueError, KeyError):
    return None
  return values if values.dtype.kind in "fiu" else None
