"""Tiny exports as subjects of checks, for the tests of the checks."""

import pathlib

from checks import subject as subject_lib
from hub_export import export_dirs


def of(export_dir: pathlib.Path, data_dir: pathlib.Path | None = None
       ) -> subject_lib.Subject:
  """Returns the subject that the suite would make of an export."""
  return subject_lib.Subject(
      export_dir, export_dirs.read_manifest(export_dir), "optical_digits",
      "test", data_dir, 64)
