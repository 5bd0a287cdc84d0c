r"""Verifies that a model is what its publisher signed, down to the last byte.

  bazel run //checks:verify -- --public_key=public.pem \
      --export_dir=published/local/regnety600mf_classification/1
  bazel run //checks:verify -- --public_key=public.pem \
      --archive=https://host/local/regnety600mf_classification/1 \
      --handle=local/regnety600mf_classification/1

What was altered, added, is missing or signed by somebody else is told, and the
exit status is 1; 0 if nothing was, 2 on wrong usage. Servers of Sigstore or
anybody else are not asked.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from checks import side_files
from checks import verification
from hub_export import errors
from hub_export import export_dirs
from hub_export import program
from hub_export import signing_keys

_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Directory of one module's version, as published or as "
    "hub.load keeps it in its cache.")
_ARCHIVE = flags.DEFINE_string(
    "archive", None, "Its .tar.gz instead: a path, or the http(s) address that "
    "hub.load takes.")
_PUBLIC_KEY = flags.DEFINE_string(
    "public_key", None, "The publisher's public key, PEM. Get it from the "
    "publisher, not from beside the model.")
_CERTIFICATE_CHAIN = flags.DEFINE_list(
    "certificate_chain", [], "Instead of a key: certificates, PEM, with the "
    "root, that vouch for the signer's.")
_SIGNER = flags.DEFINE_string(
    "signer", None, "With --certificate_chain, whose certificate of theirs to "
    "believe: its subject, such as CN=My Lab, or its SHA-256.")
_ALLOW_EXPIRED = flags.DEFINE_bool(
    "allow_expired", False, "Believe a certificate that has run out. Whoever "
    "got hold of its key since could have signed.")
_BESIDE = flags.DEFINE_string(
    "beside", None, "Where the files beside the module lie, if elsewhere: the "
    "path or address of the published version, without .tar.gz.")
_HANDLE = flags.DEFINE_string(
    "handle", None, "Which module it has to be, publisher/name/version; by "
    "default what the path or address looks like, else any that this publisher "
    "signed.")
_MODULE_ONLY = flags.DEFINE_bool(
    "module_only", False, "Verify the module alone, by <version>.sig; card, "
    "report, sums and provenance need not be there.")

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


def main(_: Sequence[str]) -> int:
  if _HANDLE.value:
    export_dirs.parse_handle(_HANDLE.value)
  asked = subject(_EXPORT_DIR.value, _ARCHIVE.value, _BESIDE.value)
  verifier = signing_keys.load_verifier(
      _PUBLIC_KEY.value and program.user_path(_PUBLIC_KEY.value),
      map(program.user_path, _CERTIFICATE_CHAIN.value), _SIGNER.value,
      _ALLOW_EXPIRED.value)
  verdict = verification.verify(asked, verifier, _HANDLE.value,
                                _MODULE_ONLY.value)
  print(f"{verdict.handle}: verified\n"
        f"  signed by   {verdict.signer.shown}\n"
        f"  module      {verdict.num_files} files, just those that were signed")
  if verdict.num_beside is not None:
    print(f"  beside it   {verdict.num_beside} files, as published\n"
          f"  provenance  {verdict.provenance}\n"
          "  not signed  a hub's own page, such as README.md on Hugging Face")
  return 0


def _claimed(side: verification.Side, version: str) -> str | None:
  """Returns the handle that a place looks like; None if like none."""
  parts = side.parts()[-2:]
  try:
    return str(export_dirs.parse_handle("/".join([*parts, version])))
  except errors.HubExportError:
    return None


def _is_version(text: str) -> bool:
  return text.isascii() and text.isdigit() and text[0] != "0"


if __name__ == "__main__":
  program.run(main)
