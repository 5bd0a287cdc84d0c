"""What may be published: an export with a passing report of its very bytes.

Nothing here imports TensorFlow.
"""

import dataclasses
import pathlib
import shlex
from typing import Any

from checks import report as report_lib
from hub_export import errors
from hub_export import export_dirs
from hub_export import program
from model_cards import validate


@dataclasses.dataclass(frozen=True)
class Release:
  """One module's version, ready to be published."""
  handle: export_dirs.Handle
  export_dir: pathlib.Path
  export_sha256: str  # As export_dirs.digest makes it.
  card: bytes         # Markdown.
  report: bytes       # JSON.
  # What the card links to, by its path relative to the card's directory.
  attachments: tuple[tuple[str, bytes], ...] = ()


def read(export_dir: pathlib.Path) -> Release:
  """Returns the release that lies in `export_dir`, with card and report.

  Raises:
    ChecksError: if the report is missing, has not passed, or is not of these
      bytes or this handle, or if the card is missing or says anything else
      than manifest and report do.
    HubExportError: if there is no export, or a file cannot be read.
  """
  manifest = export_dirs.read_manifest(export_dir)
  handle = export_dirs.parse_handle(manifest["handle"])
  report_bytes = _read(export_dirs.report_path(export_dir), "report",
                       export_dir)
  try:
    report = report_lib.read(export_dirs.report_path(export_dir))
  except errors.ChecksError as e:
    raise errors.ChecksError(f"{e} {_check_it(export_dir)}") from e
  export_sha256 = export_dirs.digest(export_dir)
  _check_report(report, handle, export_sha256, export_dir)
  card = _read(export_dirs.card_path(export_dir), "card", export_dir)
  _check_card(card, manifest, report, export_dir)
  return Release(handle, export_dir, export_sha256, card, report_bytes,
                 _attachments(card.decode("utf-8"), export_dir))


def _check_report(report: report_lib.Report, handle: export_dirs.Handle,
                  export_sha256: str, export_dir: pathlib.Path) -> None:
  """Raises ChecksError unless `report` lets these very bytes be published."""
  path = export_dirs.report_path(export_dir)
  if report.handle != str(handle):
    raise errors.ChecksError(
        f"{path} is the report of {report.handle}; expected one of "
        f"{handle}. {_check_it(export_dir)}")
  if report.export_sha256 != export_sha256:
    raise errors.ChecksError(
        f"{export_dir} has changed since it was checked: its sha256 is "
        f"{export_sha256}, that of the report is {report.export_sha256}; "
        f"expected the same bytes. {_check_it(export_dir)}")
  if report.status == report_lib.PASSED:
    return
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
  expected = f"# Module {manifest['handle']}"
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


def _attachments(card: str, export_dir: pathlib.Path
                 ) -> tuple[tuple[str, bytes], ...]:
  """Returns the files that a sound card links to."""
  paths = {export_dirs.linked_path(export_dir, link)
           for link in validate.file_links(card)}
  parent = export_dirs.card_path(export_dir).parent
  return tuple(
      (path.relative_to(parent).as_posix(), _read(path, "file", export_dir))
      for path in sorted(paths))


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
  return (f"Check it: {program.command('//checks:check')} "
          f"--export_dir={shlex.quote(str(export_dir))}")
