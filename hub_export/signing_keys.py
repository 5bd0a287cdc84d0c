"""Keys and certificates that sign and verify: read, and told what is wrong.

They are elliptic-curve ones in PEM:

    openssl ecparam -name prime256v1 -genkey -noout -out private.pem
    openssl ec -in private.pem -pubout -out public.pem

No message, and no representation of what is here, has anything of a private key
or of a password in it.
"""

import dataclasses
import datetime
import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hub_export import errors
from hub_export import program

# Imported where it is used: most programs never sign.
if TYPE_CHECKING:
  from cryptography import x509
  from cryptography.hazmat.primitives.asymmetric import ec

PASSWORD_VARIABLE = "REGNETY_HUB_KEY_PASSWORD"  # Of the environment.
# The format of signatures has these alone; each goes with one hash.
HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
_MAKE_KEY = ("Make a pair with: openssl ecparam -name prime256v1 -genkey "
             "-noout -out private.pem; openssl ec -in private.pem -pubout "
             "-out public.pem")


@dataclasses.dataclass(frozen=True)
class Signer:
  """A private key, and the certificate that vouches for it if there is one."""
  key: "ec.EllipticCurvePrivateKey" = dataclasses.field(repr=False)
  certificate: "x509.Certificate | None" = None
  chain: "tuple[x509.Certificate, ...]" = ()  # What stands above it.


@dataclasses.dataclass(frozen=True)
class Verifier:
  """Whom to believe: the holder of one key, or those whom a chain vouches for.

  Exactly one of the two is there.
  """
  shown: str  # The files that it comes from, for people.
  public_key: "ec.EllipticCurvePublicKey | None" = None
  chain: "tuple[x509.Certificate, ...]" = ()  # With the root.
  signer: str | None = None     # With a chain: subject or SHA-256 of whose
                                # certificate. An authority vouches for many.
  allow_expired: bool = False   # Whether that one may have run out.

  def is_signer(self, certificate: "x509.Certificate") -> bool:
    """Whether a certificate is called as `signer` says."""
    return self.signer is not None and (
        self.signer == certificate.subject.rfc4514_string()
        # As openssl writes it, too: upper case, with colons.
        or self.signer.replace(":", "").lower()
        == certificate_sha256(certificate))


def load_signer(private_key: pathlib.Path,
                certificate: pathlib.Path | None = None,
                chain: Iterable[pathlib.Path] = ()) -> Signer:
  """Returns a signer that was found to be fit for signing.

  Args:
    private_key: PEM, on the curve P-256, P-384 or P-521. The password of an
      encrypted one is taken from the environment, PASSWORD_VARIABLE.
    certificate: PEM, of this very key; further ones in the file count as
      part of the chain.
    chain: PEM, the certificates above it up to the root.

  Raises:
    UsageError: if there is a chain without a certificate, or the reverse.
    HubExportError: if one cannot be read, is of another kind, does not belong
      to the key, is not valid now, or if the chain does not lead to it.
  """
  chain = tuple(chain)
  if bool(chain) != bool(certificate):
    raise errors.UsageError(
        "a signing certificate and its chain go together; expected both or "
        "neither (the chain of a self-signed certificate is itself)")
  key = _private_key(private_key)
  if not certificate:
    return Signer(key)
  own, *between = _certificates(certificate)
  _check_certificate(own, certificate, key)
  above = (*between, *_chain(chain))
  _check_chain(own, certificate, above)
  return Signer(key, own, above)


def from_flags(private_key: str | None, certificate: str | None,
               chain: Sequence[str]) -> Signer | None:
  """Returns who signs, by paths as a user types them; None for nobody.

  Raises:
    UsageError, HubExportError: as `load_signer`, and without a key.
  """
  if private_key:
    return load_signer(
        program.user_path(private_key),
        program.user_path(certificate) if certificate else None,
        [program.user_path(path) for path in chain])
  if certificate or chain:
    raise errors.UsageError(
        "a certificate alone does not sign; expected its key as well, "
        "--private_key")
  return None


def load_verifier(public_key: pathlib.Path | None = None,
                  chain: Iterable[pathlib.Path] = (),
                  signer: str | None = None,
                  allow_expired: bool = False) -> Verifier:
  """Returns whom to believe, by a public key or by a chain of certificates.

  Args:
    public_key: PEM.
    chain: PEM, certificates with the root, of which the signer's was issued.
    signer: With a chain, whose: the certificate's subject as RFC 4514 has it,
      such as "CN=My Lab", or its SHA-256.
    allow_expired: Whether to believe a certificate that has run out.

  Raises:
    UsageError: unless one of the two is given, the chain with a signer.
    HubExportError: if a file cannot be read or is of another kind.
  """
  chain = tuple(chain)
  if bool(chain) == bool(public_key):
    raise errors.UsageError(
        "expected the publisher's public key or a chain of certificates, one "
        "of the two")
  if bool(chain) != bool(signer):
    raise errors.UsageError(
        "a chain of certificates and --signer go together; expected both, or a "
        "public key. An authority vouches for many: say whom to believe, by "
        "the subject of the certificate or its SHA-256")
  if public_key:
    return Verifier(str(public_key), public_key=_public_key(public_key))
  return Verifier(", ".join(map(str, chain)), None, _chain(chain), signer,
                  allow_expired)


def pem(certificates: "Iterable[x509.Certificate]") -> bytes:
  """Returns certificates as one PEM file."""
  # pylint: disable-next=g-import-not-at-top
  from cryptography.hazmat.primitives import serialization

  return b"".join(c.public_bytes(serialization.Encoding.PEM)
                  for c in certificates)


def public_pem(public_key: "ec.EllipticCurvePublicKey") -> bytes:
  """Returns a public key as a PEM file."""
  # pylint: disable-next=g-import-not-at-top
  from cryptography.hazmat.primitives import serialization

  return public_key.public_bytes(
      serialization.Encoding.PEM,
      serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(public_key: "ec.EllipticCurvePublicKey") -> str:
  """Returns what a signature calls a key: the SHA-256 of its PEM file."""
  return hashlib.sha256(public_pem(public_key)).hexdigest()


def certificate_sha256(certificate: "x509.Certificate") -> str:
  """Returns what `openssl x509 -fingerprint -sha256` does, without colons."""
  # pylint: disable-next=g-import-not-at-top
  from cryptography.hazmat.primitives import hashes

  return certificate.fingerprint(hashes.SHA256()).hex()


def check_purpose(certificate: "x509.Certificate") -> None:
  """Raises ChecksError if a certificate is for other things than signing."""
  from cryptography import x509  # pylint: disable=g-import-not-at-top

  extensions = {type(e.value): e.value for e in certificate.extensions}
  usage = extensions.get(x509.KeyUsage)
  purposes = extensions.get(x509.ExtendedKeyUsage)
  code_signing = x509.ExtendedKeyUsageOID.CODE_SIGNING
  # One that names its purposes, such as a web server's, is for no others.
  if (code_signing not in purposes if purposes is not None
      else not (usage and usage.digital_signature)):
    raise errors.ChecksError(
        f"the certificate {certificate.subject.rfc4514_string()} does not let "
        "its key sign; expected codeSigning if it names extended key usages, "
        "else the key usage digitalSignature. Have one issued for that.")


def _private_key(path: pathlib.Path) -> "ec.EllipticCurvePrivateKey":
  """Returns a private key, decrypted; what is wrong with it is told."""
  # pylint: disable-next=g-import-not-at-top
  from cryptography.hazmat.primitives import serialization

  content = _read(path, "private key")
  if b"PUBLIC KEY-----" in content:
    raise errors.HubExportError(
        f"{path} is a public key; expected the private one, which signs.")
  password = None
  if b"ENCRYPTED" in content:
    password = os.fsencode(os.environ.get(PASSWORD_VARIABLE, ""))
    if not password:
      raise errors.HubExportError(
          f"{path} is encrypted; expected its password in the environment "
          f"variable {PASSWORD_VARIABLE}. Set it, and nowhere else.")
  try:
    key = serialization.load_pem_private_key(content, password)
  except Exception:  # Whatever it says: no part of a key may be shown.
    raise errors.HubExportError(
        f"{path} cannot be read as a private key in PEM"
        + (f", or {PASSWORD_VARIABLE} has another password" if password else "")
        + f"; expected one on an elliptic curve. {_MAKE_KEY}") from None
  return _checked_curve(key, path)


def _public_key(path: pathlib.Path) -> "ec.EllipticCurvePublicKey":
  """Returns a public key; what is wrong with it is told."""
  # pylint: disable=g-import-not-at-top
  from cryptography import exceptions
  from cryptography.hazmat.primitives import serialization

  content = _read(path, "public key")
  if b"PRIVATE KEY-----" in content:
    raise errors.HubExportError(
        f"{path} is a private key; expected the public one, which verifies. "
        f"Make it: openssl ec -in {path} -pubout")
  try:
    key = serialization.load_pem_public_key(content)
  except (ValueError, exceptions.UnsupportedAlgorithm) as e:
    raise errors.HubExportError(
        f"{path} cannot be read as a public key; expected PEM, beginning with "
        "-----BEGIN PUBLIC KEY-----. Get it from the publisher again.") from e
  return _checked_curve(key, path)


def _checked_curve(key: Any, path: pathlib.Path) -> Any:
  """Returns `key`; raises HubExportError unless it is of a kind that signs."""
  curve = getattr(getattr(key, "curve", None), "name", None)
  if curve not in HASHES:
    raise errors.HubExportError(
        f"{path} is {f'on the curve {curve}' if curve else 'no ECDSA key'}; "
        "expected a key on P-256, P-384 or P-521, as the format of signatures "
        f"has them. {_MAKE_KEY}")
  return key


def _certificates(path: pathlib.Path) -> "list[x509.Certificate]":
  """Returns the certificates in a file, one at least."""
  from cryptography import x509  # pylint: disable=g-import-not-at-top

  try:
    return x509.load_pem_x509_certificates(_read(path, "certificate"))
  except ValueError as e:
    raise errors.HubExportError(
        f"{path} cannot be read as a certificate; expected PEM, beginning with "
        "-----BEGIN CERTIFICATE-----.") from e


def _chain(paths: Iterable[pathlib.Path]) -> "tuple[x509.Certificate, ...]":
  return tuple(c for path in paths for c in _certificates(path))


def _check_certificate(certificate: "x509.Certificate", path: pathlib.Path,
                       key: "ec.EllipticCurvePrivateKey") -> None:
  """Raises HubExportError unless a certificate lets `key` sign now."""
  if certificate.public_key() != key.public_key():
    raise errors.HubExportError(
        f"{path} is the certificate of another key; expected that of the "
        "private key. Give the two that belong together.")
  now = datetime.datetime.now(datetime.timezone.utc)
  first, last = (certificate.not_valid_before_utc,
                 certificate.not_valid_after_utc)
  if not first <= now <= last:
    raise errors.HubExportError(
        f"{path} is valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} "
        f"UTC; expected that to include now, {now:%Y-%m-%d %H:%M} by this "
        "machine's clock. Set the clock, or renew the certificate.")
  try:
    check_purpose(certificate)
  except errors.ChecksError as e:
    raise errors.HubExportError(f"{path}: {e}") from e


def _check_chain(own: "x509.Certificate", path: pathlib.Path,
                 chain: "Iterable[x509.Certificate]") -> None:
  """Raises HubExportError unless a root in `chain` vouches for a certificate.

  Users would find that out, for everything that it signed.
  """
  from OpenSSL import crypto  # pylint: disable=g-import-not-at-top

  store, between = crypto.X509Store(), []
  for certificate in chain:
    made = crypto.X509.from_cryptography(certificate)
    if certificate.issuer == certificate.subject:
      store.add_cert(made)
    else:
      between.append(made)
  try:
    crypto.X509StoreContext(store, crypto.X509.from_cryptography(own),
                            between).verify_certificate()
  except crypto.X509StoreContextError as e:
    raise errors.HubExportError(
        f"the certificate chain does not lead to {path} ({e}); expected all "
        "that stand above it, up to the root that signed itself. Give them "
        "with --certificate_chain.") from e


def _read(path: pathlib.Path, what: str) -> bytes:
  try:
    return path.read_bytes()
  except OSError as e:
    raise errors.HubExportError(
        f"the {what} {path} cannot be read ({e.strerror}); expected a file in "
        "PEM. Check the path and who may read it.") from e
