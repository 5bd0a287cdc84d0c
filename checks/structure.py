"""Checks that an export has the files and the interface that it promises."""

import dataclasses
import fnmatch
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from checks import report
from checks import subject as subject_lib
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import labels as known_labels

# What tfhub.dev takes in a SavedModel, less what only Keras writes, and with
# assets narrowed down to those that exports have.
SAVED_MODEL_FILES = (
    "saved_model.pb", "fingerprint.pb", "variables/variables.index",
    "variables/variables.data-*", str(export_dirs.MANIFEST),
    str(export_dirs.GOLDEN))

# Keys of the manifest, and their types; None where it says so.
_MANIFEST_KEYS = {
    "schema_version": int, "handle": str, "family": str, "variant": str,
    "kind": str, "form": str, "companion": (str, type(None)),
    "is_demo": bool, "checkpoint": dict, "weights": dict, "parameters": dict,
    "multiply_adds": dict, "dataset": dict, "preprocessing": dict,
    "inputs": dict, "outputs": dict, "labels": (dict, type(None)),
    "reported_accuracy": (dict, type(None)), "licence": dict, "card": dict,
    "software": dict}
_MANIFEST_PARTS = {
    "checkpoint": ("source", "format", "location", "files", "convention",
                   "channel_order"),
    "weights": ("sha256", "backbone_sha256"),
    "parameters": ("trainable", "total"),
    "multiply_adds": ("count", "image_size_px"),
    "dataset": ("name", "title", "split", "tfhub_tag"),
    "inputs": ("dtype", "min_size_px", "range", "channel_order"),
    "licence": ("id", "text"),
    "card": ("title", "description"),
}


def files(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that every file that belongs there is there, and no other."""
  return only(subject, SAVED_MODEL_FILES)


def only(subject: subject_lib.Subject, patterns: Iterable[str]
         ) -> report.CheckResult:
  """Checks that there are files of all patterns, labels, and no others."""
  found = [str(path) for path in export_dirs.files(subject.export_dir)]
  required = list(patterns)
  if subject.is_classifier:
    required.append(str(export_dirs.LABELS))
  problems = [f"{pattern} is missing" for pattern in required
              if not fnmatch.filter(found, pattern)]
  problems += [f"{path} does not belong into an export" for path in found
               if not any(fnmatch.fnmatch(path, p) for p in required)]
  size = sum((subject.export_dir / p).stat().st_size for p in found)
  return report.from_problems(
      problems, f"{len(found)} files, nothing else", files=len(found),
      bytes=size)


def hashes(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks the model's files against what was noted when they were written.

  For forms whose weights no other check compares with the checkpoint's to the
  last bit. Labels have a hash of their own; see `labels`.
  """
  advice = "Export the checkpoint again."
  try:
    stated = {f["name"]: (f["bytes"], f["sha256"])
              for f in subject.manifest["files"]}
  except (KeyError, TypeError):
    return report.failed(
        "the manifest does not tell of the model's files; expected name, size "
        "and SHA-256 of each, which exports of earlier programs lack. "
        f"{advice}")
  own = {export_dirs.MANIFEST, export_dirs.GOLDEN, export_dirs.LABELS}
  found = {str(path) for path in export_dirs.files(subject.export_dir)
           if path not in own}
  problems = [f"{name} is missing" for name in stated if name not in found]
  problems += [f"{name} was not exported" for name in sorted(found)
               if name not in stated]
  for name in sorted(found & set(stated)):
    path = subject.export_dir / name
    seen = path.stat().st_size, export_dirs.file_sha256(path)
    if seen != stated[name]:
      problems.append(
          f"{name} is not as it was exported: {seen[0]} bytes of SHA-256 "
          f"{seen[1]}, in the manifest {stated[name][0]} of {stated[name][1]}")
  if not stated:
    problems.append("the manifest names no file")
  if problems:
    return report.failed(f"{'; '.join(problems[:10])}. Expected the files as "
                         f"they were written. {advice}")
  return report.passed(f"{len(stated)} files as they were exported",
                       files=len(stated))


def manifest(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that the manifest is whole and fits where the export lies."""
  record = subject.manifest
  problems = []
  for key, types in _MANIFEST_KEYS.items():
    if key not in record:
      problems.append(f"{key} is missing")
    elif not isinstance(record[key], types):
      problems.append(f"{key} is {record[key]!r}")
  for key, parts in _MANIFEST_PARTS.items():
    if isinstance(record.get(key), dict):
      problems += [f"{key}.{part} is missing" for part in parts
                   if part not in record[key]]
  place = "/".join(subject.export_dir.parts[-3:])
  if record.get("handle") != place:
    problems.append(
        f"the handle is {record.get('handle')}, but the export lies in {place}")
  if record.get("schema_version") != 1:
    problems.append(f"schema_version is {record.get('schema_version')}, not 1")
  if record.get("kind") not in ("classifier", "feature_extractor"):
    problems.append(f"kind is {record.get('kind')!r}")
  problems += _form_problems(record)
  try:
    _ = subject.preprocessing
  except (ValueError, TypeError, KeyError) as e:
    problems.append(f"preprocessing: {e}")
  return report.from_problems(problems, "complete, and of this place")


def _form_problems(record: Mapping[str, Any]) -> list[str]:
  """Returns what is wrong with what a manifest says of its form."""
  name = str(record.get("handle")).split("/")[1:2]
  if forms.is_fine_tunable(record):
    if name and forms.main_name(name[0]) != name[0]:
      return [f"the module's name ends as that of a form without variables, but "
              f"its form is {record.get('form')}"]
    return []
  form = forms.by_name(record["form"])
  problems = []
  choice = {c.name: c for c in form.choices}.get(record.get(form.option))
  if form.choices and not choice:
    problems.append(f"{form.option} is {record.get(form.option)!r}")
  loss = choice.loss and dataclasses.asdict(choice.loss) if choice else None
  if record.get("loss") != loss:
    problems.append(f"loss is {record.get('loss')}, expected {loss}")
  # A name of its own, or it would be taken for the one to be fine-tuned.
  end = forms.module_name("", form.name, choice)
  if not name or not name[0].endswith(end):
    problems.append(f"the module's name does not end with {end}")
  return problems


def signatures(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks names, dtypes and shapes of all signatures."""
  expected = _expected_signatures(subject)
  found = subject.model.signatures
  problems = [f"signature {name} is missing" for name in expected
              if name not in found]
  problems += [f"signature {name} is not expected" for name in found
               if name not in expected]
  for name in sorted(set(expected) & set(found)):
    inputs = _described(found[name].structured_input_signature[1])
    outputs = _described(found[name].structured_outputs)
    for side, seen, wanted in (("takes", inputs, expected[name][0]),
                               ("gives", outputs, expected[name][1])):
      if seen != wanted:
        problems.append(f"{name} {side} {seen}, expected {wanted}")
  return report.from_problems(problems, ", ".join(sorted(expected)))


def interface(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks what TF Hub's reusable SavedModels must have."""
  model = subject.model
  problems = []
  if not callable(model):
    problems.append("the model cannot be called")
  missing = [name for name in ("variables", "trainable_variables",
                               "regularization_losses")
             if not hasattr(model, name)]
  if missing:
    return report.failed(
        "; ".join(problems + [f"{name} is missing" for name in missing]))
  names = Counter(v.name for v in model.variables)
  problems += [f"{n} variables are called {name}" for name, n in names.items()
               if n > 1]
  known = {id(v) for v in model.variables}
  for v in model.trainable_variables:
    if id(v) not in known:
      problems.append(f"{v.name} is in trainable_variables, not in variables")
    if not v.trainable:
      problems.append(f"{v.name} is in trainable_variables, not trainable")
  listed = {id(v) for v in model.trainable_variables}
  problems += [f"{v.name} is trainable, not in trainable_variables"
               for v in model.variables if v.trainable and id(v) not in listed]
  if not model.trainable_variables:
    problems.append("there are no trainable variables")
  return report.from_problems(
      problems, f"{len(model.variables)} variables, of which "
      f"{len(model.trainable_variables)} trainable",
      variables=len(model.variables),
      trainable=len(model.trainable_variables))


def parameters(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks the manifest's parameter counts against the variables."""
  found = {"trainable": _size(subject.model.trainable_variables),
           "total": _size(subject.model.variables)}
  stated = subject.manifest["parameters"]
  return report.from_problems(
      [f"{found[key]:,} {key} parameters, but the manifest says "
       f"{stated[key]:,}" for key in found if found[key] != stated[key]],
      f"{found['trainable']:,} trainable parameters", **found)


def weights(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks the manifest's digests of the weights against the variables."""
  found = {v.name.split(":")[0]: v for v in subject.model.variables}
  stated = subject.manifest["weights"]
  digest = export_dirs.WeightsDigest()
  for name in sorted(found):
    digest.update(name, found[name].numpy())
  return report.from_problems(
      [f"the variables' {key} is {value}, but the manifest says {stated[key]}"
       for key, value in digest.hexdigests().items() if stated[key] != value],
      "the variables are those that the manifest gives the SHA-256 of")


def labels(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks number, uniqueness and order of the class names."""
  record = subject.manifest["labels"]
  if not subject.is_classifier:
    return report.from_problems(
        ["the manifest names labels, but a feature extractor has no classes"]
        if record else [], "none, as a feature extractor has no classes")
  if not record:
    return report.failed("the manifest names no labels")
  content = (subject.export_dir / export_dirs.LABELS).read_bytes()
  found = subject.labels
  problems = []
  if hashlib.sha256(content).hexdigest() != record["sha256"]:
    problems.append("the file's SHA-256 is not the manifest's")
  if not len(found) == record["count"] == subject.output_size:
    problems.append(f"{len(found)} labels, the manifest says "
                    f"{record['count']}, and {subject.output_size} classes")
  problems += [f"{n} classes are called {name!r}"
               for name, n in Counter(found).items() if n > 1]
  if any(not name.strip() for name in found):
    problems.append("a label is empty")
  dataset = subject.manifest["dataset"]["name"]
  if known_labels.known(dataset):
    expected = known_labels.names(dataset)
    problems += [
        f"class {i} is called {a!r}, in {dataset} it is {b!r}"
        for i, (a, b) in enumerate(zip(found, expected)) if a != b]
    if len(found) != len(expected):
      problems.append(f"{dataset} has {len(expected)} classes")
  return report.from_problems(
      problems, f"{len(found)} unlike class names", labels=len(found))


def _expected_signatures(subject: subject_lib.Subject
                         ) -> dict[str, tuple[dict, dict]]:
  """Returns, for each name, described inputs and outputs."""
  images = {"images": "float32 [?, ?, ?, 3]"}
  encoded = {"image_bytes": "string [?]"}
  size = subject.output_size
  outputs = {subject.output: f"float32 [?, {size}]"}
  if not subject.is_classifier:
    return {"serving_default": (images, outputs),
            "image_bytes": (encoded, outputs)}
  k = min(5, size)
  return {
      "serving_default": (images, outputs),
      "image_bytes": (encoded, {
          "classes": f"int32 [?, {k}]", "labels": f"string [?, {k}]",
          "probabilities": f"float32 [?, {k}]"}),
      "feature_vector": (
          images, {"features": f"float32 [?, {_width(subject)}]"}),
  }


def _width(subject: subject_lib.Subject) -> int:
  """Returns the number of features that a classifier's head takes."""
  try:
    return subject_lib.head(subject.model)[0].shape[0]
  except (errors.HubExportError, AttributeError):
    return 0  # No such width: the signature is then reported, with its own.


def _described(specs: dict[str, tf.TensorSpec]) -> dict[str, str]:
  """Returns each spec as "float32 [?, 10]"."""
  described = {}
  for name, spec in specs.items():
    sizes = ("unknown rank" if spec.shape.rank is None else ", ".join(
        "?" if size is None else str(size) for size in spec.shape))
    described[name] = f"{spec.dtype.name} [{sizes}]"
  return described


def _size(variables: list[tf.Variable]) -> int:
  return sum(math.prod(v.shape) for v in variables)
