"""Makes what the contestants open: weights, exports, peers' files.

All of it comes out of the published programs: our forms are exported by
//hub_export:export from the very weights that the peers get.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from benchmarks import contestants as contestants_lib
from benchmarks import processes
from benchmarks import pythons
from benchmarks import workers
from hub_export import errors
from hub_export import export_dirs
from hub_export import program
from hub_export.regnet import variants

NUM_CLASSES = 1000
_FACTS = "facts.json"
# What brings the packages that export a form: see contestants.Form.
_FORMS_IN_BAZEL = "./bazelw run //benchmarks:inference_forms"
_FORMS_BY_PIP = "pip install -r tools/python/requirements-forms.txt"


class Missing(errors.HubExportError):
  """Something that a contestant needs is not there; the message says what.

  Attributes:
    cure: A command that gets it, "" where there is none.
  """

  def __init__(self, message: str, cure: str = ""):
    super().__init__(message)
    self.cure = cure


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Files for one set of weights."""
  directory: pathlib.Path
  facts: Mapping[str, Any]           # See made_weights.py.
  given: Sequence[pathlib.Path]      # Exports that the user names.
  checkpoint: str                    # For the exporter.
  pythons: Sequence[str]
  say: Callable[[str], None]

  def task(self, contestant: contestants_lib.Contestant, mode: str,
           threads: int, size_px: int) -> dict[str, Any]:
    """Returns what a worker opens, made if it has to be.

    Raises:
      Missing: if it cannot be had.
    """
    convention = self.convention(contestant)
    if convention not in self.facts["losses"]:
      raise Missing(f"{contestant.name} has another network under the name "
                    f"{self.facts['variant']}")
    return {"runtime": contestant.runtime, "what": contestant.what,
            "precision": contestant.precision, "mode": mode,
            "threads": threads, "size_px": size_px,
            "num_classes": self.facts["num_classes"],
            "timm_name": timm_name(self.facts["variant"]),
            "keras_name": keras_name(self.facts["variant"]),
            "path": str(self._path(contestant, size_px))}

  def convention(self, contestant: contestants_lib.Contestant) -> str:
    """Returns how the contestant's network pads: "keras" or "torch"."""
    return (self.facts["convention"] if contestant.convention == "export"
            else contestant.convention)

  def _path(self, contestant: contestants_lib.Contestant,
            size_px: int) -> pathlib.Path:
    if contestant.form:
      return self._export(contestant.form) / contestant.form.file
    if contestant.what == "onnx":
      return self._onnx()
    if contestant.what == "keras_saved_model":
      return self.keras_saved_model(size_px)
    return self.directory / f"{contestant.what}.npz"

  def _export(self, form: contestants_lib.Form) -> pathlib.Path:
    """Returns our export of that form: the user's own, or made here."""
    found = find_export([*self.given, *export_paths(self._output_dir(form))],
                        form.manifest)
    if found is None:
      self._make_export(form)
      found = find_export(export_paths(self._output_dir(form)), form.manifest)
    if found is None:
      raise Missing(f"the exporter made nothing that is {dict(form.manifest)}")
    return found

  def _make_export(self, form: contestants_lib.Form) -> None:
    """Exports, as a user does.

    Raises:
      Missing: if the exporter cannot make this form.
    """
    python = sys.executable
    if form.packages:
      found = pythons.find(form.packages, self.pythons)
      if found.python is None:
        raise Missing(
            f"to export this form, {', '.join(found.lacking)} not installed",
            _FORMS_IN_BAZEL if "BUILD_WORKING_DIRECTORY" in os.environ else
            _FORMS_BY_PIP)
      python = found.python
    own = list(form.flags)
    if form.is_calibrated:
      own.append(f"--calibration_images={self._pictures()}")
    self.say(f"Exporting: {' '.join(form.flags)}")
    try:
      processes.run_module(
          python, "hub_export.export", f"--checkpoint={self.checkpoint}",
          f"--variant={self.facts['variant']}",
          f"--output_dir={self._output_dir(form)}", *own)
    except errors.HubExportError as e:
      raise Missing(str(e)) from e

  def _pictures(self) -> pathlib.Path:
    """Returns a directory of the images as files, to calibrate on."""
    path = self.directory / "pictures"
    path.mkdir(exist_ok=True)
    for number, image in enumerate(np.load(self.directory / "images.npy")):
      PIL.Image.fromarray(np.rint(255 * image).astype(np.uint8)).save(
          path / f"{number}.png")
    return path

  def _output_dir(self, form: contestants_lib.Form) -> pathlib.Path:
    # One for each: an export of one form must not be taken for another's.
    return self.directory / ("exports" + "".join(form.flags))

  def _onnx(self) -> pathlib.Path:
    path = self.directory / "model.onnx"
    if path.exists():
      return path
    python = pythons.find(("onnx", "numpy"), self.pythons)
    if python.python is None:
      raise Missing("to write its file, onnx not installed",
                    program.command("//benchmarks:peers"))
    self.say("Writing an ONNX file for the peers")
    half = path.with_suffix(".half")
    processes.run_module(python.python, "benchmarks.made_onnx",
                         str(self.directory / "canonical.npz"),
                         self.facts["convention"], str(half))
    half.rename(path)
    return path

  def keras_saved_model(self, size_px: int) -> pathlib.Path:
    """Returns tf_keras' own SavedModel of the same weights."""
    path = self.directory / "keras_saved_model"
    if not path.exists():
      half = path.with_suffix(".half")
      # What an interrupted run left.
      shutil.rmtree(half, ignore_errors=True)
      self.say("Having tf_keras save its model")
      keras = next(c for c in contestants_lib.INFERENCE
                   if c.what == "keras")
      task = self.task(keras, "infer", os.cpu_count(), size_px)
      with workers.Worker("tf_keras", sys.executable, os.cpu_count()) as w:
        w.ask("open", task=task | {"save_to": str(half)})
      half.rename(path)
    return path


@contextlib.contextmanager
def prepared(variant: str, checkpoint: str | None, size_px: int,
             num_images: int, num_trained: int, work_dir: str | None,
             given: Sequence[str], peers: Sequence[str],
             say: Callable[[str], None], num_classes: int = NUM_CLASSES
             ) -> Iterator[Prepared]:
  """Yields weights, images and expected outputs; what else is made on demand.

  Args:
    variant: Any spelling.
    checkpoint: What to take, None for made-up weights.
    size_px: Side of the images.
    num_images: In the largest batch.
    num_trained: In a step of training, 0 for none.
    work_dir: Keeps everything; None for a temporary directory.
    given: Directories of exports that take part.
    peers: Pythons, as `pythons.candidates` gives them.
    say: Tells the user what is being made.
    num_classes: Of made-up weights.
  """
  name = variants.by_name(variant).name
  task = {"variant": name, "checkpoint": checkpoint, "size_px": size_px,
          "num_images": max(num_images, 2), "num_trained": num_trained,
          "num_classes": num_classes}
  exports = [program.user_path(path) for path in given]
  for path in exports:
    export_dirs.read_manifest(path)
  with contextlib.ExitStack() as stack:
    if work_dir:
      directory = program.user_path(work_dir) / f"{name}-{key(task)}"
      directory.mkdir(parents=True, exist_ok=True)
    else:
      directory = pathlib.Path(stack.enter_context(
          tempfile.TemporaryDirectory(prefix="regnety_hub_")))
    facts = directory / _FACTS
    if not facts.exists():
      say(f"Making {'weights and ' if checkpoint is None else ''}images")
      processes.run_module(sys.executable, "benchmarks.made_weights",
                           json.dumps(task | {"directory": str(directory)}))
    yield Prepared(directory, json.loads(facts.read_text()), exports,
                   checkpoint or str(directory / "weights.h5"), peers, say)


def find_export(paths: Sequence[pathlib.Path], wanted: Mapping[str, str]
                ) -> pathlib.Path | None:
  """Returns the first classifier whose manifest says all that is wanted."""
  for path in paths:
    manifest = export_dirs.read_manifest(path)
    if manifest["kind"] == "classifier" and all(
        manifest.get(key) == value for key, value in wanted.items()):
      return path
  return None


def export_paths(output_dir: pathlib.Path) -> list[pathlib.Path]:
  """Returns all versions of all modules below an output directory."""
  return sorted(path.parents[1] for path in output_dir.glob(
      f"*/*/*/{export_dirs.MANIFEST}"))


def key(task: Mapping[str, Any]) -> str:
  """Returns what tells kept files from those of another task, checkpoint or
  exporter: what it wrote before it was changed must not be measured.

  Args:
    task: What is to be made; of its "checkpoint" the file's time counts too.
  """
  digest = hashlib.sha256(json.dumps(task).encode())
  if task["checkpoint"]:
    path = program.user_path(task["checkpoint"])
    if path.exists():
      digest.update(str(path.stat().st_mtime_ns).encode())
  root = pathlib.Path(__file__).absolute().parents[1]
  for path in sorted([*root.glob("benchmarks/made_*.py"),
                      *root.glob("hub_export/**/*.py")]):
    digest.update(path.read_bytes())
  return digest.hexdigest()[:12]


def timm_name(variant: str) -> str:
  """Returns "regnety_006" for "regnety_600mf", as timm calls it."""
  return f"{variant.split('_')[0]}_{_hundreds(variant):03d}"


def keras_name(variant: str) -> str:
  """Returns "RegNetY006" for "regnety_600mf"."""
  return f"RegNet{variant[6].upper()}{_hundreds(variant):03d}"


def _hundreds(variant: str) -> int:
  """Returns the multiply-adds in a variant's name, in hundred millions."""
  size = variant.split("_")[1]
  return round(float(size[:-2]) * {"mf": 0.01, "gf": 10}[size[-2:]])
