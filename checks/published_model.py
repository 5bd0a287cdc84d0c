"""Which published model is to be verified, and where what belongs to it lies."""

import dataclasses

from checks import side_files
from checks import verification
from hub_export import errors
from hub_export import export_dirs
from hub_export import program

_ARCHIVE_SUFFIX = ".tar.gz"


def subject(export_dir: str | None, archive: str | None, beside: str | None
            ) -> verification.Subject:
  """Returns what the flags of these names say is to be verified.

  Raises:
    UsageError: unless just one of `export_dir` and `archive` is given, or if
      an address is none that can be read.
    HubExportError: if nothing is there, or names do not end in a version.
  """
  if bool(export_dir) == bool(archive):
    raise errors.UsageError(
        "expected one of --export_dir and --archive, and not both")
  place = (export_dir or archive).removesuffix("/")
  is_remote = archive is not None and "://" in archive
  if export_dir and "://" in export_dir:
    raise errors.UsageError(
        "--export_dir is an address; expected a directory. For an address "
        "give --archive.")
  own_side, own_name = side_files.at(place)
  path = None if is_remote else own_side.path / own_name
  if path and not (path.is_dir() if export_dir else path.is_file()):
    raise errors.HubExportError(
        f"{program.shown_path(path)} is no "
        f"{'directory' if export_dir else 'file'}; expected a published model. "
        "Check the path.")
  side, name = side_files.at(beside) if beside else (own_side, own_name)
  if export_dir and not beside:
    side = verification.nested(path, own_side) or side
  version = name.removesuffix(_ARCHIVE_SUFFIX)
  if not _is_version(version):
    raise errors.HubExportError(
        f"{side.shown(name)} does not end in a version, such as 1 or 1.tar.gz, "
        "after which the files beside it are named. Say with --beside where "
        "they lie.")
  if is_remote and side is not own_side:
    # What is downloaded lies beside the rest; elsewhere, it is a file first.
    raise errors.UsageError(
        "--beside was given with an address for --archive; expected one of "
        "them, as the files lie beside the archive there")
  found = verification.Subject(
      own_side.shown(own_name), version, side, path if export_dir else None,
      path if archive else None)
  # The parents of Kaggle's form are Kaggle's, and no handle.
  return found if found.is_nested else dataclasses.replace(
      found, claimed=_claimed(side, version))


def _claimed(side: verification.Side, version: str) -> str | None:
  """Returns the handle that a place looks like; None if like none."""
  parts = side.parts()[-2:]
  try:
    return str(export_dirs.parse_handle("/".join([*parts, version])))
  except errors.HubExportError:
    return None


def _is_version(text: str) -> bool:
  return text.isascii() and text.isdigit() and text[0] != "0"
