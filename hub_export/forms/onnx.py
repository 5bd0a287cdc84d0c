"""Writes an inference function as an ONNX model.

tf2onnx 1.17 translates; what it leaves is cleared up here: names that depend on
what was converted before, and reshapes to the shape that is there already.

The input stays [batch, height, width, 3], as of all forms: one transposition of
three channels comes before the first convolution, and from there on all is in
ONNX' own order.
"""

import collections
import contextlib
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import onnx
from onnx import numpy_helper
from onnx import shape_inference
import tensorflow as tf
from tf2onnx import convert as tf2onnx_convert

import hub_export
from hub_export import errors
from hub_export import forms
from hub_export import hub_module
from hub_export.forms import frozen

MODEL = "model.onnx"
# The newest in which tf2onnx 1.17 knows a mean over an image as
# GlobalAveragePool: from 18 on its axes are an input, which it overlooks. ONNX
# Runtime has to leave its fast layout for a ReduceMean.
OPSET = 17
_INPUT_AXES = ("batch", "height", "width")


def make(inference: hub_module.Inference, choice: forms.Choice | None,
         name: str, manifest: dict[str, Any]) -> hub_module.Payload:
  """Returns a module in the ONNX form; see making.Maker.

  Raises:
    HubExportError: if the weights are too large for one file.
  """
  del choice  # There is none.
  # Dense layers between images would need transpositions around them.
  network = inference.network(hub_module.Build(keeps_images=True))
  frozen.check_size(network, name)

  def write(directory: pathlib.Path) -> None:
    (directory / MODEL).write_bytes(convert(
        frozen.function(inference, network), name,
        frozen.metadata(inference, name, manifest)))

  return frozen.payload(inference, name, manifest, network.num_bytes, write,
                        ("onnx", "tf2onnx"))


def convert(function: tf.types.experimental.ConcreteFunction, name: str,
            metadata: Mapping[str, str]) -> bytes:
  """Returns the model's file.

  Args:
    function: Inference, of float32 [batch, height, width, 3], with a dict of
      outputs [batch, ...]; without variables or calls of other functions. Its
      one input's and its outputs' names become the model's.
    name: Of the graph, for people.
    metadata: Goes into the model as it is.

  Raises:
    HubExportError: if it cannot be translated without transpositions between
      its layers.
  """
  graph_def = function.graph.as_graph_def()
  image, = function.inputs
  outputs = sorted(function.structured_outputs.items())
  with _quiet():
    model, _ = tf2onnx_convert.from_graph_def(
        graph_def, input_names=[image.name],
        output_names=[tensor.name for _, tensor in outputs], opset=OPSET)
  _rename(model.graph, image.name, image.op.name)
  for new, tensor in outputs:
    _rename(model.graph, tensor.name, new)
  _describe(model, name, metadata)
  _without_idle_reshapes(model)
  _transpose_first(model.graph)
  _sort(model.graph)
  del model.graph.value_info[:]
  _check(model)
  return model.SerializeToString(deterministic=True)


def problems(model: onnx.ModelProto) -> list[str]:
  """Returns what keeps a model from being as fast as it could be.

  That is more than the one transposition at the start, batch norm that is not
  folded, and grouped convolutions written as several.
  """
  counts = collections.Counter(node.op_type for node in model.graph.node)
  found = []
  if counts["Transpose"] > 1:
    found.append(f"{counts['Transpose']} transpositions, expected 1")
  found += [f"{counts[op]} of {op}, expected none"
            for op in ("BatchNormalization", "Split", "ReduceMean", "Loop",
                       "If") if counts[op]]
  return found


def groups(model: onnx.ModelProto) -> list[int]:
  """Returns the number of groups of each convolution, in order."""
  found = []
  for node in model.graph.node:
    if node.op_type == "Conv":
      found += [a.i for a in node.attribute if a.name == "group"] or [1]
  return found


def _check(model: onnx.ModelProto) -> None:
  """Raises HubExportError if the model is unsound or slow."""
  found = problems(model)
  try:
    onnx.checker.check_model(model)
  except onnx.checker.ValidationError as e:
    found.append(f"ONNX' own check: {e}")
  if found:
    raise errors.HubExportError(errors.join_problems(
        "the translation to ONNX is not as it has to be", found,
        "Use the versions of tools/python/requirements-forms.txt; if they are "
        "used, this is a fault of the program."))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps tf2onnx and TensorFlow from telling of deprecated functions."""
  loggers = [logging.getLogger(n) for n in ("tf2onnx", "tensorflow")]
  levels = [logger.level for logger in loggers]
  for logger in loggers:
    logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    for logger, level in zip(loggers, levels):
      logger.setLevel(level)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
  """Gives a tensor another name everywhere."""
  for node in graph.node:
    for names in (node.input, node.output):
      for i, name in enumerate(names):
        if name == old:
          names[i] = new
  for value in (*graph.input, *graph.output, *graph.initializer):
    if value.name == old:
      value.name = new


def _describe(model: onnx.ModelProto, name: str, metadata: Mapping[str, str]
              ) -> None:
  """Writes where the model comes from, and the names of its free axes."""
  model.producer_name = "RegNetY Hub"
  model.producer_version = hub_export.__version__
  model.graph.name = name
  model.doc_string = model.graph.doc_string = ""
  # Another domain of operations, which tf2onnx asks for in any case.
  used = {node.domain for node in model.graph.node}
  kept = [o for o in model.opset_import if o.domain in used]
  del model.opset_import[:]
  model.opset_import.extend(kept)
  del model.metadata_props[:]
  for key in sorted(metadata):
    model.metadata_props.add(key=key, value=metadata[key])
  for value in (*model.graph.input, *model.graph.output):
    for axis, size in zip(_INPUT_AXES, value.type.tensor_type.shape.dim):
      if not size.HasField("dim_value"):
        size.dim_param = axis


def _without_idle_reshapes(model: onnx.ModelProto) -> None:
  """Removes reshapes that change nothing, which tf2onnx makes of transposes.

  Each takes ONNX Runtime out of the layout that its convolutions are in.
  """
  graph = model.graph
  inferred = shape_inference.infer_shapes(model).graph
  shapes = {v.name: _sizes(v) for v in (*inferred.value_info, *inferred.input)}
  constants = {i.name: i for i in graph.initializer}
  replaced, kept = {}, []
  for node in graph.node:
    if node.op_type == "Reshape" and node.input[1] in constants:
      target = numpy_helper.to_array(constants[node.input[1]]).tolist()
      shape = shapes.get(node.input[0], [])
      # Of an unknown shape there is nothing to compare with.
      if (shape and target[:1] == [-1] and target[1:] == shape[1:]
          and None not in shape[1:]):
        replaced[node.output[0]] = replaced.get(node.input[0], node.input[0])
        continue
    kept.append(node)
  for node in kept:
    for i, name in enumerate(node.input):
      node.input[i] = replaced.get(name, name)
  kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
  del graph.node[:]
  graph.node.extend(kept)


def _transpose_first(graph: onnx.GraphProto) -> None:
  """Puts what is done to each channel of the images behind the transposition.

  With the channels last, three of them leave most of a vector instruction idle:
  ONNX Runtime 1.31 took 0.6 ms to subtract the mean of one image of 224 x 224,
  a twentieth of what a RegNetY-600MF takes for all.
  """
  constants = {i.name: i for i in graph.initializer}
  transposed = next((n for n in graph.node if n.op_type == "Transpose"), None)
  while transposed is not None:
    first = next((n for n in graph.node
                  if transposed.input[0] in n.output), None)
    # It has no other user: the transposition is the only one.
    if (first is None or first.op_type not in ("Sub", "Mul", "Add", "Div")
        or first.input[1] not in constants
        or len(constants[first.input[1]].dims) != 1):
      return
    name = f"{first.input[1]}_of_channels"
    values = numpy_helper.to_array(constants[first.input[1]])
    graph.initializer.append(
        numpy_helper.from_array(values.reshape(-1, 1, 1), name))
    given, between, result = (
        first.input[0], first.output[0], transposed.output[0])
    transposed.input[0], transposed.output[0] = given, between
    first.input[0], first.input[1], first.output[0] = between, name, result


def _sizes(value: onnx.ValueInfoProto) -> list[int | None]:
  """Returns the sizes of a tensor; None for those that are free."""
  return [d.dim_value if d.HasField("dim_value") else None
          for d in value.type.tensor_type.shape.dim]


def _sort(graph: onnx.GraphProto) -> None:
  """Orders nodes and constants by use, and names them by that order.

  tf2onnx numbers what it makes from the start of the process.
  """
  makers = {output: node for node in graph.node for output in node.output}
  constants = {i.name: i for i in graph.initializer}
  order, done = [], set()
  waiting = [value.name for value in reversed(graph.output)]
  while waiting:
    node = makers.get(waiting[-1])
    new = [] if node is None else [
        name for name in node.input if name in makers
        and makers[name].output[0] not in done]
    if new:
      waiting.append(new[0])
      continue
    waiting.pop()
    if node is not None and node.output[0] not in done:
      done.add(node.output[0])
      order.append(node)

  fixed = {value.name for value in (*graph.input, *graph.output)}
  names = {name: name for name in fixed}
  used = []
  counts = collections.Counter()
  for node in order:
    node.name = f"{node.op_type}_{counts[node.op_type]}"
    counts[node.op_type] += 1
    for i, name in enumerate(node.input):
      if name in constants and name not in names:
        names[name] = f"{node.name}_input{i}"
        used.append(constants[name])
      node.input[i] = names[name] if name else ""
    for i, name in enumerate(node.output):
      names.setdefault(name, node.name if i == 0 else f"{node.name}_{i}")
      node.output[i] = names[name]
  for constant in used:
    constant.name = names[constant.name]
  order = [onnx.NodeProto.FromString(n.SerializeToString()) for n in order]
  used = [onnx.TensorProto.FromString(t.SerializeToString()) for t in used]
  del graph.node[:], graph.initializer[:]
  graph.node.extend(order)
  graph.initializer.extend(used)
