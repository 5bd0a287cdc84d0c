"""A small published module, signed, with all that lies beside it, for tests."""

import pathlib
import shutil

from hub_export import archive
from hub_export import signing_keys
from hub_export import trust
from tests import tiny_export


def documents(export_dir: pathlib.Path) -> list[tuple[str, bytes]]:
  """Returns card, report, pictures and page of an export, as published."""
  parent = export_dir.parent
  paths = [tiny_export.card_path(export_dir),
           tiny_export.report_path(export_dir),
           *sorted(parent.glob(f"{export_dir.name}.evaluations/*"))]
  return [(path.relative_to(parent).as_posix(), path.read_bytes())
          for path in paths]


def publish(root: pathlib.Path, private_key: pathlib.Path | None,
            certificates: tuple[pathlib.Path, list[pathlib.Path]] | None = None,
            handle: str = tiny_export.HANDLE) -> pathlib.Path:
  """Writes a published module; returns its directory.

  Args:
    root: Of all that is published.
    private_key: Signs it; nobody if None.
    certificates: The signer's, and those above it.
    handle: publisher/name/version.
  """
  export_dir = tiny_export.make(root / "exports", handle)
  tiny_export.write_attachments(export_dir)
  signer = private_key and signing_keys.load_signer(
      private_key, *(certificates or ()))
  made = trust.trusted_documents(export_dir, documents(export_dir), signer)
  module_dir = root / "published" / handle
  module_dir.parent.mkdir(parents=True, exist_ok=True)
  shutil.copytree(export_dir, module_dir)
  archive.write(module_dir.with_name(f"{module_dir.name}.tar.gz"), export_dir)
  for name, content in (*documents(export_dir), *made):
    path = module_dir.parent / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
  return module_dir
