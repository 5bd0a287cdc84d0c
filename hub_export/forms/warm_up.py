"""What TensorFlow Serving finds beside a SavedModel: warm-up and batching.

The first request of each shape takes long: the graph is optimised, and oneDNN
makes its kernels and brings the weights into order. TensorFlow Serving replays
`assets.extra/tf_serving_warmup_requests` before it says that it is ready. The
file is a TFRecord of PredictionLog messages; those of their fields that are
needed are declared here, as the package tensorflow-serving-api would have to be
installed for nothing else.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping

from google.protobuf import descriptor_pb2
from google.protobuf import descriptor_pool
from google.protobuf import message
from google.protobuf import message_factory
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from hub_export import errors

REQUESTS = pathlib.PurePosixPath("assets.extra/tf_serving_warmup_requests")
BATCHING = pathlib.PurePosixPath("assets.extra/batching_parameters.txt")
# Sizes that the server fills batches up to, so that it knows every shape.
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
# How long the first request of a batch waits for others: a fraction of what a
# batch takes, so that it costs a lone request little.
_TIMEOUT_MICROS = 2000
_MOST_WAITING = 100  # Batches; what comes then is refused, not kept waiting.

_FIELD = descriptor_pb2.FieldDescriptorProto
# Message -> field number -> name and type: github.com/tensorflow/serving,
# tensorflow_serving/apis/{prediction_log,predict,model}.proto. `inputs` is a
# map from string to TensorProto there, which is written alike.
_MESSAGES = {
    "PredictionLog": {6: ("predict_log", "PredictLog")},
    "PredictLog": {1: ("request", "PredictRequest")},
    "PredictRequest": {1: ("model_spec", "ModelSpec"), 2: ("inputs", "Input")},
    "ModelSpec": {1: ("name", "string"), 3: ("signature_name", "string")},
    "Input": {1: ("key", "string"), 2: ("value", "bytes")},
}


def write(directory: pathlib.Path, name: str, size_px: int) -> None:
  """Writes both files into the directory of a SavedModel.

  Args:
    directory: Of one version.
    name: The module's, which requests are addressed to.
    size_px: Side of the images that are expected.
  """
  path = directory / REQUESTS
  path.parent.mkdir(exist_ok=True)
  with tf.io.TFRecordWriter(str(path)) as writer:
    for request in requests(name, size_px):
      writer.write(request)
  (directory / BATCHING).write_text(batching(), "utf-8")


def batching() -> str:
  """Returns TensorFlow Serving's BatchingParameters, as text."""
  lines = [f"max_batch_size {{ value: {BATCH_SIZES[-1]} }}",
           f"batch_timeout_micros {{ value: {_TIMEOUT_MICROS} }}",
           f"max_enqueued_batches {{ value: {_MOST_WAITING} }}"]
  lines += [f"allowed_batch_sizes: {size}" for size in BATCH_SIZES]
  return "".join(f"{line}\n" for line in lines)


def requests(name: str, size_px: int) -> Iterable[bytes]:
  """Yields serialised PredictionLog messages, one for each shape.

  Args:
    name: The module's.
    size_px: Side of the images.
  """
  for batch in BATCH_SIZES:
    yield _prediction_log(name, "serving_default", "images",
                          _grey(batch, size_px))
  file = tf.io.encode_jpeg(
      np.full((size_px, size_px, 3), 127, np.uint8)).numpy()
  yield _prediction_log(name, "image_bytes", "image_bytes",
                        tf.make_tensor_proto([file]).SerializeToString(
                            deterministic=True))


def _grey(batch: int, size_px: int) -> bytes:
  """Returns the TensorProto of grey images; one number stands for all."""
  proto = tf.make_tensor_proto(0.5, tf.float32, [batch, size_px, size_px, 3])
  assert len(proto.float_val) == 1
  return proto.SerializeToString(deterministic=True)


def _prediction_log(name: str, signature: str, argument: str,
                    tensor: bytes) -> bytes:
  """Returns PredictionLog.predict_log.request, with one input."""
  log = _prediction_log_class()()
  request = log.predict_log.request
  request.model_spec.name = name
  request.model_spec.signature_name = signature
  request.inputs.add(key=argument, value=tensor)
  return log.SerializeToString(deterministic=True)


@dataclasses.dataclass(frozen=True)
class Request:
  """A request as `read` finds it."""
  model: str
  signature: str
  inputs: Mapping[str, np.ndarray]


def read(record: bytes) -> Request:
  """Returns what a serialised PredictionLog asks for.

  Raises:
    HubExportError: if it is none, or asks for no prediction.
  """
  try:
    request = _prediction_log_class().FromString(record).predict_log.request
    inputs = {entry.key: tf.make_ndarray(
        tensor_pb2.TensorProto.FromString(entry.value))
              for entry in request.inputs}
  except (message.DecodeError, TypeError, ValueError) as e:
    raise errors.HubExportError(
        f"a record of {REQUESTS} cannot be read ({e}); expected a serialised "
        "PredictionLog. Export the checkpoint again.") from e
  return Request(request.model_spec.name, request.model_spec.signature_name,
                 inputs)


@functools.cache
def _prediction_log_class() -> type[message.Message]:
  """Returns PredictionLog, with those of its fields that are used here.

  In a pool of its own, so that it can live beside tensorflow-serving-api's.
  """
  file = descriptor_pb2.FileDescriptorProto(
      name="warm_up.proto", package="warm_up", syntax="proto3")
  for name, fields in _MESSAGES.items():
    described = file.message_type.add(name=name)
    for number, (field, kind) in fields.items():
      is_message = kind in _MESSAGES
      described.field.add(
          name=field, number=number,
          label=_FIELD.LABEL_REPEATED if field == "inputs"
          else _FIELD.LABEL_OPTIONAL,
          type=_FIELD.TYPE_MESSAGE if is_message else
          {"string": _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES}[kind],
          type_name=f".warm_up.{kind}" if is_message else None)
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(
      pool.FindMessageTypeByName("warm_up.PredictionLog"))
