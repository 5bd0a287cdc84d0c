"""The checks of the ONNX form, run in ONNX Runtime."""

import onnx
import onnxruntime

from checks import accuracy
from checks import listed
from checks import numerics
from checks import pixels
from checks import report
from checks import structure
from checks import subject as subject_lib
from checks.forms import siblings
from hub_export import export_dirs
from hub_export.forms import onnx as form


def files(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that the model and its record are there, and nothing else."""
  return structure.only(subject, (
      form.MODEL, str(export_dirs.MANIFEST), str(export_dirs.GOLDEN)))


def graph(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks the graph: sound, folded, grouped, and in one layout throughout."""
  proto = subject.model.proto
  problems = form.problems(proto)
  try:
    onnx.checker.check_model(proto, full_check=True)
  except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError
          ) as e:
    problems.append(f"ONNX' own check: {str(e)[:300]}")
  opset = {o.domain: o.version for o in proto.opset_import}
  if set(opset) != {""} or opset[""] < form.OPSET:
    problems.append(f"operation sets are {opset}, expected ONNX' own, "
                    f"{form.OPSET} or newer")
  expected = (["images: tensor(float) [batch, height, width, 3]"],
              [f"{subject.output}: tensor(float) [batch, "
               f"{subject.output_size}]"])
  session = subject.model.session
  for values, wanted in zip((session.get_inputs(), session.get_outputs()),
                            expected):
    found = [f"{v.name}: {v.type} [{', '.join(map(str, v.shape))}]"
             for v in values]
    if found != wanted:
      problems.append(f"there is {found}, expected {wanted}")
  groups = form.groups(proto)
  return report.from_problems(
      problems, f"{len(groups)} convolutions, {sum(g > 1 for g in groups)} of "
      f"them grouped; in ONNX Runtime {onnxruntime.__version__}",
      nodes=len(proto.graph.node), convolutions=len(groups))


def metadata(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks what the file says of itself against manifest and labels."""
  return siblings.metadata(subject, subject.model.metadata)


def constants(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that all weights are constants, which nothing could train.

  It stands for the group of trainability, without which nothing is published.
  """
  proto = subject.model.proto
  fixed = {tensor.name for tensor in proto.graph.initializer}
  problems = [f"{value.name} can be put in from outside"
              for value in proto.graph.input if value.name in fixed]
  if proto.training_info:
    problems.append("the model says how it is to be trained")
  problems += [f"{node.name} works otherwise in training"
               for node in proto.graph.node for a in node.attribute
               if a.name == "training_mode" and a.i]
  return report.from_problems(
      problems, f"{len(fixed)} constants, nothing to be trained",
      constants=len(fixed))


CHECKS = (
    listed.Check("structure", "files", files),
    listed.Check("structure", "hashes", structure.hashes),
    listed.Check("structure", "manifest", structure.manifest),
    listed.Check("structure", "graph", graph),
    listed.Check("structure", "metadata", metadata),
    listed.Check("structure", "labels", structure.labels),
    listed.Check("numerics", "golden", numerics.golden),
    listed.Check("numerics", "saved_model", siblings.saved_model),
    listed.Check("numerics", "batch_sizes", numerics.batch_sizes),
    listed.Check("numerics", "image_sizes", numerics.image_sizes),
    listed.Check("numerics", "repeatable", numerics.repeatable),
    listed.Check("numerics", "preprocessing", pixels.preprocessing),
    listed.Check("trainability", "constants", constants),
    listed.Check("accuracy", "counting", accuracy.counting),
    listed.Check("accuracy", "top1", accuracy.top1),
    listed.Check("accuracy", "top5", accuracy.top5),
    listed.Check("accuracy", "earlier", accuracy.earlier),
    listed.Check("accuracy", "expected", accuracy.expected_top1),
    listed.Check("accuracy", "same_as_classifier", accuracy.same_as_classifier,
                 kinds=("feature_extractor",)),
)
