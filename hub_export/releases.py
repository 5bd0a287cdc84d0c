"""What may be published: the gate that every export goes through.

A release is an export with a report that passed, is complete, of these very
bytes and of the data set that the card names, and a card that says what
manifest and report do. Where strangers load from, `check_public` asks for more:
no demo, and a licence that lets others pass the weights on.

Nothing here imports TensorFlow.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from checks import names
from checks import report as report_lib
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export.forms import extras
from model_cards import validate

# Licences that let others pass the weights on, changed in form, as SPDX names
# them in lower case. "custom" is none: nobody can tell what it says.
REDISTRIBUTABLE = (
    "afl-3.0", "apache-2.0", "artistic-2.0", "bsd-2-clause", "bsd-3-clause",
    "bsl-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cddl-1.0", "epl-2.0",
    "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.0", "lgpl-2.1", "lgpl-3.0", "mit",
    "mpl-2.0", "unlicense", "zlib")


@dataclasses.dataclass(frozen=True)
class Release:
  """One module's version, ready to be published."""
  handle: export_dirs.Handle
  export_dir: pathlib.Path
  export_sha256: str  # As export_dirs.digest makes it.
  manifest: Mapping[str, Any]
  # All that goes beside module and archive, by its path relative to the
  # card's directory; the card, which links to the others, comes last.
  documents: tuple[tuple[str, bytes], ...]
  # Whether it may take the place of one that somebody else signed.
  replaces_signature: bool = False

  def document(self, name: str) -> bytes:
    """Returns the content of one document; KeyError if there is none."""
    return dict(self.documents)[name]

  @property
  def card(self) -> bytes:
    """The card, in Markdown."""
    return self.document(export_dirs.card_path(self.export_dir).name)

  @property
  def report(self) -> bytes:
    """The report, in JSON."""
    return self.document(export_dirs.report_path(self.export_dir).name)


def with_documents(release: Release, more: Sequence[tuple[str, bytes]]
                   ) -> Release:
  """Returns `release` with more documents, such as a signature.

  Args:
    release: What `read` returned.
    more: Names relative to the card's directory, and contents. One that is
      there already is replaced.
  """
  documents = dict(release.documents) | dict(more)
  card = export_dirs.card_path(release.export_dir).name
  documents[card] = documents.pop(card)  # It stays last.
  return dataclasses.replace(release, documents=tuple(documents.items()))


def check_public(manifest: Mapping[str, Any], to: str) -> None:
  """Raises ChecksError unless strangers may get an export.

  Args:
    manifest: The export's.
    to: The remote place that it would go to, for the message.
  """
  if manifest["is_demo"]:
    raise errors.ChecksError(
        f"{manifest['handle']} is a demo, trained here on small images of "
        f"digits; {to} takes only models that are of use. Publish it to a "
        "directory, --to=published, or export a real checkpoint.")
  licence = manifest["licence"]
  if str(licence["id"]).lower() not in REDISTRIBUTABLE:
    raise errors.ChecksError(
        f"the licence of {manifest['handle']} is {licence['id']!r} "
        f"({licence['text']}); {to} takes only what others may pass on: one "
        f"of {', '.join(REDISTRIBUTABLE)}. If the weights are under one of "
        "them, export them again with --licence; otherwise publish to a "
        "directory of your own, --to=published.")


def check_archive(release: Release, archive_sha256: str) -> None:
  """Raises ChecksError if report and card tell of another archive.

  Args:
    release: What `read` returned.
    archive_sha256: Of the archive that goes with it, packed on this machine.
  """
  told = (json.loads(release.report).get("archive") or {}).get("sha256")
  if told != archive_sha256:
    raise errors.ChecksError(
        f"report and card of {release.handle} tell of "
        f"{f'an archive with sha256 {told}' if told else 'no archive'}, "
        f"packing it here gives {archive_sha256}; expected the same. Python's "
        "zlib may be another than where it was checked. "
        f"{_check_it(release.export_dir)}")


def gate(release: Release, is_remote: bool) -> list[str]:
  """Returns what a release that came this far has been held to, a line each."""
  report = json.loads(release.report)
  dataset = report["dataset"]
  lines = [
      f"report: all {len(report['checks'])} checks passed, of these very "
      f"bytes ({release.export_sha256[:12]}...)",
      f"data set: {dataset['name']}, {dataset['split']}, as the card says",
      "card: agrees with manifest and report"]
  if is_remote:
    lines += ["demo: no",
              f"licence: {release.manifest['licence']['id']}, may be passed on"]
  return lines


def read(export_dir: pathlib.Path) -> Release:
  """Returns the release that lies in `export_dir`, with card and report.

  Raises:
    ChecksError: if the export lies where another should, the report is missing, has not passed, or is not of these
      bytes, this handle or the manifest's data set, or if the card is missing
      or says anything else than manifest and report do.
    HubExportError: if there is no export, or a file cannot be read.
  """
  manifest = export_dirs.read_manifest(export_dir)
  handle = export_dirs.parse_handle(manifest["handle"])
  # Or "<name>_serving_float32" could be published as what was never checked.
  place = "/".join(pathlib.Path(os.path.abspath(export_dir)).parts[-3:])
  if place != str(handle):
    raise errors.ChecksError(
        f"{export_dir} holds {handle}; expected it to lie in a directory of "
        "that name. Move it back there, or export it again.")
  report_bytes = _read(export_dirs.report_path(export_dir), "report",
                       export_dir)
  try:
    report = report_lib.read(export_dirs.report_path(export_dir))
  except errors.ChecksError as e:
    raise errors.ChecksError(f"{e} {_check_it(export_dir)}") from e
  export_sha256 = export_dirs.digest(export_dir)
  _check_report(report, manifest, export_sha256, export_dir)
  _check_dataset(report, manifest, export_dir)
  card = _read(export_dirs.card_path(export_dir), "card", export_dir)
  _check_card(card, manifest, report, export_dir)
  return Release(handle, export_dir, export_sha256, manifest, (
      *_attachments(card.decode("utf-8"), report, export_dir),
      (export_dirs.report_path(export_dir).name, report_bytes),
      (export_dirs.card_path(export_dir).name, card)))


def _check_report(report: report_lib.Report, manifest: Mapping[str, Any],
                  export_sha256: str, export_dir: pathlib.Path) -> None:
  """Raises ChecksError unless `report` lets these very bytes be published."""
  path = export_dirs.report_path(export_dir)
  handle = manifest["handle"]
  if report.handle != handle:
    raise errors.ChecksError(
        f"{path} is the report of {report.handle}; expected one of "
        f"{handle}. {_check_it(export_dir)}")
  if report.export_sha256 != export_sha256:
    raise errors.ChecksError(
        f"{export_dir} has changed since it was checked: its sha256 is "
        f"{export_sha256}, that of the report is {report.export_sha256}; "
        f"expected the same bytes. {_check_it(export_dir)}")
  if report.status == report_lib.PASSED:
    problems = [f"{name}: this check was not made" for name in names.missing(
        manifest.get("form"), manifest.get("kind"),
        (f"{c.group}/{c.name}" for c in report.checks))]
    if not problems:
      return
  else:
    problems = [
        f"{c.group}/{c.name} {_STATUS[c.status]}: {c.message}"
        for c in report.checks if c.status != report_lib.PASSED]
    run = {c.group for c in report.checks}
    problems += [f"{group}: no check was made" for group in report_lib.GROUPS
                 if group not in run]
  raise errors.ChecksError(errors.join_problems(
      f"{handle} has not passed its checks", problems,
      f"Put that right. {_check_it(export_dir)}"))


_STATUS = {report_lib.FAILED: "failed", report_lib.NOT_RUN: "was not run"}


def _check_dataset(report: report_lib.Report, manifest: Mapping[str, Any],
                   export_dir: pathlib.Path) -> None:
  """Raises ChecksError unless the manifest's data set was evaluated.

  It is the one that the card names and that reported figures are of.
  """
  path = export_dirs.report_path(export_dir)
  found = report.dataset or {}
  try:
    expected = manifest["dataset"]["name"], manifest["dataset"]["split"]
  except (KeyError, TypeError) as e:
    raise errors.HubExportError(
        f"{export_dir / export_dirs.MANIFEST} lacks {e}; expected the data "
        "set of the checkpoint. Export it again.") from e
  if (found.get("name"), found.get("split")) != expected:
    raise errors.ChecksError(
        f"{path} is of the data set {found.get('name')}, split "
        f"{found.get('split')}; expected {expected[0]}, split {expected[1]}, "
        f"which the model is for. {_check_it(export_dir)}")


def _check_card(card: bytes, manifest: dict[str, Any],
                report: report_lib.Report, export_dir: pathlib.Path) -> None:
  """Raises ChecksError unless the card says what manifest and report do."""
  path = export_dirs.card_path(export_dir)
  try:
    text = card.decode("utf-8")
  except UnicodeDecodeError as e:
    raise errors.ChecksError(
        f"{path} is not UTF-8 ({e}); expected a card in Markdown. "
        f"{_check_it(export_dir)}") from e
  first = text.partition("\n")[0].strip()
  expected = f"# {forms.page(manifest)} {manifest['handle']}"
  if first != expected:
    raise errors.ChecksError(
        f"{path} begins with {first!r}; expected {expected!r}. "
        f"{_check_it(export_dir)}")
  problems = validate.problems(text, manifest, report.to_dict(), path)
  if problems:
    raise errors.ChecksError(errors.join_problems(
        f"{path} does not agree with manifest and report", problems,
        "Put that right, or have the card made anew. "
        f"{_check_it(export_dir)}"))


def _attachments(card: str, report: report_lib.Report,
                 export_dir: pathlib.Path) -> tuple[tuple[str, bytes], ...]:
  """Returns the files that a sound card links to.

  Raises:
    ChecksError: if one is missing, or is not as the checks wrote it.
  """
  paths = {export_dirs.linked_path(export_dir, link)
           for link in validate.file_links(card)}
  parent = export_dirs.card_path(export_dir).parent
  found = tuple(
      (path.relative_to(parent).as_posix(), _read(path, "file", export_dir))
      for path in sorted(paths))
  expected = report.attachments or {}
  changed = [name for name, content in found
             if hashlib.sha256(content).hexdigest() != expected.get(name)]
  if changed:
    raise errors.ChecksError(
        f"{', '.join(changed)} beside {export_dir} is not what the report says "
        "that the checks wrote; expected pictures and page of that very check. "
        f"{_check_it(export_dir)}")
  return found


def _read(path: pathlib.Path, what: str, export_dir: pathlib.Path) -> bytes:
  try:
    return path.read_bytes()
  except FileNotFoundError:
    raise errors.ChecksError(
        f"{export_dir} has no {what}; expected {path}. "
        f"{_check_it(export_dir)}") from None
  except OSError as e:
    raise errors.HubExportError(
        f"{path} cannot be read ({e.strerror}); expected the {what} of "
        f"{export_dir}. Make it readable.") from e


def _check_it(export_dir: pathlib.Path) -> str:
  form = str(export_dirs.read_manifest(export_dir).get("form"))
  return (f"Check it: {extras.command(form, '//checks:check')} "
          f"--export_dir={shlex.quote(str(export_dir))}")
