"""Tests of hub_export/signing_keys.py: what is refused, and that it is mute."""

import dataclasses
import pathlib
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from hub_export import errors
from hub_export import signing_keys
from tests import tiny_keys


def test_fingerprint_is_the_sha256_of_the_pem_file(tmp_path):
  private, public = tiny_keys.write_pair(tmp_path)
  printed = subprocess.run(["sha256sum", public], check=True, text=True,
                           capture_output=True).stdout
  key = signing_keys.load_signer(private).key.public_key()
  assert signing_keys.fingerprint(key) == printed.split()[0]


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_curves(tmp_path, curve):
  private, public = tiny_keys.write_pair(tmp_path, curve=curve)
  signer = signing_keys.load_signer(private)
  verifier = signing_keys.load_verifier(public)
  assert signer.key.public_key() == verifier.public_key
  assert signer.key.curve.name == curve.name


def test_what_openssl_makes_is_taken(tmp_path):
  private, public = tmp_path / "private.pem", tmp_path / "public.pem"
  # As the messages and the README advise.
  subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey",
                  "-noout", "-out", private], check=True)
  subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public],
                 check=True, capture_output=True)
  signer = signing_keys.load_signer(private)
  assert (signer.key.public_key()
          == signing_keys.load_verifier(public).public_key)


class TestEncrypted:

  @pytest.fixture(name="private")
  def _private(self, tmp_path) -> pathlib.Path:
    return tiny_keys.write_pair(tmp_path, password=tiny_keys.PASSWORD)[0]

  def test_password_from_the_environment(self, private, monkeypatch):
    monkeypatch.setenv(signing_keys.PASSWORD_VARIABLE, tiny_keys.PASSWORD)
    signer = signing_keys.load_signer(private)
    assert signer.key.curve.name == "secp256r1"
    shown = repr(signer)
    assert "EllipticCurve" not in shown and tiny_keys.PASSWORD not in shown

  def test_without_password(self, private, monkeypatch):
    monkeypatch.delenv(signing_keys.PASSWORD_VARIABLE, raising=False)
    with pytest.raises(errors.HubExportError,
                       match="is encrypted; expected its password in the "
                       "environment variable REGNETY_HUB_KEY_PASSWORD"):
      signing_keys.load_signer(private)

  def test_wrong_password_is_not_shown(self, private, monkeypatch):
    monkeypatch.setenv(signing_keys.PASSWORD_VARIABLE, "battery staple")
    with pytest.raises(errors.HubExportError,
                       match="REGNETY_HUB_KEY_PASSWORD has another") as caught:
      signing_keys.load_signer(private)
    assert "battery" not in str(caught.value)
    assert caught.value.__suppress_context__

  def test_a_password_too_many_does_no_harm(self, tmp_path, monkeypatch):
    monkeypatch.setenv(signing_keys.PASSWORD_VARIABLE, tiny_keys.PASSWORD)
    private, _ = tiny_keys.write_pair(tmp_path, "plain")
    assert signing_keys.load_signer(private).key


class TestRefusedKeys:

  def test_damaged_key_is_not_shown(self, tmp_path):
    private, _ = tiny_keys.write_pair(tmp_path)
    lines = private.read_text().splitlines()
    private.write_text("\n".join([lines[0], lines[1][:-9], *lines[2:]]))
    with pytest.raises(errors.HubExportError,
                       match="cannot be read as a private key") as caught:
      signing_keys.load_signer(private)
    assert lines[1][:12] not in str(caught.value)
    assert caught.value.__suppress_context__

  def test_the_other_half(self, tmp_path):
    private, public = tiny_keys.write_pair(tmp_path)
    with pytest.raises(errors.HubExportError, match="is a public key; expec"):
      signing_keys.load_signer(public)
    with pytest.raises(errors.HubExportError,
                       match="is a private key; expected the public one.*"
                       "openssl ec -in .*publisher.pem -pubout"):
      signing_keys.load_verifier(private)

  @pytest.mark.parametrize("arguments, seen", [
      (["genrsa", "2048"], "is no ECDSA key"),
      (["genpkey", "-algorithm", "ed25519"], "is no ECDSA key"),
      (["ecparam", "-name", "secp256k1", "-genkey", "-noout"],
       "is on the curve secp256k1"),
  ])
  def test_other_kinds_of_keys(self, tmp_path, arguments, seen):
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(subprocess.run(
        ["openssl", *arguments], check=True, capture_output=True).stdout)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out",
                    public], check=True, capture_output=True)
    for load, path in ((signing_keys.load_signer, private),
                       (signing_keys.load_verifier, public)):
      with pytest.raises(errors.HubExportError,
                         match=f"{path} {seen}; expected a key on P-256"):
        load(path)

  def test_missing_and_empty(self, tmp_path):
    for load in (signing_keys.load_signer, signing_keys.load_verifier):
      with pytest.raises(errors.HubExportError, match="No such file"):
        load(tmp_path / "none.pem")
      (tmp_path / "empty.pem").write_bytes(b"")
      with pytest.raises(errors.HubExportError, match="cannot be read as a"):
        load(tmp_path / "empty.pem")

  def test_one_of_key_and_chain(self, tmp_path):
    private, public = tiny_keys.write_pair(tmp_path)
    root = tiny_keys.write_certificate(private, "root")
    for arguments in ((None, ()), (public, (root,))):
      with pytest.raises(errors.UsageError, match="one of the two"):
        signing_keys.load_verifier(*arguments)
    for arguments in ((None, (root,)), (root, ())):
      with pytest.raises(errors.UsageError, match="go together"):
        signing_keys.load_signer(private, *arguments)


class TestCertificates:

  @pytest.fixture(name="root")
  def _root(self, tmp_path) -> tuple[pathlib.Path, pathlib.Path]:
    key, _ = tiny_keys.write_pair(tmp_path, "authority")
    return tiny_keys.write_certificate(key, "root"), key

  @pytest.mark.parametrize("faults, message", [
      ({"last_day": -0.5}, "expected that to include now.*Set the clock"),
      ({"first_day": 1}, "expected that to include now.*Set the clock"),
      ({"can_sign": False}, "does not let its key sign"),
  ])
  def test_unfit_for_signing(self, tmp_path, root, faults, message):
    private, _ = tiny_keys.write_pair(tmp_path)
    own = tiny_keys.write_certificate(private, "own", root, **faults)
    with pytest.raises(errors.HubExportError, match=message):
      signing_keys.load_signer(private, own, [root[0]])

  def test_of_another_key(self, tmp_path, root):
    private, _ = tiny_keys.write_pair(tmp_path)
    own = tiny_keys.write_certificate(private, "own", root)
    other, _ = tiny_keys.write_pair(tmp_path, "other")
    with pytest.raises(errors.HubExportError, match="of another key"):
      signing_keys.load_signer(other, own, [root[0]])

  def test_chain_that_does_not_lead_to_it(self, tmp_path, root):
    between_key, _ = tiny_keys.write_pair(tmp_path, "between")
    between = tiny_keys.write_certificate(between_key, "between", root,
                                          is_authority=True)
    private, _ = tiny_keys.write_pair(tmp_path)
    own = tiny_keys.write_certificate(private, "own", (between, between_key))
    other_key, _ = tiny_keys.write_pair(tmp_path, "other")
    other = tiny_keys.write_certificate(other_key, "other")
    for chain in ([root[0]], [between], [between, other]):
      with pytest.raises(errors.HubExportError, match="does not lead to .*own"):
        signing_keys.load_signer(private, own, chain)
    whole = signing_keys.load_signer(private, own, [between, root[0]])
    # As authorities deliver it, with those between in the same file.
    own.write_bytes(own.read_bytes() + between.read_bytes())
    assert signing_keys.load_signer(
        private, own, [root[0]]).chain == whole.chain

  def test_chain_and_signer_go_together(self, root):
    for arguments in ({"chain": [root[0]]},
                      {"public_key": root[0], "signer": "CN=own"}):
      with pytest.raises(errors.UsageError, match="--signer go together"):
        signing_keys.load_verifier(**arguments)

  def test_whoever_is_not_named_is_no_signer(self, root):
    certificate, = x509.load_pem_x509_certificates(root[0].read_bytes())
    named = signing_keys.Verifier("here", None, (certificate,))
    assert not named.is_signer(certificate)
    for signer, is_right in (
        (certificate.subject.rfc4514_string(), True), ("CN=", False),
        ("", False), (signing_keys.certificate_sha256(certificate), True)):
      assert dataclasses.replace(
          named, signer=signer).is_signer(certificate) == is_right

  def test_no_certificate(self, tmp_path):
    private, public = tiny_keys.write_pair(tmp_path)
    own = tiny_keys.write_certificate(private, "own")
    with pytest.raises(errors.HubExportError, match="read as a certificate"):
      signing_keys.load_signer(private, public, [own])
    with pytest.raises(errors.HubExportError, match="read as a certificate"):
      signing_keys.load_signer(private, own, [own, public])
    with pytest.raises(errors.HubExportError, match="read as a certificate"):
      signing_keys.load_verifier(chain=[public], signer="CN=own")
