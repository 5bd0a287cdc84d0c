"""Keys and certificates for tests, made with cryptography's own functions."""

import datetime
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

PASSWORD = "correct horse"
_DAY = datetime.timedelta(days=1)


def write_pair(directory: pathlib.Path, name: str = "publisher",
               curve: type[ec.EllipticCurve] = ec.SECP256R1,
               password: str | None = None
               ) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes a new pair of keys; returns the paths of private and public one."""
  directory.mkdir(parents=True, exist_ok=True)
  key = ec.generate_private_key(curve())
  private, public = directory / f"{name}.pem", directory / f"{name}.pub"
  private.write_bytes(key.private_bytes(
      serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
      serialization.BestAvailableEncryption(password.encode()) if password
      else serialization.NoEncryption()))
  public.write_bytes(key.public_key().public_bytes(
      serialization.Encoding.PEM,
      serialization.PublicFormat.SubjectPublicKeyInfo))
  return private, public


def write_certificate(private: pathlib.Path, name: str,
                      issuer: tuple[pathlib.Path, pathlib.Path] | None = None,
                      can_sign: bool = True, first_day: float = -1,
                      last_day: float = 9,
                      purpose: x509.ObjectIdentifier | None = None,
                      is_authority: bool | None = None) -> pathlib.Path:
  """Writes a certificate of a key; returns its path.

  Args:
    private: The key, not encrypted.
    name: Its subject's common name, and the file's.
    issuer: Certificate and private key of who issues it; None for a root.
    can_sign: Whether its key may be used for signatures.
    first_day: Of its validity, days from now.
    last_day: Of its validity, days from now.
    purpose: The only one that it names, of x509.ExtendedKeyUsageOID.
    is_authority: Whether it may issue others; by default if it is a root.
  """
  if is_authority is None:
    is_authority = issuer is None
  key = serialization.load_pem_private_key(private.read_bytes(), None)
  own_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
  issuer_name, issuer_key = own_name, key
  if issuer:
    issuer_name = x509.load_pem_x509_certificate(
        issuer[0].read_bytes()).subject
    issuer_key = serialization.load_pem_private_key(
        issuer[1].read_bytes(), None)
  now = datetime.datetime.now(datetime.timezone.utc)
  usage = dict.fromkeys((
      "content_commitment", "key_encipherment", "data_encipherment",
      "key_agreement", "crl_sign", "encipher_only", "decipher_only"), False)
  builder = (
      x509.CertificateBuilder().subject_name(own_name).issuer_name(issuer_name)
      .public_key(key.public_key()).serial_number(x509.random_serial_number())
      .not_valid_before(now + first_day * _DAY)
      .not_valid_after(now + last_day * _DAY)
      .add_extension(x509.BasicConstraints(is_authority, None), True)
      .add_extension(x509.KeyUsage(digital_signature=can_sign,
                                   key_cert_sign=is_authority, **usage), True))
  if purpose:
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), False)
  certificate = builder.sign(issuer_key, hashes.SHA256())
  path = private.with_name(f"{name}.crt")
  path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
  return path
