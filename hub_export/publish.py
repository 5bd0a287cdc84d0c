"""Publishes a checked export where users load it from.

    ./bazelw run //hub_export:publish -- \\
        --export_dir=exports/local/regnety600mf_digits_classification/1 \\
        --to=published

Only what has a passing report of its very bytes is published: module, archive,
card with its pictures, and report, all or nothing. What was written is read
back and compared. Publishing it again does nothing; --dry_run only tells what
would happen. --to also takes gs://, s3://, kaggle:// and hf:// addresses.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from hub_export import archive
from hub_export import destinations
from hub_export import forms
from hub_export import program
from hub_export import releases
from hub_export import signing_keys
from hub_export import trust
from hub_export.destinations import base

_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Directory of one module's version, such as "
    "exports/local/regnety600mf_classification/1.", required=True)
_TO = flags.DEFINE_string(
    "to", None, "Where to publish: " + "; ".join(
        kind.example for kind in destinations.KINDS) + ".", required=True)
_PRIVATE_KEY = flags.DEFINE_string(
    "private_key", None, "Signs what is published: an elliptic curve key "
    "(P-256, P-384 or P-521), PEM. The password of an encrypted one is read "
    f"from the environment variable {signing_keys.PASSWORD_VARIABLE}.")
_SIGNING_CERTIFICATE = flags.DEFINE_string(
    "signing_certificate", None, "The key's X.509 certificate, PEM, where "
    "users trust a certificate authority and not a key.")
_CERTIFICATE_CHAIN = flags.DEFINE_list(
    "certificate_chain", [], "Certificates that vouch for that one, PEM.")
_REPLACE_SIGNATURE = flags.DEFINE_boolean(
    "replace_signature", False, "Publish anew what is signed with another key "
    "or certificate. Users who have the earlier one verify it no longer.")
_DRY_RUN = flags.DEFINE_boolean(
    "dry_run", False, "Say what would be published, and change nothing.")


def main(_: Sequence[str]) -> int:
  destination = destinations.choose(_TO.value)
  signer = signing_keys.from_flags(
      _PRIVATE_KEY.value, _SIGNING_CERTIFICATE.value, _CERTIFICATE_CHAIN.value)
  release = releases.read(program.user_path(_EXPORT_DIR.value))
  if destination.is_remote:
    releases.check_public(release.manifest, _TO.value)
  archive_sha256, _ = archive.sha256(release.export_dir)
  releases.check_archive(release, archive_sha256)
  release = releases.with_documents(release, trust.trusted_documents(
      release.export_dir, release.documents, signer, archive_sha256))
  release = dataclasses.replace(
      release, replaces_signature=_REPLACE_SIGNATURE.value)
  if _DRY_RUN.value:
    _print_plan(release, destination)
    return 0
  outcome = destination.put(release)
  destination.verify(release)
  print(f"{release.handle}: {outcome.value}")
  for what, where in (*destination.describe(release.handle),
                      *destination.write_pages(release)):
    print(f"  {what:<10} {where}")
  print("Load it with:")
  for step in destination.next_steps(
      release.handle, forms.by_name(release.manifest["form"])):
    print(f"  {step}")
  return 0


def _print_plan(release: releases.Release,
                destination: base.Destination) -> None:
  plan = destination.plan(release)
  print(f"{release.handle}: {_WOULD[plan.outcome]}")
  for line in releases.gate(release, destination.is_remote):
    print(f"  {line}")
  for where, size in plan.writes:
    print(f"  would write {where} ({size:,} bytes)")
  for where in plan.removes:
    print(f"  would remove {where}")
  for where in plan.others:
    print(f"  would make or renew, if it is not so already, {where}")
  print("Nothing was changed.")


_WOULD = {
    base.Outcome.PUBLISHED: "would be published; the version is free",
    base.Outcome.RENEWED: "is published with these bytes; what differs of the "
                          "files beside them would be renewed",
    base.Outcome.UNCHANGED: base.Outcome.UNCHANGED.value,
}


if __name__ == "__main__":
  program.run(main)
