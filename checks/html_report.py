"""One HTML page that tells a reviewer all of an evaluation, in any browser.

It is a single file that loads nothing: pictures are inside, and its policy
lets run only its own small script, which sorts and filters. Whatever names of
classes, files and checks hold, it stands there as text.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import base64
import hashlib
import pathlib
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import numpy as np

from checks import figures as figures_lib
from checks import pictures as pictures_lib
from checks import predictions as predictions_lib
from checks import report as report_lib
from hub_export import errors
from hub_export import export_dirs
from model_cards import wording

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_NUM_MISTAKES = 20
_NUM_CONFUSIONS = 20
_STATUSES = {report_lib.PASSED: "passed", report_lib.FAILED: "failed",
             report_lib.NOT_RUN: "not run",
             report_lib.INCOMPLETE: "incomplete"}


def page(report: Mapping[str, Any], manifest: Mapping[str, Any],
         figures: figures_lib.Figures,
         predictions: predictions_lib.Predictions,
         pictures: Sequence[pictures_lib.Picture]) -> str:
  """Returns the page of one evaluation, as HTML.

  Args:
    report: As report.Report.to_dict gives it, with a data set.
    manifest: The export's.
    figures: What `predictions` come to.
    predictions: Of every example.
    pictures: Read and put into the page.

  Raises:
    HubExportError: if manifest or report lack a field.
  """
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True,
      undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
      finalize=_visible)
  environment.filters.update(
      words=wording.value, label=wording.label, breakable=_breakable,
      percent=lambda value: f"{value:.2f}".replace("-0.00", "0.00"),
      count=lambda value: f"{value:,}")
  style, script = (_TEMPLATES.joinpath(f"evaluation.{kind}").read_text("utf-8")
                   for kind in ("css", "js"))
  try:
    return environment.get_template("evaluation.html.j2").render(
        r=report, m=manifest, figures=figures, statuses=_STATUSES,
        style=markupsafe.Markup(style), script=markupsafe.Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src {_source(style)};"
        f" script-src {_source(script)}; base-uri 'none'; form-action 'none'",
        verdict=_verdict(report), against=_against(report, manifest),
        groups=_groups(report),
        unlabelled=len(predictions) - figures.top1.total,
        pictures=[(picture, base64.b64encode(
            picture.path.read_bytes()).decode()) for picture in pictures],
        worst=[(c, _confused(figures, c.index)) for c in figures.worst],
        confusions=figures.confusions[:_NUM_CONFUSIONS],
        mistakes=_mistakes(predictions, figures.class_names),
        command=_command(report))
  except (jinja2.UndefinedError, KeyError, TypeError, ValueError) as e:
    raise errors.HubExportError(
        "no page can be made: manifest or report lacks a field or has it in "
        f"another form ({type(e).__name__}: {e}); expected schema version 1. "
        "Check the module again.") from e


def write(path: pathlib.Path, report: Mapping[str, Any],
          manifest: Mapping[str, Any], figures: figures_lib.Figures,
          predictions: predictions_lib.Predictions,
          pictures: Sequence[pictures_lib.Picture]) -> None:
  """Writes what `page` returns, whole or not at all.

  Raises:
    HubExportError: as `page`.
    WriteError: if it cannot be written.
  """
  export_dirs.write_file(
      path, page(report, manifest, figures, predictions, pictures))


def _visible(value: object) -> object:
  """Returns text without invisible characters, anything else as it is.

  Those that turn the direction of text could make a name look like another.
  """
  if isinstance(value, markupsafe.Markup) or not isinstance(value, str):
    return value
  return "".join(c for c in value
                 if c == "\n" or not unicodedata.category(c).startswith("C"))


def _breakable(handle: str) -> markupsafe.Markup:
  """Returns a handle that may break its line behind slashes and underscores."""
  text = markupsafe.escape(_visible(handle))
  for mark in "/_":
    text = text.replace(mark, markupsafe.Markup(f"{mark}<wbr>"))
  return text


def _source(content: str) -> str:
  """Returns what names a style or script in a content security policy."""
  digest = hashlib.sha256(content.encode()).digest()
  return f"'sha256-{base64.b64encode(digest).decode()}'"


def _verdict(report: Mapping[str, Any]) -> str:
  """Returns why the report has its status, in a sentence."""
  checks = report["checks"]
  failed, not_run = ([c for c in checks if c["status"] == status]
                     for status in (report_lib.FAILED, report_lib.NOT_RUN))
  if failed:
    return (f"{len(failed)} of {len(checks)} checks failed: "
            f"{_named(failed)}. It must not be published.")
  if not_run:
    return (f"Nothing failed, but {len(not_run)} of {len(checks)} checks could "
            f"not be run: {_named(not_run)}.")
  if report["status"] != report_lib.PASSED:
    return "Nothing failed, but not every group of checks was run."
  return f"All {len(checks)} checks passed."


def _named(checks: Sequence[Mapping[str, Any]]) -> str:
  return ", ".join(f"{c['group']}/{c['name']}" for c in checks)


def _against(report: Mapping[str, Any], manifest: Mapping[str, Any]
             ) -> str | None:
  """Returns how top-1 compares with what was reported on that very split."""
  reported = manifest["reported_accuracy"]
  dataset = report["dataset"]
  if not reported or (dataset["name"], dataset["split"]) != (
      manifest["dataset"]["name"], manifest["dataset"]["split"]):
    return None
  difference = report["metrics"]["top1"]["value"] - reported["top1"]
  return (f"{difference:+.2f} points against the reported "
          f"{wording.value(reported['top1'])} % (tolerance "
          f"{wording.value(reported['tolerance'])}; {reported['source']})")


def _groups(report: Mapping[str, Any]
            ) -> list[tuple[str, list[Mapping[str, Any]]]]:
  names = dict.fromkeys(c["group"] for c in report["checks"])
  return [(name, [c for c in report["checks"] if c["group"] == name])
          for name in names]


def _confused(figures: figures_lib.Figures, label: int
              ) -> list[figures_lib.Confusion]:
  """Returns what a class was most often taken for, three at most."""
  return [c for c in figures.confusions if c.label == label][:3]


def _mistakes(predictions: predictions_lib.Predictions,
              names: Sequence[str]) -> list[dict[str, Any]]:
  """Returns the wrong predictions of the highest probability."""
  wrong = np.flatnonzero(predictions.has_label & ~predictions.hits[:, 0])
  wrong = sorted(wrong.tolist(), key=lambda i: (
      -float(predictions.probabilities[i, 0]), predictions.file_names[i]))
  return [{
      "file_name": predictions.file_names[i],
      "labels": [names[c] for c in predictions.labels[i].tolist()
                 if c != predictions_lib.NO_LABEL],
      "top": [(names[c], 100 * p, hit) for c, p, hit in zip(
          predictions.top[i].tolist(), predictions.probabilities[i].tolist(),
          predictions.hits[i].tolist())],
  } for i in wrong[:_NUM_MISTAKES]]


def _command(report: Mapping[str, Any]) -> str:
  """Returns what to type; PATH, since the page travels with the module."""
  dataset = report["dataset"]
  chosen = shlex.join([f"--dataset={dataset['name']}",
                       f"--split={dataset['split']}"])
  return ("./bazelw run //checks:check -- "
          f"--export_dir=PATH/{report['handle']} {chosen}")
