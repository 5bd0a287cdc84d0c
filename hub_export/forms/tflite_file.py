"""Reading and changing .tflite files: tensors, signature, metadata.

A .tflite file is a FlatBuffer; ai-edge-litert brings the classes for it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flatbuffers
import numpy as np

from hub_export import errors
from hub_export.forms import lite_metadata

SIGNATURE = "serving_default"
_IDENTIFIER = b"TFL3"


def schema() -> Any:
  """Returns the module with the classes of a .tflite file.

  Raises:
    HubExportError: if it is not installed.
  """
  try:
    # pylint: disable=g-import-not-at-top
    from ai_edge_litert import schema_py_generated
  except ImportError as e:
    raise missing(e) from e
  return schema_py_generated


def interpreter() -> Any:
  """Returns LiteRT's interpreter module.

  Raises:
    HubExportError: if it is not installed.
  """
  try:
    # pylint: disable=g-import-not-at-top
    from ai_edge_litert import interpreter as module
  except ImportError as e:
    raise missing(e) from e
  return module


def missing(error: ImportError) -> errors.HubExportError:
  """Returns the error for a machine without LiteRT."""
  return errors.HubExportError(
      f"the Lite form needs the package ai-edge-litert, which cannot be "
      f"imported here ({error}). Install it as tools/python/requirements.txt "
      "pins it.")


def load(content: bytes) -> Any:
  """Returns a file's ModelT.

  Raises:
    HubExportError: if it is no .tflite file.
  """
  classes = schema()
  if content[4:8] != _IDENTIFIER:
    raise errors.HubExportError(
        "this is no .tflite file: it lacks the identifier TFL3. Export the "
        "checkpoint again.")
  try:
    return classes.ModelT.InitFromObj(classes.Model.GetRootAsModel(content, 0))
  except Exception as e:  # Whatever FlatBuffers stumbles over.
    raise errors.HubExportError(
        f"the .tflite file is damaged ({type(e).__name__}: {e}). Export the "
        "checkpoint again.") from e


def dump(model: Any) -> bytes:
  """Returns the file of a ModelT, without what lay behind it."""
  builder = flatbuffers.Builder(1 << 20)
  builder.Finish(model.Pack(builder), _IDENTIFIER)
  return bytes(builder.Output())


def activations(model: Any) -> list[int]:
  """Returns the tensors of a float model that depend on its input."""
  return [i for i, tensor in enumerate(model.subgraphs[0].tensors)
          if model.buffers[tensor.buffer].data is None]


def exposing(content: bytes) -> tuple[bytes, list[int]]:
  """Returns a model that gives all its activations, and which they are."""
  model = load(content)
  graph = model.subgraphs[0]
  # An input cannot be an output of the same graph.
  shown = [i for i in activations(model) if i not in graph.inputs]
  graph.outputs = np.array(shown, np.int32)
  model.signatureDefs = []
  return dump(model), shown


def with_ranges(content: bytes, ranges: Mapping[int, tuple[float, float]]
                ) -> bytes:
  """Returns a float model with the ranges of its activations written into it.

  Args:
    content: The model.
    ranges: Tensor -> least and largest value.
  """
  model = load(content)
  classes = schema()
  for index, (low, high) in ranges.items():
    tensor = model.subgraphs[0].tensors[index]
    tensor.quantization = (
        tensor.quantization or classes.QuantizationParametersT())
    tensor.quantization.min = np.array([low], np.float32)
    tensor.quantization.max = np.array([high], np.float32)
  return dump(model)


def with_shapes(content: bytes, size_px: int) -> bytes:
  """Returns a model whose tensors have the shapes for one square image.

  A model that was made for any size comes with sides of 1, which is what an
  interpreter starts with. That its dimensions may be others stays written
  beside the shapes.
  """
  module = interpreter()
  planner = module.Interpreter(
      model_content=content, experimental_op_resolver_type=(
          module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES))
  planner.resize_tensor_input(planner.get_input_details()[0]["index"],
                              [1, size_px, size_px, 3])
  planner.allocate_tensors()
  model = load(content)
  tensors = model.subgraphs[0].tensors
  for detail in planner.get_tensor_details():
    # The interpreter has tensors of its own behind those of the file.
    if detail["index"] < len(tensors) and len(detail["shape"]):
      tensors[detail["index"]].shape = np.array(detail["shape"], np.int32)
  return dump(model)


def finish(content: bytes, output: str, metadata: bytes,
           files: Mapping[str, bytes]) -> bytes:
  """Returns a model with one signature, metadata, and files behind it.

  Args:
    content: A model with one input and one output.
    output: What the output is called; the input is "images".
    metadata: See lite_metadata.
    files: Name -> content, associated files.
  """
  model = load(content)
  classes = schema()
  graph = model.subgraphs[0]

  def named(name: str, index: int) -> Any:
    graph.tensors[index].name = name.encode()
    entry = classes.TensorMapT()
    entry.name, entry.tensorIndex = name, int(index)
    return entry

  signature = classes.SignatureDefT()
  signature.signatureKey = SIGNATURE
  signature.subgraphIndex = 0
  signature.inputs = [named("images", *graph.inputs)]
  signature.outputs = [named(output, *graph.outputs)]
  model.signatureDefs = [signature]
  buffer = classes.BufferT()
  buffer.data = np.frombuffer(metadata, np.uint8)
  entry = classes.MetadataT()
  entry.name, entry.buffer = lite_metadata.BUFFER, len(model.buffers)
  model.buffers.append(buffer)
  model.metadata = [*(model.metadata or ()), entry]
  made = dump(model)
  return lite_metadata.append_files(made, files) if files else made


def metadata(model: Any) -> bytes | None:
  """Returns the bytes of a model's metadata; None if it has none."""
  for entry in model.metadata or ():
    if entry.name in (lite_metadata.BUFFER, lite_metadata.BUFFER.encode()):
      data = model.buffers[entry.buffer].data
      return None if data is None else bytes(data)
  return None


def kernels(model: Any) -> Iterator[tuple[str, Any]]:
  """Yields the operator and the kernel, a TensorT, of whatever has one.

  That is the tensor that is stored: of float16, what is made float32 of.
  """
  codes = schema().BuiltinOperator
  names = {getattr(codes, name): name for name in (
      "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")}
  graph = model.subgraphs[0]
  widened = {int(o.outputs[0]): int(o.inputs[0]) for o in graph.operators
             if model.operatorCodes[o.opcodeIndex].builtinCode
             == codes.DEQUANTIZE}
  for operator in graph.operators:
    name = names.get(model.operatorCodes[operator.opcodeIndex].builtinCode)
    if name:
      index = int(operator.inputs[1])
      yield name, graph.tensors[widened.get(index, index)]


def type_name(tensor: Any) -> str:
  """Returns such as "FLOAT16"."""
  types = schema().TensorType
  return next(name for name, value in vars(types).items()
              if value == tensor.type)


def custom_operators(model: Any) -> list[str]:
  """Returns the operators that are not built into every interpreter."""
  return [code.customCode.decode() for code in model.operatorCodes
          if code.customCode]
