"""Exports of a few plain files, with report and card, for tests.

No TensorFlow. What is expected of an export is written here by hand; only the
card, which has to agree with all of it, is rendered.
"""

import hashlib
import json
import pathlib
from typing import Any

from checks import names
from hub_export import archive
from model_cards import render

HANDLE = "local/tiny_classification/1"
FILES = {
    "saved_model.pb": b"graph" * 40,
    "fingerprint.pb": b"\x01\x02",
    "assets/labels.txt": b"cat\ndog\n",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": bytes(range(256)) * 64,
}
_SAVED_MODEL = {name: content for name, content in FILES.items()
                if not name.startswith("variables")} | {
                    "variables/variables.index": b"index"}
# Of each form without variables: its handle, files, and what its manifest says.
FORMS = {
    "serving": ("local/tiny_classification_serving_bf16/1", _SAVED_MODEL, {
        "precision": "bf16", "loss": {"outputs": 0.1, "top1_points": 0.5}}),
    "lite": ("local/tiny_classification_lite_int8/1", {
        "model.tflite": b"TFL3" * 99, "assets/labels.txt": b"cat\ndog\n"}, {
            "quantization": "int8", "parent": "tiny_classification",
            "loss": {"outputs": 0.3, "top1_points": 0.5},
            "inputs": {"dtype": "uint8", "min_size_px": 32, "range": [0, 255],
                       "channel_order": "RGB"},
            "lite": {"file": "model.tflite",
                     "calibration": {"source": "pets, train",
                                     "examples": 200}}}),
    "onnx": ("local/tiny_classification_onnx/1", {
        "model.onnx": b"ONNX" * 99, "assets/labels.txt": b"cat\ndog\n"}, {}),
    "tfjs": ("local/tiny_classification_tfjs/1", {
        "model.json": b'{"format": "graph-model"}',
        "group1-shard1of1.bin": b"weights" * 99,
        "assets/labels.txt": b"cat\ndog\n"}, {"parent": "tiny_classification"}),
}
GROUPS = ("structure", "numerics", "trainability", "accuracy", "card")


def make(output_dir: pathlib.Path, handle: str = HANDLE,
         files: dict[str, bytes] | None = None, **changes: Any
         ) -> pathlib.Path:
  """Writes an export with a passing report and a card; returns its directory.

  Args:
    output_dir: Where exports lie.
    handle: publisher/name/version.
    files: Relative path to bytes, FILES if not given; the manifest is added.
    **changes: Fields of the manifest.
  """
  export_dir = output_dir / handle
  files = FILES if files is None else files
  for name, content in files.items():
    path = export_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  path = export_dir / "assets.extra" / "manifest.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  record = manifest(handle) | changes
  if record["form"] in FORMS:
    record["files"] = [
        {"name": name, "bytes": len(content),
         "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items() if not name.startswith("assets/")]
  path.write_text(json.dumps(record))
  write_report(export_dir)
  write_card(export_dir)
  return export_dir


def make_form(output_dir: pathlib.Path, form: str) -> pathlib.Path:
  """Writes an export of one of FORMS, as `make`; returns its directory."""
  handle, files, changes = FORMS[form]
  return make(output_dir, handle, files, form=form, **changes)


def manifest(handle: str = HANDLE) -> dict[str, Any]:
  """Returns the manifest of a classifier of two classes."""
  return {
      "schema_version": 1, "handle": handle, "family": "tiny",
      "variant": "tiny", "kind": "classifier", "form": "main",
      "companion": None, "is_demo": False,
      "checkpoint": {
          "source": "keras", "format": "keras_h5", "location": "keras:tiny",
          "convention": "keras", "channel_order": "RGB",
          "files": [{"name": "tiny.h5", "sha256": "8a5f" * 16, "bytes": 4321}]},
      "weights": {"sha256": "1b7c" * 16, "backbone_sha256": "9d03" * 16},
      "parameters": {"trainable": 4096, "total": 4160},
      "multiply_adds": {"count": 123456, "image_size_px": 48},
      "dataset": {"name": "pets", "title": "Cats and dogs", "split": "test",
                  "tfhub_tag": None},
      "preprocessing": {"resizes": [], "crop_px": 48,
                        "mean": [0.0] * 3, "std": [1.0] * 3},
      "inputs": {"dtype": "float32", "min_size_px": 32, "range": [0.0, 1.0],
                 "channel_order": "RGB"},
      "outputs": {"num_classes": 2},
      "labels": {"file": "assets/labels.txt", "count": 2,
                 "sha256": "77e2" * 16},
      "reported_accuracy": None,
      "licence": {"id": "apache-2.0", "text": "Free for everybody."},
      "card": {"title": "A tiny classifier", "description": "A tiny module.",
               "architecture": "regnety", "training": "None at all.",
               "intended_use": "Tests.", "limits": "Nearly everything.",
               "references": []},
      "software": {"tensorflow": "2.21.0"},
  }


def write_report(export_dir: pathlib.Path, **changes: Any) -> None:
  """Writes the report of a passing check, with some fields changed."""
  of = json.loads(
      (export_dir / "assets.extra" / "manifest.json").read_text())
  packed_sha256, packed_bytes = archive.sha256(export_dir)
  report = {
      "schema_version": 1, "handle": of["handle"],
      "export_sha256": digest(export_dir),
      "status": "passed",
      "checks": [check(*name.split("/"), "passed", "all there")
                 for name in names.EXPECTED.get(
                     of["form"], names.EXPECTED["main"])[of["kind"]]],
      "dataset": {"name": "pets", "version": "1.0.0", "split": "test",
                  "num_examples": 360, "digest": "e61a" * 16},
      "metrics": metrics(),
      "environment": {"python": "3.11.2", "onednn": True},
      "started": "2026-11-21T10:50:00Z", "seconds": 12.25,
      "archive": {"sha256": packed_sha256, "bytes": packed_bytes},
      "attachments": _attachments(export_dir),
  }
  report_path(export_dir).write_text(json.dumps(report | changes))


def metrics() -> dict[str, Any]:
  """Returns the figures of an evaluation as reports hold them."""
  return {
      # Wilson's interval for 351 of 360.
      "top1": {"value": 97.5, "correct": 351, "total": 360,
               "low": 95.318, "high": 98.679}, "top5": None,
      "nll": 0.1234, "ece": 4.5, "mean_confidence": 93.0,
      "reliability": [
          {"low": 0.0, "high": 50.0, "count": 0, "accuracy": None,
           "confidence": None},
          {"low": 50.0, "high": 100.0, "count": 360, "accuracy": 97.5,
           "confidence": 93.0}],
      "classes": {
          "count": 2, "mean_top1": 97.51,
          "worst": [{"class": 1, "name": "dog", "correct": 173, "total": 178},
                    {"class": 0, "name": "cat", "correct": 178,
                     "total": 182}],
          "best": [{"class": 0, "name": "cat", "correct": 178, "total": 182},
                   {"class": 1, "name": "dog", "correct": 173, "total": 178}]},
      "confusions": [
          {"label": 1, "predicted": 0, "label_name": "dog",
           "predicted_name": "cat", "count": 5},
          {"label": 0, "predicted": 1, "label_name": "cat",
           "predicted_name": "dog", "count": 4}]}


def write_attachments(export_dir: pathlib.Path) -> None:
  """Writes pictures and page of an evaluation, and a card that links to them.

  Only their names matter: each has content of its own.
  """
  for suffix in (".reliability.png", ".classes.png", ".worst.png", ".html"):
    path = export_dir.parent / f"{export_dir.name}.evaluations" / (
        "pets-test" + suffix)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(f"{export_dir.name}{suffix}".encode() * 20)
  list_attachments(export_dir)
  write_card(export_dir)


def list_attachments(export_dir: pathlib.Path) -> None:
  """Writes into the report what lies in the directory of evaluations."""
  path = report_path(export_dir)
  path.write_text(json.dumps(json.loads(path.read_text()) | {
      "attachments": _attachments(export_dir)}))


def _attachments(export_dir: pathlib.Path) -> dict[str, str]:
  return {path.relative_to(export_dir.parent).as_posix():
              hashlib.sha256(path.read_bytes()).hexdigest()
          for path in export_dir.parent.glob(
              f"{export_dir.name}.evaluations/*")}


def write_collection(root: pathlib.Path) -> pathlib.Path:
  """Writes the collection of what is published as HANDLE, with a picture.

  Without matplotlib; what else lies there is nothing to show.
  """
  page = root / "local" / "collections" / "tiny" / "1.md"
  page.parent.mkdir(parents=True)
  page.write_text(
      "# Collection local/tiny/1\nAll modules.\n\n## Modules\n\n"
      "| Module | Top-1 |\n| --- | ---: |\n"
      "| [local/tiny](../../tiny_classification/1.md) | 97.5 |\n\n"
      "![Accuracy](1.multiply_adds.png)\n\n![Other](../../../secret.png)\n",
      "utf-8")
  (page.parent / "1.multiply_adds.png").write_bytes(b"picture" * 30)
  (page.parent / ".collection.lock").write_bytes(b"")
  return page


def write_card(export_dir: pathlib.Path) -> None:
  """Writes the card that goes with manifest and report."""
  path = export_dir / "assets.extra" / "manifest.json"
  report = json.loads(report_path(export_dir).read_text())
  card_path(export_dir).write_text(render.module_card(
      json.loads(path.read_text()), report,
      render.evaluation_links(export_dir, report)), "utf-8")


def check(group: str, name: str, status: str, message: str) -> dict[str, Any]:
  """Returns one check as reports hold it."""
  return {"group": group, "name": name, "status": status, "message": message,
          "figures": {}, "seconds": 0.5}


def digest(export_dir: pathlib.Path) -> str:
  """Returns what sha256sum makes of sha256sum's lines for the sorted files."""
  names = sorted(path.relative_to(export_dir).as_posix()
                 for path in export_dir.rglob("*") if path.is_file())
  lines = "".join(
      f"{hashlib.sha256((export_dir / name).read_bytes()).hexdigest()}"
      f"  {name}\n" for name in names)
  return hashlib.sha256(lines.encode()).hexdigest()


def report_path(export_dir: pathlib.Path) -> pathlib.Path:
  return export_dir.parent / f"{export_dir.name}.checks.json"


def card_path(export_dir: pathlib.Path) -> pathlib.Path:
  return export_dir.parent / f"{export_dir.name}.md"


def tree(directory: pathlib.Path) -> dict[str, bytes | None]:
  """Returns all paths below `directory`, files with their bytes."""
  return {path.relative_to(directory).as_posix():
          path.read_bytes() if path.is_file() else None
          for path in directory.rglob("*")}
