"""Where a module comes from, as an in-toto statement in SLSA's form.

    <version>.intoto.json   in-toto Statement v1, predicate SLSA provenance v1

Its subjects are every file of the module and the archive. It names what they
were made of, each by hash: the checkpoint's files, the code, the lock of its
packages. Formats: https://github.com/in-toto/attestation/tree/main/spec/v1 and
https://slsa.dev/spec/v1.0/provenance.

What code made an export is recorded beside it as it is made (`record`), not in
it: the same content is the same version, whatever commit made it.
"""

import functools
import hashlib
import json
import os
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

import hub_export
from hub_export import errors
from hub_export import export_dirs

SUFFIX = ".intoto.json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
_BUILD_TYPE = "urn:regnety-hub:export:v1"
_BUILDER = "urn:regnety-hub:builder"
_RECORD_SUFFIX = ".build.json"
_EXPORT_SHA256 = "export_sha256"  # In a record: of which bytes it is.
_CODE = "code"
_LOCK = "tools/python/requirements.txt"
_SOURCES = ("hub_export", "checks", "model_cards")


def record(export_dir: pathlib.Path) -> None:
  """Writes down beside an export what code made it.

  What is noted of these very bytes already is kept: whoever finds that an
  export is there, and would make it again as it is, may record as well.

  Raises:
    WriteError: if it cannot be written.
    HubExportError: if the export cannot be read.
  """
  path = _record_path(export_dir)
  made = {_EXPORT_SHA256: export_dirs.digest(export_dir), **_code()}
  try:
    found = json.loads(path.read_text("utf-8"))[_EXPORT_SHA256]
  except (OSError, ValueError, KeyError, TypeError):
    found = None
  if found != made[_EXPORT_SHA256]:
    export_dirs.write_file(path, json.dumps(made, indent=2) + "\n")


def statement(export_dir: pathlib.Path, files: Mapping[str, str],
              archive_sha256: str) -> bytes:
  """Returns the statement on an export, JSON.

  It is the same for the same export, wherever and whenever it is made, if the
  code was noted beside it; otherwise it names the code that runs now.

  Args:
    export_dir: The export.
    files: Relative path to SHA-256 of all its files.
    archive_sha256: Of its .tar.gz.

  Raises:
    HubExportError: if the manifest or the record beside it cannot be read, or
      if that is of other bytes.
  """
  manifest = export_dirs.read_manifest(export_dir)
  path = _record_path(export_dir)
  try:
    code, noted = json.loads(path.read_text("utf-8")), "export"
  except FileNotFoundError:  # Exported before there were records.
    code, noted = _code(), "publish"
  except (OSError, ValueError) as e:
    raise errors.HubExportError(
        f"{path} cannot be read ({e}); expected what the export program wrote. "
        "Remove it and export again.") from e
  try:
    digest = export_dirs.digest(export_dir)
    if noted == "export" and code[_EXPORT_SHA256] != digest:
      raise errors.HubExportError(
          f"{path} is of an export with sha256 {code[_EXPORT_SHA256]}; expected "
          f"{digest}, that of {export_dir}. Export again.")
    predicate = _predicate(manifest, code, noted)
  except (KeyError, TypeError) as e:
    raise errors.HubExportError(
        f"the manifest of {export_dir}, or {path}, does not say where the "
        f"export comes from ({type(e).__name__}: {e}); expected checkpoint and "
        f"code. Remove {path.name}, if it is there, "
        "and export again.") from e
  content = {
      "_type": STATEMENT_TYPE,
      "subject": [{"name": name, "digest": {"sha256": sha256}}
                  for name, sha256 in sorted(_subjects(
                      export_dir.name, files, archive_sha256).items())],
      "predicateType": PREDICATE_TYPE,
      "predicate": predicate,
  }
  return (json.dumps(content, indent=2) + "\n").encode()


def problems(content: bytes, version: str, files: Mapping[str, str],
             archive_sha256: str, manifest: Mapping[str, Any]) -> list[str]:
  """Returns what a statement says that is not so of a module, a line each.

  Args:
    content: The statement.
    version: The name of the module's directory.
    files: Relative path to SHA-256 of all its files.
    archive_sha256: Of its .tar.gz.
    manifest: Its manifest.
  """
  try:
    found = json.loads(content)
    for key, value in (("_type", STATEMENT_TYPE),
                       ("predicateType", PREDICATE_TYPE)):
      if found[key] != value:
        return [f"{key} is {found[key]!r}; expected {value!r}"]
    subjects = {s["name"]: s["digest"]["sha256"] for s in found["subject"]}
    build = found["predicate"]["buildDefinition"]
    handle = build["externalParameters"]["handle"]
    dependencies = {d["name"]: d["digest"]
                    for d in build["resolvedDependencies"]}
    messages = []
    expected = _subjects(version, files, archive_sha256)
    messages += [
        f"names {name} with another hash or not at all, or it is not there"
        for name in sorted({*expected, *subjects})
        if expected.get(name) != subjects.get(name)]
    if handle != manifest["handle"]:
      messages.append(f"is on {handle}; expected {manifest['handle']}")
    messages += [
        f"does not name {d['name']} of the checkpoint with its hash"
        for d in _checkpoint_files(manifest["checkpoint"])
        if dependencies.get(d["name"]) != d["digest"]]
    messages += [f"names no sha256 of {name}" for name in (_CODE, _LOCK)
                 if not (dependencies.get(name) or {}).get("sha256")]
    return messages
  except (ValueError, KeyError, TypeError, AttributeError,
          RecursionError) as e:
    return [f"is no statement of where a module comes from "
            f"({type(e).__name__}: {e})"]


def summary(content: bytes) -> str:
  """Returns what a sound statement says, in a line for people."""
  build = json.loads(content)["predicate"]["buildDefinition"]
  found = {d["name"]: d for d in build["resolvedDependencies"]}
  code = found[_CODE]["digest"]
  is_modified = found[_CODE].get("annotations", {}).get("is_modified")
  named = (f"{code['gitCommit']:.12}" if code.get("gitCommit")
           else f"of no commit (sha256 {code['sha256']:.12})")
  return (f"checkpoint {build['externalParameters']['checkpoint']}, code {named}"
          f"{' with changes' if is_modified else ''}, lock "
          f"{found[_LOCK]['digest']['sha256']:.12}")


def _predicate(manifest: Mapping[str, Any], code: Mapping[str, Any],
               noted: str) -> dict[str, Any]:
  """Returns SLSA's provenance of an export.

  Args:
    manifest: The export's.
    code: As `_code` returns it.
    noted: In which step it was noted down: "export" or "publish".
  """
  checkpoint = manifest["checkpoint"]
  return {
      "buildDefinition": {
          "buildType": _BUILD_TYPE,
          "externalParameters": {
              "handle": manifest["handle"],
              "checkpoint": checkpoint["location"],
              **{key: manifest[key] for key in ("variant", "kind", "form")},
          },
          "internalParameters": {
              "software": manifest["software"],
              "weights_sha256": manifest["weights"]["sha256"],
              "code_noted_at": noted,
          },
          "resolvedDependencies": [
              *_checkpoint_files(checkpoint), *_code_descriptors(code)],
      },
      "runDetails": {"builder": {
          "id": _BUILDER, "version": {"regnety_hub": code["version"]}}},
  }


def _subjects(version: str, files: Mapping[str, str], archive_sha256: str
              ) -> dict[str, str]:
  return {f"{version}.tar.gz": archive_sha256,
          **{f"{version}/{name}": sha256 for name, sha256 in files.items()}}


def _checkpoint_files(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns a resource descriptor for each file of a manifest's checkpoint."""
  return [{"name": f"checkpoint/{f['name']}", "digest": {"sha256": f["sha256"]},
           "annotations": {"source": checkpoint["source"],
                           "format": checkpoint["format"]}}
          for f in checkpoint["files"]]


def _code_descriptors(code: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns the resource descriptors of code and lock."""
  digest = {"sha256": code["source_sha256"]}
  if code["revision"]:
    digest["gitCommit"] = code["revision"]
  return [
      {"name": _CODE, "digest": digest, "annotations": {
          "is_modified": code["is_modified"],
          "sha256_is_of": "what sha256sum prints for the files of "
                          f"{', '.join(_SOURCES)}, sorted by name"}},
      {"name": _LOCK, "digest": {"sha256": code["lock_sha256"]}}]


def _record_path(export_dir: pathlib.Path) -> pathlib.Path:
  return export_dir.with_name(export_dir.name + _RECORD_SUFFIX)


@functools.cache
def _code() -> dict[str, Any]:
  """Returns what code this is.

  "revision" is the git commit, "is_modified" whether files differ from it; both
  are None where the code is not in a git repository of its own. "source_sha256"
  is over all its files; "lock_sha256" is that of the packages' lock.
  """
  # Bazel links each source into a directory of its own: follow the link.
  root = pathlib.Path(__file__).resolve().parents[1]
  if not root.joinpath(_LOCK).is_file():
    raise errors.HubExportError(
        f"{root / _LOCK} is missing; expected the lock of the packages beside "
        "the code that is run. Run it from a whole checkout.")
  lines = []
  for directory in _SOURCES:
    for path in root.joinpath(directory).rglob("*"):
      if path.is_file() and "__pycache__" not in path.parts:
        lines.append(f"{export_dirs.file_sha256(path)}  "
                     f"{path.relative_to(root).as_posix()}\n")
  revision = _git(root, "rev-parse", "--show-toplevel", "HEAD")
  top, _, commit = (revision or "").partition("\n")
  is_own = bool(commit) and pathlib.Path(top).resolve() == root
  return {
      "version": hub_export.__version__,
      "revision": commit if is_own else None,
      "is_modified": bool(_git(root, "status", "--porcelain", "--", *_SOURCES,
                               _LOCK)) if is_own else None,
      "source_sha256": hashlib.sha256(
          "".join(sorted(lines, key=lambda l: l[66:])).encode()).hexdigest(),
      "lock_sha256": export_dirs.file_sha256(root / _LOCK),
  }


def _git(root: pathlib.Path, *arguments: str) -> str | None:
  """Returns what git says; None where there is no git, or no repository."""
  # A hook's variables would name the repository that it runs for.
  environment = {k: v for k, v in os.environ.items()
                 if not k.startswith("GIT_")}
  try:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], env=environment, text=True,
        capture_output=True, check=True, timeout=60).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None
