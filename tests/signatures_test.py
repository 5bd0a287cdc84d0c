"""Tests of hub_export/signatures.py: signing, and every way to tamper.

What is signed here is verified by model_signing's own program, too.
"""

import base64
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing
from model_signing import signing

from hub_export import errors
from hub_export import signatures
from hub_export import signing_keys
from tests import tiny_export
from tests import tiny_keys


def _hashes(directory: pathlib.Path) -> dict[str, str]:
  return {path.relative_to(directory).as_posix():
              hashlib.sha256(path.read_bytes()).hexdigest()
          for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(name="export_dir")
def _export_dir(tmp_path: pathlib.Path) -> pathlib.Path:
  return tiny_export.make(tmp_path / "exports")


@pytest.fixture(name="pair", scope="module")
def _pair(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
  return tiny_keys.write_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(name="signer")
def _signer(pair) -> signing_keys.Signer:
  return signing_keys.load_signer(pair[0])


@pytest.fixture(name="verifier")
def _verifier(pair) -> signing_keys.Verifier:
  return signing_keys.load_verifier(pair[1])


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
  """The certificate and key of an authority."""
  key, _ = tiny_keys.write_pair(tmp_path_factory.mktemp("ca"), "authority")
  return tiny_keys.write_certificate(key, "Root"), key


@pytest.fixture(name="bundle")
def _bundle(export_dir, signer) -> bytes:
  return signatures.sign(export_dir, _hashes(export_dir), signer)


def _official(*arguments: object) -> subprocess.CompletedProcess:
  """Runs model_signing's own program."""
  return subprocess.run(
      [sys.executable, "-m", "model_signing", "verify", *map(str, arguments)],
      text=True, capture_output=True, timeout=120)


def _resigned(bundle: bytes, signer: signing_keys.Signer, change) -> bytes:
  """Returns a bundle whose statement was changed by who has the key."""
  parsed = json.loads(bundle)
  statement = json.loads(base64.b64decode(parsed["dsseEnvelope"]["payload"]))
  change(statement)
  parsed["dsseEnvelope"]["payload"] = base64.b64encode(
      json.dumps(statement).encode()).decode()
  # pylint: disable-next=protected-access
  return signatures._repeatable(parsed, signer.key)


class TestSign:

  def test_verifies_here_and_with_the_library_s_program(
      self, export_dir, bundle, pair, verifier, tmp_path):
    who = signatures.verify(bundle, _hashes(export_dir), verifier)
    assert who.name == f"key {hashlib.sha256(pair[1].read_bytes()).hexdigest()}"
    path = tmp_path / "1.sig"
    path.write_bytes(bundle)
    # As the README has it: by default, files of git's are passed over.
    arguments = ("key", export_dir, "--no-ignore-git-paths", "--signature",
                 path, "--public_key", pair[1])
    official = _official(*arguments)
    assert official.returncode == 0, official.stderr
    (export_dir / ".gitattributes").write_text("x")
    assert _official(*arguments).returncode != 0
    (export_dir / ".gitattributes").unlink()
    (export_dir / "saved_model.pb").write_bytes(b"other")
    assert _official(*arguments).returncode != 0

  @pytest.mark.parametrize("curve", [ec.SECP384R1, ec.SECP521R1])
  def test_other_curves(self, export_dir, tmp_path, curve):
    private, public = tiny_keys.write_pair(tmp_path, curve=curve)
    bundle = signatures.sign(export_dir, _hashes(export_dir),
                             signing_keys.load_signer(private))
    assert signatures.verify(bundle, _hashes(export_dir),
                             signing_keys.load_verifier(public))

  def test_same_bytes_in_every_process(self, export_dir, bundle, pair):
    code = ("import json, pathlib, sys; "
            "from hub_export import signatures, signing_keys; "
            "signer = signing_keys.load_signer(pathlib.Path(sys.argv[2])); "
            "sys.stdout.buffer.write(signatures.sign(pathlib.Path(sys.argv[1]),"
            " json.loads(sys.argv[3]), signer))")
    for seed in ("1", "2"):
      again = subprocess.run(
          [sys.executable, "-c", code, export_dir, pair[0],
           json.dumps(_hashes(export_dir))], check=True, capture_output=True,
          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path),
                            "PYTHONHASHSEED": seed}).stdout
      assert again == bundle

  def test_git_files_are_signed_too(self, export_dir, signer, verifier):
    (export_dir / ".git").mkdir()
    for name in (".gitignore", ".git/config"):
      (export_dir / name).write_text("x")
    bundle = signatures.sign(export_dir, _hashes(export_dir), signer)
    (export_dir / ".git" / "config").write_text("y")
    with pytest.raises(errors.ChecksError, match=r"^\.git/config differs; "):
      signatures.verify(bundle, _hashes(export_dir), verifier)

  def test_a_single_file(self, tmp_path, signer, verifier):
    path = tmp_path / "1.SHA256SUMS"
    path.write_bytes(b"abc")
    # FIPS 180-2's first example.
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    bundle = signatures.sign(path, {".": sha256}, signer)
    assert signatures.verify(bundle, {".": sha256}, verifier)
    with pytest.raises(errors.ChecksError, match="^its content differs; "):
      signatures.verify(bundle, {".": sha256[::-1]}, verifier)

  def test_encrypted_key_leaves_no_plain_one(self, export_dir, tmp_path,
                                             monkeypatch):
    private, public = tiny_keys.write_pair(
        tmp_path / "keys", password=tiny_keys.PASSWORD)
    monkeypatch.setenv(signing_keys.PASSWORD_VARIABLE, tiny_keys.PASSWORD)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    descriptors = os.listdir("/proc/self/fd")
    bundle = signatures.sign(export_dir, _hashes(export_dir),
                             signing_keys.load_signer(private))
    assert signatures.verify(bundle, _hashes(export_dir),
                             signing_keys.load_verifier(public))
    assert not any(b"BEGIN PRIVATE KEY" in content
                   for content in tiny_export.tree(tmp_path).values()
                   if content)
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)

  def test_an_export_that_changes_meanwhile(self, export_dir, signer):
    before = _hashes(export_dir)
    (export_dir / "fingerprint.pb").write_bytes(b"new")
    (export_dir / "more").write_bytes(b"")
    with pytest.raises(errors.HubExportError) as caught:
      signatures.sign(export_dir, before, signer)
    assert str(caught.value).splitlines() == [
        f"{export_dir} changed while it was being signed:",
        "  fingerprint.pb differs", "  more was added",
        "Look into what changes it, then sign again."]

  def test_symbolic_links_are_not_signed(self, export_dir, signer):
    (export_dir / "link").symlink_to("saved_model.pb")
    with pytest.raises(errors.HubExportError, match="cannot be signed"):
      signatures.sign(export_dir, _hashes(export_dir), signer)


class TestVerify:

  @pytest.mark.parametrize("change, problem", [
      (lambda f: f.update({"saved_model.pb": "00" * 32}),
       "saved_model.pb differs"),
      (lambda f: f.pop("assets/labels.txt"), "assets/labels.txt is missing"),
      (lambda f: f.update({"assets/evil": "00" * 32}),
       "assets/evil was added"),
      (lambda f: f.update({".git/evil": "00" * 32}), ".git/evil was added"),
      (lambda f: f.update({".gitignore": "00" * 32}), ".gitignore was added"),
      (lambda f: f.update({"a": f.pop("saved_model.pb")}),
       "a was added; saved_model.pb is missing"),
      (lambda f: f.clear(), "assets.extra/manifest.json is missing; "),
  ])
  def test_tampered_files(self, export_dir, bundle, verifier, change, problem):
    files = _hashes(export_dir)
    change(files)
    with pytest.raises(errors.ChecksError) as caught:
      signatures.verify(bundle, files, verifier)
    assert str(caught.value).startswith(problem)

  def test_another_key(self, export_dir, bundle, tmp_path):
    _, other = tiny_keys.write_pair(tmp_path, "other")
    with pytest.raises(errors.ChecksError, match="it is signed by key .*; "
                       "expected key .*, for .*other.pub"):
      signatures.verify(bundle, _hashes(export_dir),
                        signing_keys.load_verifier(other))

  def test_another_key_that_claims_to_be_the_publisher_s(
      self, export_dir, bundle, verifier, tmp_path):
    private, _ = tiny_keys.write_pair(tmp_path, "other")
    forged = json.loads(signatures.sign(
        export_dir, _hashes(export_dir), signing_keys.load_signer(private)))
    forged["verificationMaterial"] = json.loads(bundle)["verificationMaterial"]
    with pytest.raises(errors.ChecksError, match="signed by somebody else"):
      signatures.verify(json.dumps(forged).encode(), _hashes(export_dir),
                        verifier)

  def test_altered_statement(self, export_dir, bundle, signer, verifier,
                             tmp_path):
    private, _ = tiny_keys.write_pair(tmp_path, "other")
    (export_dir / "saved_model.pb").write_bytes(b"evil")
    files = _hashes(export_dir)
    forged = json.loads(bundle)
    forged["dsseEnvelope"]["payload"] = json.loads(signatures.sign(
        export_dir, files, signing_keys.load_signer(private)))[
            "dsseEnvelope"]["payload"]
    with pytest.raises(errors.ChecksError, match="its content was altered"):
      signatures.verify(json.dumps(forged).encode(), files, verifier)

  def test_a_signature_that_ignores_files_covers_them_all_the_same(
      self, export_dir, pair, verifier, tmp_path):
    # What the library's own program signs by default: .git is not looked at.
    signing.Config().use_elliptic_key_signer(
        private_key=pair[0]).set_hashing_config(
            hashing.Config().set_ignored_paths(
                paths=["assets"], ignore_git_paths=True)).sign(
                    export_dir, tmp_path / "sig")
    with pytest.raises(errors.ChecksError,
                       match="^assets/labels.txt was added; expected"):
      signatures.verify((tmp_path / "sig").read_bytes(), _hashes(export_dir),
                        verifier)

  def test_a_signature_over_parts_of_files_is_of_other_files(
      self, export_dir, pair, verifier, tmp_path):
    signing.Config().use_elliptic_key_signer(
        private_key=pair[0]).set_hashing_config(
            hashing.Config().use_shard_serialization(shard_size=8)).sign(
                export_dir, tmp_path / "sig")
    with pytest.raises(errors.ChecksError, match="was added.*expected what"):
      signatures.verify((tmp_path / "sig").read_bytes(), _hashes(export_dir),
                        verifier)

  def test_a_statement_of_another_kind(self, export_dir, bundle, signer,
                                       verifier):
    for change in (lambda s: s.update(predicateType="https://slsa.dev/x"),
                   lambda s: s.update(subject=[]),
                   lambda s: s.update(_type="https://in-toto.io/x"),
                   lambda s: s["predicate"].clear()):
      with pytest.raises(errors.ChecksError, match="it is no signature as"):
        signatures.verify(_resigned(bundle, signer, change),
                          _hashes(export_dir), verifier)

  def test_a_statement_of_the_library_s_first_versions(
      self, export_dir, bundle, signer, verifier):
    files = _hashes(export_dir)
    def old(statement):
      statement["predicateType"] = "https://model_signing/Digests/v0.1"
      statement["subject"] = [{"name": name, "digest": {"sha256": sha256}}
                              for name, sha256 in files.items()]
      del statement["predicate"]
    signed = _resigned(bundle, signer, old)
    assert signatures.verify(signed, files, verifier)
    with pytest.raises(errors.ChecksError, match="does not name these files"):
      signatures.verify(signed, files | {"more": "00" * 32}, verifier)

  @pytest.mark.parametrize("content", [
      b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000,
      b'{"verificationMaterial": {"publicKey": {}}}',
      b'{"verificationMaterial": {"x509CertificateChain": {"certificates": '
      b'[{"rawBytes": "AAAA"}]}}}'])
  def test_no_bundle_at_all(self, export_dir, verifier, content):
    with pytest.raises(errors.ChecksError, match="it is no signature as"):
      signatures.verify(content, _hashes(export_dir), verifier)

  @pytest.mark.parametrize("change", [
      lambda b: b.update(mediaType="application/json"),
      lambda b: b["verificationMaterial"].pop("publicKey"),
      lambda b: b["verificationMaterial"]["publicKey"].update(hint=""),
      lambda b: b.pop("dsseEnvelope"),
      lambda b: b["dsseEnvelope"].update(payloadType="application/json"),
      lambda b: b["dsseEnvelope"].update(payload=""),
      lambda b: b["dsseEnvelope"].update(signatures=[]),
      lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=""),
      lambda b: b["dsseEnvelope"]["signatures"][0].update(
          sig=b["dsseEnvelope"]["signatures"][0]["sig"][::-1]),
  ])
  def test_altered_bundle(self, export_dir, bundle, verifier, change):
    altered = json.loads(bundle)
    change(altered)
    with pytest.raises(errors.ChecksError):
      signatures.verify(json.dumps(altered).encode(), _hashes(export_dir),
                        verifier)


class TestCertificates:

  def test_signs_and_verifies_here_and_with_the_library_s_program(
      self, export_dir, pair, root, tmp_path):
    own = tiny_keys.write_certificate(pair[0], "Publisher", root)
    signer = signing_keys.load_signer(pair[0], own, [root[0]])
    bundle = signatures.sign(export_dir, _hashes(export_dir), signer)
    assert bundle == signatures.sign(export_dir, _hashes(export_dir), signer)
    who = signatures.verify(bundle, _hashes(export_dir),
                            signing_keys.load_verifier(
                                chain=[root[0]], signer="CN=Publisher"))
    assert who.name == "certificate CN=Publisher"
    path = tmp_path / "1.sig"
    path.write_bytes(bundle)
    official = _official("certificate", export_dir, "--signature", path,
                         "--certificate_chain", root[0])
    assert official.returncode == 0, official.stderr

  def test_encrypted_key(self, export_dir, root, tmp_path, monkeypatch):
    # The library itself takes no password beside a certificate.
    plain, _ = tiny_keys.write_pair(tmp_path)
    own = tiny_keys.write_certificate(plain, "Publisher", root)
    encrypted = tmp_path / "encrypted.pem"
    subprocess.run(["openssl", "pkey", "-in", plain, "-aes256", "-passout",
                    f"pass:{tiny_keys.PASSWORD}", "-out", encrypted],
                   check=True)
    monkeypatch.setenv(signing_keys.PASSWORD_VARIABLE, tiny_keys.PASSWORD)
    bundle = signatures.sign(
        export_dir, _hashes(export_dir),
        signing_keys.load_signer(encrypted, own, [root[0]]))
    assert signatures.verify(bundle, _hashes(export_dir),
                             signing_keys.load_verifier(
                                chain=[root[0]], signer="CN=Publisher"))

  @pytest.mark.parametrize("first, last, allowed", [
      (-1, -0.5, True), (1, 2, False)])
  def test_certificate_that_is_not_valid_now(self, export_dir, tmp_path, root,
                                             first, last, allowed):
    key, _ = tiny_keys.write_pair(tmp_path, "authority")
    # Valid as long as need be: those above count when the leaf was issued.
    root = tiny_keys.write_certificate(key, "Root", first_day=-5), key
    private, _ = tiny_keys.write_pair(tmp_path)
    own = tiny_keys.write_certificate(private, "Publisher", root,
                                      first_day=first, last_day=last)
    # load_signer refuses it; whoever has the key may not ask.
    signer = signing_keys.Signer(
        signing_keys.load_signer(private).key,
        x509.load_pem_x509_certificate(own.read_bytes()),
        tuple(x509.load_pem_x509_certificates(root[0].read_bytes())))
    bundle = signatures.sign(export_dir, _hashes(export_dir), signer)
    for allow in (False, True):
      verifier = signing_keys.load_verifier(
          chain=[root[0]], signer="CN=Publisher", allow_expired=allow)
      if allow and allowed:
        who = signatures.verify(bundle, _hashes(export_dir), verifier)
        assert f"valid to {who.not_after:%Y-%m-%d}" in who.shown
      else:
        with pytest.raises(errors.ChecksError, match="expected that to incl.*"
                           "--allow_expired"):
          signatures.verify(bundle, _hashes(export_dir), verifier)

  def test_only_the_signer_that_is_named(self, export_dir, pair, root):
    own = tiny_keys.write_certificate(pair[0], "Publisher", root)
    bundle = signatures.sign(
        export_dir, _hashes(export_dir),
        signing_keys.load_signer(pair[0], own, [root[0]]))
    certificate = x509.load_pem_x509_certificate(own.read_bytes())
    sha256 = hashlib.sha256(certificate.public_bytes(
        serialization.Encoding.DER)).hexdigest()
    for signer in ("CN=Publisher", sha256, ":".join(
        sha256[i:i + 2].upper() for i in range(0, 64, 2))):
      assert signatures.verify(
          bundle, _hashes(export_dir), signing_keys.load_verifier(
              chain=[root[0]], signer=signer)).certificate == sha256
    for signer in ("CN=Publishe", "Publisher", sha256[:-2], "00" * 32):
      with pytest.raises(errors.ChecksError,
                         match=f"expected a certificate of {signer}, for"):
        signatures.verify(bundle, _hashes(export_dir),
                          signing_keys.load_verifier(
                              chain=[root[0]], signer=signer))

  def test_certificate_of_a_web_server(self, export_dir, pair, root):
    own = tiny_keys.write_certificate(
        pair[0], "Publisher", root,
        purpose=x509.ExtendedKeyUsageOID.SERVER_AUTH)
    with pytest.raises(errors.HubExportError, match="expected codeSigning"):
      signing_keys.load_signer(pair[0], own, [root[0]])
    signer = signing_keys.Signer(
        signing_keys.load_signer(pair[0]).key,
        x509.load_pem_x509_certificate(own.read_bytes()),
        tuple(x509.load_pem_x509_certificates(root[0].read_bytes())))
    bundle = signatures.sign(export_dir, _hashes(export_dir), signer)
    with pytest.raises(errors.ChecksError, match="expected codeSigning"):
      signatures.verify(bundle, _hashes(export_dir), signing_keys.load_verifier(
          chain=[root[0]], signer="CN=Publisher"))

  def test_of_another_authority(self, export_dir, pair, root, tmp_path):
    key, _ = tiny_keys.write_pair(tmp_path, "authority")
    other = tiny_keys.write_certificate(key, "Root")  # Of the same name.
    own = tiny_keys.write_certificate(pair[0], "Publisher", root)
    bundle = signatures.sign(
        export_dir, _hashes(export_dir),
        signing_keys.load_signer(pair[0], own, [root[0]]))
    with pytest.raises(errors.ChecksError,
                       match="signed by certificate CN=Publisher, for whom "
                       ".*does not vouch"):
      signatures.verify(bundle, _hashes(export_dir),
                        signing_keys.load_verifier(
                            chain=[other], signer="CN=Publisher"))

  def test_key_and_certificate_are_not_mixed_up(self, export_dir, bundle, pair,
                                                root, verifier):
    with pytest.raises(errors.ChecksError, match="expected a certificate of CN=P"):
      signatures.verify(bundle, _hashes(export_dir),
                        signing_keys.load_verifier(
                                chain=[root[0]], signer="CN=Publisher"))
    own = tiny_keys.write_certificate(pair[0], "Publisher", root)
    by_certificate = signatures.sign(
        export_dir, _hashes(export_dir),
        signing_keys.load_signer(pair[0], own, [root[0]]))
    with pytest.raises(errors.ChecksError,
                       match="signed by certificate CN=Publisher, .*; "
                       "expected key "):
      signatures.verify(by_certificate, _hashes(export_dir), verifier)

  def test_tampered_files(self, export_dir, pair, root):
    own = tiny_keys.write_certificate(pair[0], "Publisher", root)
    files = _hashes(export_dir)
    bundle = signatures.sign(
        export_dir, files, signing_keys.load_signer(pair[0], own, [root[0]]))
    with pytest.raises(errors.ChecksError, match="^evil was added; expected"):
      signatures.verify(bundle, files | {"evil": "00" * 32},
                        signing_keys.load_verifier(
                                chain=[root[0]], signer="CN=Publisher"))
