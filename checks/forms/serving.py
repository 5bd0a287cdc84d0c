"""The checks of the serving form: a SavedModel without variables."""

import pathlib
from collections.abc import Iterator

from google.protobuf import message
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from checks import accuracy
from checks import listed
from checks import numerics
from checks import pixels
from checks import report
from checks import structure
from checks import subject as subject_lib
from hub_export import errors
from hub_export import hub_module
from hub_export.forms import frozen
from hub_export.forms import warm_up

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # Is in every SavedModel.


def files(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that a SavedModel and what TensorFlow Serving reads is all there."""
  return structure.only(subject, (
      *structure.SAVED_MODEL_FILES, str(warm_up.REQUESTS),
      str(warm_up.BATCHING)))


def no_variables(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that there is nothing to train."""
  model = subject.model
  problems = []
  if not callable(model):
    problems.append("the model cannot be called")
  for name in ("variables", "trainable_variables", "regularization_losses"):
    # Empty, not absent: TF Hub's interface asks for them.
    if len(getattr(model, name, "?")):
      problems.append(f"{name} is missing or not empty")
  problems += [
      f"there is a variable {name}" for name, _ in tf.train.list_variables(
          str(subject.export_dir / "variables" / "variables"))
      if name != _OBJECT_GRAPH]
  return report.from_problems(problems, "no variables")


def weights(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks the graph's constants against those that the checkpoint gave.

  The exporter noted their SHA-256 before there was a graph. What bf16 may lose
  of the outputs would hide a weight that is slightly wrong.
  """
  try:
    stated = dict(subject.manifest["folded_weights"])
  except (KeyError, TypeError, ValueError):
    return report.failed(
        "the manifest has no SHA-256 of the folded weights; expected it, which "
        "exports of earlier programs lack. Export the checkpoint again.")
  found, problems = {}, []
  for node in _constants(subject.export_dir / "saved_model.pb"):
    name = node.name.removeprefix(hub_module.WEIGHTS_SCOPE)
    if name in found:
      problems.append(f"{name} is there twice")
    elif name == node.name:
      problems.append(f"beside the weights there is a constant {name}")
    found[name] = tf.make_ndarray(node.attr["value"].tensor)
  record = frozen.weights_record(found)
  problems += [f"{key} of the graph's weights: {record[key]}, in the manifest: "
               f"{stated.get(key)}" for key in record
               if record[key] != stated.get(key)]
  if problems:
    return report.failed(
        f"{'; '.join(problems[:10])}. Expected the checkpoint's weights with "
        "batch norm inside, each once. Export the checkpoint again.")
  return report.passed("the constants are those that the manifest gives the "
                       "SHA-256 of", constants=len(found))


def _constants(path: pathlib.Path) -> Iterator[node_def_pb2.NodeDef]:
  """Yields the floating-point constants of each function that has weights.

  Raises:
    ChecksError: if the file is no SavedModel.
  """
  try:
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  except (OSError, message.DecodeError) as e:
    raise errors.ChecksError(
        f"{path} cannot be read ({e}); expected a SavedModel. Export the "
        "checkpoint again.") from e
  for meta_graph in saved.meta_graphs:
    graph = meta_graph.graph_def
    for nodes in (graph.node, *(f.node_def for f in graph.library.function)):
      constants = [n for n in nodes if n.op == "Const" and
                   tf.as_dtype(n.attr["dtype"].type).is_floating]
      if any(n.name.startswith(hub_module.WEIGHTS_SCOPE) for n in constants):
        yield from constants


def refused(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that whoever wants to train it is told what to take instead.

  It stands for the group of trainability, without which nothing is published.
  """
  size = subject.min_size_px
  try:
    subject.model(tf.zeros([1, size, size, 3]), training=True)
  except tf.errors.InvalidArgumentError as e:
    return report.from_problems(
        [] if "main form" in e.message else
        [f"a call for training says {e.message[:200]!r}; expected it to name "
         "the main form"], "a call for training is refused")
  return report.failed("a call for training is not refused; expected an error "
                       "that names the main form")


def warm_up_requests(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that the server's warm-up goes through, one request per shape."""
  name = subject.manifest["handle"].split("/")[1]
  size = subject.preprocessing.crop_px
  expected = [f"serving_default(images: float32 [{batch}, {size}, {size}, 3])"
              for batch in warm_up.BATCH_SIZES] + [
                  "image_bytes(image_bytes: string [1])"]
  problems, found = [], []
  for record in tf.data.TFRecordDataset(
      str(subject.export_dir / warm_up.REQUESTS)).as_numpy_iterator():
    request = warm_up.read(record)
    if request.model != name:
      problems.append(f"a request is for {request.model!r}, not for {name}")
    inputs = {k: tf.constant(v) for k, v in request.inputs.items()}
    found.append(f"{request.signature}(" + ", ".join(
        f"{k}: {v.dtype.name} {v.shape.as_list()}"
        for k, v in inputs.items()) + ")")
    if found[-1] not in expected:
      continue  # What it would make of any other input is not asked.
    outputs = subject.signature(request.signature)(**inputs)
    problems += [f"{request.signature} gives {k} that is not finite"
                 for k, v in outputs.items() if v.dtype.is_floating
                 and not tf.reduce_all(tf.math.is_finite(v))]
  if found != expected:
    problems.append(f"the requests are {', '.join(found) or 'none'}; expected "
                    f"{', '.join(expected)}")
  content = (subject.export_dir / warm_up.BATCHING).read_text("utf-8")
  if content != warm_up.batching():
    problems.append(f"{warm_up.BATCHING} is not as it was written")
  return report.from_problems(
      problems, f"{len(found)} requests go through", requests=len(found))


CHECKS = (
    listed.Check("structure", "files", files),
    listed.Check("structure", "hashes", structure.hashes),
    listed.Check("structure", "manifest", structure.manifest),
    listed.Check("structure", "no_variables", no_variables),
    listed.Check("structure", "signatures", structure.signatures),
    listed.Check("structure", "labels", structure.labels),
    listed.Check("structure", "weights", weights),
    listed.Check("structure", "warm_up", warm_up_requests),
    listed.Check("numerics", "golden", numerics.golden),
    listed.Check("numerics", "batch_sizes", numerics.batch_sizes),
    listed.Check("numerics", "image_sizes", numerics.image_sizes),
    listed.Check("numerics", "repeatable", numerics.repeatable),
    listed.Check("numerics", "image_bytes", numerics.image_bytes),
    listed.Check("numerics", "preprocessing", pixels.preprocessing),
    listed.Check("numerics", "features", numerics.feature_vector,
                 kinds=("classifier",)),
    listed.Check("trainability", "refused", refused),
    listed.Check("accuracy", "counting", accuracy.counting),
    listed.Check("accuracy", "image_bytes", accuracy.image_bytes),
    listed.Check("accuracy", "top1", accuracy.top1),
    listed.Check("accuracy", "top5", accuracy.top5),
    listed.Check("accuracy", "loss", accuracy.loss),
    listed.Check("accuracy", "earlier", accuracy.earlier),
    listed.Check("accuracy", "expected", accuracy.expected_top1),
    listed.Check("accuracy", "same_as_classifier", accuracy.same_as_classifier,
                 kinds=("feature_extractor",)),
)
