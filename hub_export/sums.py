"""SHA256SUMS: what `sha256sum -c` reads, of a module and all beside it.

    cd published/local/regnety600mf_classification && sha256sum -c 1.SHA256SUMS

A line "<sha256>  <name>" each, sorted by name. Names are relative to the
directory in which the file lies, and begin with the version: "1.tar.gz",
"1.md", "1/saved_model.pb".
"""

import pathlib
import re
from collections.abc import Mapping

from hub_export import errors

SUFFIX = ".SHA256SUMS"
# What coreutils writes for text and binary mode; nobody needs names with
# control characters or backslashes, which it would escape.
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^\x00-\x1f\x7f\\]+)")


def render(hashes: Mapping[str, str]) -> bytes:
  """Returns the file for these names and SHA-256s in hexadecimal.

  Raises:
    HubExportError: if a name has control characters or a backslash.
  """
  lines = [f"{sha256}  {name}" for name, sha256 in sorted(hashes.items())]
  for line in lines:
    if not _LINE.fullmatch(line):
      raise errors.HubExportError(
          f"{line[66:]!r} cannot be a file of a published model; expected a "
          "name without control characters and backslashes. Rename it.")
  return "".join(f"{line}\n" for line in lines).encode(
      "utf-8", "surrogateescape")


def parse(content: bytes, version: str) -> dict[str, str]:
  """Returns name to SHA-256 of a file that `render` made.

  Args:
    content: The file.
    version: Of which module's version it is; names are below it or beside it.

  Raises:
    ChecksError: if a line has another form, names a file twice, or one that is
      none of the version's, such as "../../.bashrc".
  """
  hashes: dict[str, str] = {}
  # Not splitlines: names may have other line breaks of Unicode.
  lines = content.decode("utf-8", "surrogateescape").split("\n")
  if lines.pop():
    lines.append("(no end of line)")
  for number, line in enumerate(lines, 1):
    found = _LINE.fullmatch(line)
    name = found[2] if found else ""
    if not found or name in hashes or not is_of_version(name, version):
      raise errors.ChecksError(
          f"line {number} of {version}{SUFFIX} is {line[:200]!r}; expected a "
          f"SHA-256, two blanks and a file of version {version}, each once")
    hashes[name] = found[1]
  return hashes


def is_of_version(name: str, version: str) -> bool:
  """Returns whether a relative name is below a version or beside it."""
  path = pathlib.PurePosixPath(name)
  return (str(path) == name and ".." not in path.parts
          and (path.parts[0].startswith(f"{version}.")
               or path.parts[0] == version and len(path.parts) > 1))
