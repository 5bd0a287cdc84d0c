"""Exports of a few plain files, with report and card, for tests.

No TensorFlow, and no code of the product: what is expected of an export is
written here by hand.
"""

import hashlib
import json
import pathlib
from typing import Any

HANDLE = "local/tiny_classification/1"
FILES = {
    "saved_model.pb": b"graph" * 40,
    "fingerprint.pb": b"\x01\x02",
    "assets/labels.txt": b"cat\ndog\n",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": bytes(range(256)) * 64,
}


def make(output_dir: pathlib.Path, handle: str = HANDLE,
         files: dict[str, bytes] | None = None) -> pathlib.Path:
  """Writes an export with a passing report and a card; returns its directory.

  Args:
    output_dir: Where exports lie.
    handle: publisher/name/version.
    files: Relative path to bytes, FILES if not given; the manifest is added.
  """
  export_dir = output_dir / handle
  for name, content in (FILES if files is None else files).items():
    path = export_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  manifest = export_dir / "assets.extra" / "manifest.json"
  manifest.parent.mkdir(parents=True, exist_ok=True)
  manifest.write_text(json.dumps({"schema_version": 1, "handle": handle}))
  write_report(export_dir)
  card_path(export_dir).write_text(
      f"# Module {handle}\n\nA tiny module.\n", "utf-8")
  return export_dir


def write_report(export_dir: pathlib.Path, **changes: Any) -> None:
  """Writes the report of a passing check, with some fields changed."""
  handle = json.loads(
      (export_dir / "assets.extra" / "manifest.json").read_text())["handle"]
  report = {
      "schema_version": 1, "handle": handle,
      "export_sha256": digest(export_dir),
      "status": "passed",
      "checks": [check("structure", "files", "passed", "all there")],
  }
  report_path(export_dir).write_text(json.dumps(report | changes))


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
