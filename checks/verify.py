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

from collections.abc import Sequence

from absl import flags

from checks import published_model
from checks import verification
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


def main(_: Sequence[str]) -> int:
  if _HANDLE.value:
    export_dirs.parse_handle(_HANDLE.value)
  asked = published_model.subject(_EXPORT_DIR.value, _ARCHIVE.value, _BESIDE.value)
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


if __name__ == "__main__":
  program.run(main)
