"""Cards in the forms of the Hugging Face Hub and of Kaggle Models.

Both say what the card for TensorFlow Hub says, in the words of the same
templates. Hugging Face reads the YAML above it: licence, task, and the
measured accuracy as a model-index. Kaggle's has the headings of the model card
that Kaggle asks its publishers to fill in.

Everything is pure; nothing here needs a network or a token.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hub_export import errors
from hub_export import export_dirs
from model_cards import front_matter
from model_cards import render
from model_cards import usage

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_KAGGLE_HANDLE = re.compile(r"[\w.-]+/[\w.-]+/\w+/[\w.-]+(/\d+)?", re.ASCII)


def hugging_face(manifest: Mapping[str, Any],
                 report: Mapping[str, Any] | None,
                 links: Sequence[str] = (),
                 repo: str = "OWNER/REPO") -> str:
  """Returns the README.md of a model repository: YAML, then Markdown.

  Args:
    manifest: The module's manifest, schema version 1.
    report: The report of its checks; None if there is none, and then there is
      no model-index and no measured number.
    links: Relative links to the pictures and the page of the evaluation, from
      where the card will lie; each ends as export_dirs.evaluation_links does.
    repo: Where it is published, for the snippets.

  Raises:
    HubExportError: if a field is missing, the report is that of another
      module, or `repo` is no name of a repository.
  """
  _check(repo, _REPO, "owner/repo")
  with render.missing_fields("manifest or report"):
    handle = export_dirs.parse_handle(manifest["handle"])
    body = render.render("hugging_face.md.j2", manifest, report, links,
                         usage.hugging_face(handle, repo))
    return front_matter.text(front_matter.metadata(manifest, report)) + body


def kaggle(manifest: Mapping[str, Any], report: Mapping[str, Any] | None,
           links: Sequence[str] = (),
           model: str = "OWNER/MODEL/tensorFlow2/VARIATION") -> str:
  """Returns the card of a variation on Kaggle Models, as Markdown.

  Args:
    manifest: The module's manifest, schema version 1.
    report: The report of its checks, None if there is none.
    links: As for `hugging_face`; Kaggle shows no picture by a relative link.
    model: Kaggle's handle, for the snippets; its version may follow.

  Raises:
    HubExportError: if a field is missing, the report is that of another
      module, or `model` is no handle of Kaggle's.
  """
  _check(model, _KAGGLE_HANDLE, "owner/model/framework/variation")
  with render.missing_fields("manifest or report"):
    handle = export_dirs.parse_handle(manifest["handle"])
    return render.render("kaggle.md.j2", manifest, report, links,
                         usage.kaggle(handle, model))


def _check(name: str, pattern: re.Pattern[str], form: str) -> None:
  if not pattern.fullmatch(name):
    raise errors.HubExportError(
        f"{name!r} is no name to publish a model under; expected {form}, in "
        "letters, digits, '-', '_' and '.'")
