"""The release program with steps that take no time, for release_test.

Exports are tiny ones, two modules of each checkpoint; they pass their checks
unless the environment's FAKE_FAILS names the variant. What is published is
published for real. Each step leaves a line in the file FAKE_LOG.
"""

import json
import os
import pathlib

from hub_export import destinations
from hub_export import errors
from hub_export import export_dirs
from hub_export import program
from hub_export import release
from hub_export import releases
from tests import tiny_export


def run(module: str, *arguments: str) -> str:
  """Does what the module would do, as release.run."""
  flags = dict(a.removeprefix("--").split("=", 1) for a in arguments)
  with open(os.environ["FAKE_LOG"], "a", encoding="utf-8") as log:
    log.write(f"{module} {' '.join(arguments)}\n")
  if module == "hub_export.export":
    return "".join(f"  SavedModel  {_export(flags, kind)}/\n"
                   for kind in ("classification", "feature_extractor"))
  export_dir = pathlib.Path(flags["export_dir"])
  if module == "checks.check":
    if export_dirs.read_manifest(export_dir)["variant"] in (
        os.environ.get("FAKE_FAILS", "").split(",")):
      raise errors.HubExportError("checks.check ended with exit status 1")
    tiny_export.write_report(export_dir)
    tiny_export.write_card(export_dir)
  else:
    destinations.choose(flags["to"]).put(releases.read(export_dir))
  return ""


def _export(flags: dict[str, str], kind: str) -> pathlib.Path:
  """Writes an export that is not there yet, whole or not at all."""
  stem = flags["variant"].replace("_", "").replace(".", "p")
  name = f"{stem}_{kind}"
  output_dir = program.user_path(flags.get("output_dir", "exports"))
  export_dir = output_dir / "local" / name / "1"
  if not export_dir.exists():
    made = tiny_export.make(output_dir / f".tmp-{os.getpid()}",
                            f"local/{name}/1")
    if flags.get("checkpoint") == "demo":
      manifest = made / export_dirs.MANIFEST
      manifest.write_text(json.dumps(
          json.loads(manifest.read_text()) | {"is_demo": True}))
    export_dirs.report_path(made).unlink()
    export_dir.parent.mkdir(parents=True, exist_ok=True)
    made.rename(export_dir)
  return export_dir


if __name__ == "__main__":
  release.run = run
  release._PROGRAM = "tests.fake_release"
  program.run(release.main)
