"""The checks of the TF.js form, run in TensorFlow.js on Node.js."""

from checks import accuracy
from checks import listed
from checks import numerics
from checks import pixels
from checks import report
from checks import structure
from checks import subject as subject_lib
from checks.forms import siblings
from checks.forms import tfjs_model
from hub_export import export_dirs
from hub_export.forms import tfjs as form


def files(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that the model and its record are there, and nothing else."""
  return structure.only(subject, (
      form.MODEL, "group1-shard*of*.bin", str(export_dirs.MANIFEST),
      str(export_dirs.GOLDEN)))


def graph(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks the graph's weights, and what loads it and what it is called by."""
  content, about = subject.model.graph, subject.model.about
  problems = []
  weights = tfjs_model.weights(subject.export_dir, content)
  named = {p for g in content["weightsManifest"] for p in g["paths"]}
  there = {p.name for p in subject.export_dir.glob("*.bin")}
  if named != there:
    problems.append(f"{form.MODEL} names the shards {sorted(named)}, and there "
                    f"are {sorted(there)}")
  problems += [f"{name} is {value.dtype}" for name, value in weights.items()
               if value.size > 8 and value.dtype != "float32"]
  if (about["inputs"], about["outputs"]) != (["images"], [subject.output]):
    problems.append(f"it takes {about['inputs']} and gives {about['outputs']}; "
                    f"expected images and {subject.output}")
  nodes = content["modelTopology"]["node"]
  return report.from_problems(
      problems, f"{len(nodes)} operations; in TensorFlow.js "
      f"{about['version']}, {about['backend']}, Node.js {about['node']}",
      nodes=len(nodes), weights=sum(v.size for v in weights.values()))


def metadata(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks what the file says of itself against manifest and labels."""
  found = dict(subject.model.about["metadata"])
  if "labels" in found:
    found["labels"] = "\n".join(found["labels"])
  return siblings.metadata(subject, found)


def javascript(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that the backend without WebAssembly has the same outputs."""
  _ = subject.model  # What cannot be loaded is told by whoever needs it first.
  other = tfjs_model.Model(subject.export_dir, backend="cpu")
  try:
    return siblings.agreement(
        subject, other, "TensorFlow.js' backends wasm and cpu",
        subject_lib.probe_images(2, subject.min_size_px, subject.min_size_px))
  finally:
    other.close()


def constants(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that all weights are constants, which nothing could train.

  It stands for the group of trainability, without which nothing is published.
  """
  content = subject.model.graph
  nodes = content["modelTopology"]["node"]
  fixed = {n["name"] for n in nodes if n["op"] == "Const"}
  weights = {w["name"] for g in content["weightsManifest"]
             for w in g["weights"]}
  problems = [f"the weight {name} is of no constant"
              for name in sorted(weights - fixed)[:3]]
  problems += [f"the constant {name} has no weight"
               for name in sorted(fixed - weights)[:3]]
  problems += [f"{n['name']} is a {n['op']}" for n in nodes
               if "Variable" in n["op"] or n["op"] == "VarHandleOp"]
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
    listed.Check("numerics", "javascript", javascript),
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
