"""What may be published: an export with a passing report of its very bytes.

Nothing here imports TensorFlow.
"""

import dataclasses
import json
import pathlib
import shlex
from typing import Any

from hub_export import errors
from hub_export import export_dirs
from hub_export import program


@dataclasses.dataclass(frozen=True)
class Release:
  """One module's version, ready to be published."""
  handle: export_dirs.Handle
  export_dir: pathlib.Path
  export_sha256: str  # As export_dirs.digest makes it.
  card: bytes         # Markdown.
  report: bytes       # JSON.


def read(export_dir: pathlib.Path) -> Release:
  """Returns the release that lies in `export_dir`, with card and report.

  Raises:
    ChecksError: if the report is missing, has not passed, or is not of these
      bytes or this handle, or if the card is missing or of another handle.
    HubExportError: if there is no export, or a file cannot be read.
  """
  manifest = export_dirs.read_manifest(export_dir)
  handle = export_dirs.parse_handle(manifest["handle"])
  report_bytes = _read(export_dirs.report_path(export_dir), "report",
                       export_dir)
  export_sha256 = export_dirs.digest(export_dir)
  _check_report(_parse_report(report_bytes, export_dir), handle,
                export_sha256, export_dir)
  card = _read(export_dirs.card_path(export_dir), "card", export_dir)
  _check_card(card, handle, export_dir)
  return Release(handle, export_dir, export_sha256, card, report_bytes)


def _parse_report(content: bytes, export_dir: pathlib.Path) -> dict[str, Any]:
  """Returns the report, with the fields that `_check_report` reads."""
  try:
    report = json.loads(content)
    if report["schema_version"] != 1:
      raise ValueError(f"schema_version {report['schema_version']}, not 1")
    for field in ("handle", "export_sha256", "status"):
      if not isinstance(report[field], str):
        raise ValueError(f"{field} is not a text")
    for check in report["checks"]:
      if not all(isinstance(check[field], str)
                 for field in ("group", "name", "status", "message")):
        raise ValueError("a check without group, name, status or message")
    return report
  except (ValueError, KeyError, TypeError) as e:
    raise errors.ChecksError(
        f"{export_dirs.report_path(export_dir)} cannot be read ({e!r}); "
        f"expected the JSON report of a check. {_check_it(export_dir)}") from e


def _check_report(report: dict[str, Any], handle: export_dirs.Handle,
                  export_sha256: str, export_dir: pathlib.Path) -> None:
  """Raises ChecksError unless `report` lets these very bytes be published."""
  path = export_dirs.report_path(export_dir)
  if report["handle"] != str(handle):
    raise errors.ChecksError(
        f"{path} is the report of {report['handle']}; expected one of "
        f"{handle}. {_check_it(export_dir)}")
  if report["export_sha256"] != export_sha256:
    raise errors.ChecksError(
        f"{export_dir} has changed since it was checked: its sha256 is "
        f"{export_sha256}, that of the report is {report['export_sha256']}; "
        f"expected the same bytes. {_check_it(export_dir)}")
  problems = [
      f"{c['group']}/{c['name']} {_STATUS.get(c['status'], c['status'])}: "
      f"{c['message']}" for c in report["checks"] if c["status"] != "passed"]
  if not report["checks"]:
    problems = ["no check was made"]
  elif report["status"] != "passed" and not problems:
    problems = [f"the report says {report['status']!r}"]
  if problems:
    raise errors.ChecksError(errors.join_problems(
        f"{handle} has not passed its checks", problems,
        f"Put that right. {_check_it(export_dir)}"))


_STATUS = {"failed": "failed", "not_run": "was not run"}


def _check_card(card: bytes, handle: export_dirs.Handle,
                export_dir: pathlib.Path) -> None:
  """Raises ChecksError unless the card's first line names `handle`."""
  first = card.decode("utf-8", "replace").partition("\n")[0].strip()
  expected = f"# Module {handle}"
  if first != expected:
    raise errors.ChecksError(
        f"{export_dirs.card_path(export_dir)} begins with {first!r}; expected "
        f"{expected!r}. {_check_it(export_dir)}")


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
