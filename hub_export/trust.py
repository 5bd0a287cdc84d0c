"""What lets people trust a published module: sums, provenance, signatures.

    <version>.intoto.json     what it was made of (provenance.py)
    <version>.SHA256SUMS      of the module, its archive and all beside it
    <version>.sig             signature of the module
    <version>.SHA256SUMS.sig  signature of the sums, and so of all they name

The last two only where somebody signs. All are the same bytes each time.
"""

import hashlib
import pathlib
import tempfile
from collections.abc import Sequence

from hub_export import archive
from hub_export import export_dirs
from hub_export import provenance
from hub_export import signatures
from hub_export import signing_keys
from hub_export import sums

SIGNATURE_SUFFIX = ".sig"


def trusted_documents(export_dir: pathlib.Path,
                      documents: Sequence[tuple[str, bytes]],
                      signer: signing_keys.Signer | None = None,
                      archive_sha256: str | None = None
                      ) -> tuple[tuple[str, bytes], ...]:
  """Returns the files that make a module's publication verifiable.

  Args:
    export_dir: The module.
    documents: What is published beside module and archive, name and content:
      card, report, pictures. Names are relative to the card's directory.
    signer: Who signs, by `signing_keys.load_signer`; None leaves it unsigned.
    archive_sha256: Of the archive that is published. If None, it is packed to
      find out, which takes as long as writing it.

  Returns:
    Name and content of each, names relative to the card's directory.

  Raises:
    HubExportError: if the export cannot be read, or changes meanwhile.
  """
  version = export_dir.name
  files = {str(path): export_dirs.file_sha256(export_dir / path)
           for path in export_dirs.files(export_dir)}
  archive_sha256 = archive_sha256 or archive.sha256(export_dir)[0]
  statement = provenance.statement(export_dir, files, archive_sha256)
  made = [(version + provenance.SUFFIX, statement)]
  listed = sums.render({
      f"{version}.tar.gz": archive_sha256,
      **{f"{version}/{name}": sha256 for name, sha256 in files.items()},
      **{name: _sha256(content) for name, content in (*documents, *made)}})
  made.append((version + sums.SUFFIX, listed))
  if signer:
    made.append((version + SIGNATURE_SUFFIX,
                 signatures.sign(export_dir, files, signer)))
    made.append((version + sums.SUFFIX + SIGNATURE_SUFFIX,
                 _sign_content(version + sums.SUFFIX, listed, signer)))
  return tuple(made)


def _sign_content(name: str, content: bytes, signer: signing_keys.Signer
                  ) -> bytes:
  """Returns the signature of a file that is not written yet."""
  with tempfile.TemporaryDirectory() as scratch:
    path = pathlib.Path(scratch, name)
    path.write_bytes(content)
    return signatures.sign(
        path, {signatures.FILE_ITSELF: _sha256(content)}, signer)


def _sha256(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()
