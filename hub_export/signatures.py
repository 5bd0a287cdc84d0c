"""Signatures in OpenSSF's model signing format: made and verified offline.

A signature is a Sigstore bundle (JSON, v0.3) around a signed in-toto statement
that names every file with its SHA-256. Any tool that speaks the format verifies
it, such as `model_signing verify key`. The same key and files give the same
signature, byte for byte, so that publishing twice changes nothing.
"""

import base64
import dataclasses
import datetime
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hub_export import errors
from hub_export import signing_keys

# What signs is imported where it is used: most programs never sign.
if TYPE_CHECKING:
  from cryptography import x509
  from cryptography.hazmat.primitives.asymmetric import ec

FILE_ITSELF = "."  # What the format calls the content of a single file.


@dataclasses.dataclass(frozen=True)
class SignedBy:
  """Who has signed."""
  name: str                # "key <SHA-256>" or "certificate <subject>".
  certificate: str | None = None              # Its SHA-256.
  not_before: datetime.datetime | None = None  # Of the certificate.
  not_after: datetime.datetime | None = None

  @property
  def shown(self) -> str:
    """All of it, for people."""
    if not self.certificate:
      return self.name
    return (f"{self.name}, SHA-256 {self.certificate}, valid to "
            f"{self.not_after:%Y-%m-%d}")


def sign(path: pathlib.Path, files: Mapping[str, str],
         signer: signing_keys.Signer) -> bytes:
  """Returns the signature of a directory or of a single file.

  Args:
    path: What to sign. Its last part goes into the signature, for people.
    files: Relative path to SHA-256 of all that is expected below `path`;
      FILE_ITSELF if `path` is a file.
    signer: Who signs.

  Raises:
    HubExportError: if `path` holds anything else than `files`.
  """
  # pylint: disable=g-import-not-at-top
  from cryptography.hazmat.primitives import serialization
  from model_signing import hashing
  from model_signing import signing

  # By default the library passes over .git and .gitignore: anybody could add
  # such files to a signed model.
  everything = hashing.Config().set_ignored_paths(
      paths=(), ignore_git_paths=False)
  config = signing.Config().set_hashing_config(everything)
  plain = signer.key.private_bytes(
      serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
      serialization.NoEncryption())
  # The library takes paths alone, and no password beside a certificate. The
  # decrypted key stays in memory: no disk ever has it.
  with (os.fdopen(os.memfd_create("key"), "wb") as secret,
        tempfile.TemporaryDirectory() as scratch):
    secret.write(plain)
    secret.flush()
    key_path = f"/proc/self/fd/{secret.fileno()}"
    if signer.certificate:
      own, chain = pathlib.Path(scratch, "own"), pathlib.Path(scratch, "chain")
      own.write_bytes(signing_keys.pem([signer.certificate]))
      chain.write_bytes(signing_keys.pem(signer.chain))
      config.use_certificate_signer(
          private_key=key_path, signing_certificate=own,
          certificate_chain=[chain])
    else:
      config.use_elliptic_key_signer(private_key=key_path)
    bundle_path = pathlib.Path(scratch, "sig")
    try:
      config.sign(path, bundle_path)
    except ValueError as e:  # Symbolic links, for one.
      raise errors.HubExportError(
          f"{path} cannot be signed ({e}); expected files and directories "
          "alone. Export it again.") from e
    bundle = json.loads(bundle_path.read_bytes())
  signed = _signed_files(bundle)
  if signed != dict(files):
    raise errors.HubExportError(errors.join_problems(
        f"{path} changed while it was being signed", differences(files, signed),
        "Look into what changes it, then sign again."))
  return _repeatable(bundle, signer.key)


def verify(bundle: bytes, files: Mapping[str, str],
           verifier: signing_keys.Verifier) -> SignedBy:
  """Checks a signature and that it is of these very files; returns by whom.

  Nothing tells when a signature was made. So that a key which is stolen one day
  does not count for ever, a certificate counts until it runs out; those above
  it count as of the day on which it was issued.

  Args:
    bundle: The signature.
    files: Relative path to SHA-256 of every file that there is; FILE_ITSELF
      for a single file.
    verifier: Whom to believe.

  Raises:
    ChecksError: if the signature is no bundle, was made by somebody else, its
      certificate is not valid now or not for signing, or if a file differs, is
      missing, or is not signed. All are named.
  """
  # pylint: disable=g-import-not-at-top
  from cryptography import exceptions
  from model_signing import verifying
  from OpenSSL import crypto

  known = _known_files(files)
  config = verifying.Config().set_hashing_config(known)
  with tempfile.TemporaryDirectory() as scratch:
    trusted = pathlib.Path(scratch, "trusted")
    bundle_path = pathlib.Path(scratch, "sig")
    bundle_path.write_bytes(bundle)
    if verifier.public_key:
      trusted.write_bytes(signing_keys.public_pem(verifier.public_key))
      config.use_elliptic_key_verifier(public_key=trusted)
    else:
      trusted.write_bytes(signing_keys.pem(verifier.chain))
      config.use_certificate_verifier(certificate_chain=[trusted])
    try:
      parsed = json.loads(bundle)
      signer = _claimed_signer(parsed, verifier)
      claimed = signer.name
      config.verify(scratch, bundle_path)
      if verifier.chain:
        _check_validity(signer, verifier)
      return signer
    except exceptions.InvalidSignature:
      raise errors.ChecksError(
          f"it says that it is signed by {claimed}, but its content was "
          "altered, or signed by somebody else") from None
    except crypto.X509StoreContextError as e:
      raise errors.ChecksError(
          f"it is signed by {claimed}, for whom {verifier.shown} does not "
          f"vouch ({e})") from e
    except (ValueError, KeyError, TypeError, AttributeError, IndexError,
            RecursionError, crypto.Error) as e:
      if known.is_asked:  # The signature is sound, the files are others.
        raise errors.ChecksError(
            f"{_difference(parsed, files)}; expected what {claimed} "
            "signed") from e
      raise errors.ChecksError(
          "it is no signature as OpenSSF's model signing makes them "
          f"({type(e).__name__}: {e})") from e


def signer_name(bundle: bytes) -> str | None:
  """Returns who says to have made a signature; None if it is damaged."""
  try:
    return _signer(json.loads(bundle))[0].shown
  except (ValueError, KeyError, TypeError, AttributeError, IndexError,
          RecursionError):
    return None


def differences(expected: Mapping[str, str], found: Mapping[str, str]
                ) -> list[str]:
  """Returns a line for each file that differs, sorted by its name."""
  def problem(name: str) -> str:
    shown = "its content" if name == FILE_ITSELF else name
    if name not in found:
      return f"{shown} is missing"
    return f"{shown} {'differs' if name in expected else 'was added'}"

  return [problem(name) for name in sorted({*expected, *found})
          if expected.get(name) != found.get(name)]


def _known_files(files: Mapping[str, str]) -> Any:
  """Returns what the library takes for its reader of directories.

  It reads nothing, as the files' hashes are known already, may they lie in a
  directory or in an archive. And it passes over no file: what a signature says
  is to be ignored, `hash` never hears of.
  """
  # pylint: disable=g-import-not-at-top
  from model_signing import hashing
  from model_signing import manifest
  from model_signing._hashing import hashing as digests

  class KnownFiles(hashing.Config):
    """As hashing.Config, of files whose hashes are known."""
    is_asked = False  # Not before the signature was found to be sound.

    def hash(self, model_path, *, files_to_hash=None) -> manifest.Manifest:
      del model_path, files_to_hash
      self.is_asked = True
      return manifest.Manifest(
          "", [manifest.FileManifestItem(
              path=pathlib.PurePosixPath(name),
              digest=digests.Digest("sha256", bytes.fromhex(sha256)))
               for name, sha256 in files.items()],
          manifest.SerializationType.from_args(
              {"method": "files", "hash_type": "sha256",
               "allow_symlinks": False}))

  return KnownFiles()


def _claimed_signer(bundle: Mapping[str, Any],
                    verifier: signing_keys.Verifier) -> SignedBy:
  """Returns who a bundle says has signed it, before that is verified.

  Raises:
    ChecksError: if that is somebody else than `verifier` believes.
  """
  found, certificate = _signer(bundle)
  if certificate:
    signing_keys.check_purpose(certificate)
  is_right = bool(certificate) and verifier.is_signer(certificate)
  if verifier.public_key:
    expected = f"key {signing_keys.fingerprint(verifier.public_key)}"
    is_right = found.name == expected
  else:
    expected = f"a certificate of {verifier.signer}"
  if not is_right:
    raise errors.ChecksError(
        f"it is signed by {found.shown}; expected {expected}, for "
        f"{verifier.shown}")
  return found


def _signer(bundle: Mapping[str, Any]
            ) -> tuple[SignedBy, "x509.Certificate | None"]:
  """Returns who a bundle says has signed it, and with what certificate."""
  from cryptography import x509  # pylint: disable=g-import-not-at-top

  material = bundle["verificationMaterial"]
  if "x509CertificateChain" not in material:
    return SignedBy(f"key {material['publicKey']['hint']}"), None
  certificate = x509.load_der_x509_certificate(base64.b64decode(
      material["x509CertificateChain"]["certificates"][0]["rawBytes"]))
  return SignedBy(
      f"certificate {certificate.subject.rfc4514_string()}",
      signing_keys.certificate_sha256(certificate),
      certificate.not_valid_before_utc,
      certificate.not_valid_after_utc), certificate


def _check_validity(signer: SignedBy, verifier: signing_keys.Verifier) -> None:
  """Raises ChecksError unless a certificate is valid now, or may be old."""
  now = datetime.datetime.now(datetime.timezone.utc)
  if now < signer.not_before or (
      now > signer.not_after and not verifier.allow_expired):
    raise errors.ChecksError(
        f"it is signed by {signer.name}, which is valid from "
        f"{signer.not_before:%Y-%m-%d %H:%M} to "
        f"{signer.not_after:%Y-%m-%d %H:%M} UTC; expected that to include now, "
        f"{now:%Y-%m-%d %H:%M} by this machine's clock. Get it signed anew; if "
        "it ran out and you know the model from before, say --allow_expired")


def _payload(bundle: Mapping[str, Any]) -> bytes:
  return base64.b64decode(bundle["dsseEnvelope"]["payload"])


def _signed_files(bundle: Mapping[str, Any]) -> dict[str, str]:
  """Returns what a bundle says of files, relative path to SHA-256."""
  statement = json.loads(_payload(bundle))
  return {resource["name"]: resource["digest"]
          for resource in statement["predicate"]["resources"]}


def _difference(bundle: Mapping[str, Any], files: Mapping[str, str]) -> str:
  """Returns what is different of the files that a sound signature names."""
  try:
    return "; ".join(differences(_signed_files(bundle), files))
  except (KeyError, TypeError):
    # A statement of the library's versions before 1.0, or of parts of files.
    return "it does not name these files with these hashes"


def _repeatable(bundle: dict[str, Any],
                key: "ec.EllipticCurvePrivateKey") -> bytes:
  """Returns a bundle anew, in the same bytes each time.

  The library (1.1.1) writes the statement's fields in whatever order and signs
  with a random number. Here they are sorted, and the number follows from key
  and content (RFC 6979).
  """
  # pylint: disable=g-import-not-at-top
  from cryptography.hazmat.primitives import hashes
  from cryptography.hazmat.primitives.asymmetric import ec

  payload = json.dumps(json.loads(_payload(bundle)), sort_keys=True).encode()
  envelope = bundle["dsseEnvelope"]
  kind = envelope["payloadType"].encode()
  # DSSE's pre-authentication encoding, v1.
  encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
  algorithm = getattr(hashes, signing_keys.HASHES[key.curve.name])()
  signature = key.sign(
      encoded, ec.ECDSA(algorithm, deterministic_signing=True))
  envelope["payload"] = base64.b64encode(payload).decode()
  envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
  return json.dumps(bundle, sort_keys=True).encode() + b"\n"
