"""Tests of verifying published modules: every way to tamper, really done.

Files are altered, removed and added on disk, in archives and behind a web
server; checks/verify.py runs as the program that it is where its messages and
exit status matter.
"""

import hashlib
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import threading

import pytest

from checks import side_files
from checks import verification
from checks import published_model
from hub_export import archive
from hub_export import errors
from hub_export import export_dirs
from hub_export import provenance
from hub_export import signatures
from hub_export import signing_keys
from hub_export import sums
from model_cards import usage
from tests import tiny_export
from tests import tiny_keys
from tests import tiny_published

_HANDLE = "local/tiny_classification/1"
_SIDES = ("1.tar.gz", "1.md", "1.checks.json", "1.intoto.json",
          "1.evaluations/pets-test.html", "1.evaluations/pets-test.worst.png")
_NEEDED = ("1.SHA256SUMS", "1.SHA256SUMS.sig", "1.sig")


@pytest.fixture(name="keys", scope="module")
def _keys(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
  return tiny_keys.write_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(name="template", scope="module")
def _template(tmp_path_factory, keys) -> pathlib.Path:
  return tiny_published.publish(tmp_path_factory.mktemp("made"), keys[0])


@pytest.fixture(name="module_dir")
def _module_dir(template, tmp_path) -> pathlib.Path:
  """A published module that may be tampered with."""
  shutil.copytree(template.parents[2], tmp_path / "published")
  return tmp_path / "published" / _HANDLE


@pytest.fixture(name="verifier")
def _verifier(keys) -> signing_keys.Verifier:
  return signing_keys.load_verifier(keys[1])


@pytest.fixture(name="server")
def _server(module_dir):
  """A web server over what is published; yields its address."""
  root = module_dir.parents[2]

  class Handler(http.server.SimpleHTTPRequestHandler):
    """As it is, but quiet, and with faults that the test asks for."""
    faults: dict[str, str] = {}

    def __init__(self, *args):
      super().__init__(*args, directory=str(root))

    def do_GET(self):
      fault = self.faults.get(self.path.rpartition("/")[2])
      if fault == "cut":
        self.send_response(200)
        self.send_header("Content-Length", "99999")
        self.end_headers()
        self.wfile.write(b"half")
      elif fault == "encoded":  # Truly, the file is gzip's.
        content = (root / self.path.lstrip("/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(content)
      elif fault:
        self.send_error(int(fault))
      else:
        super().do_GET()

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.faults = Handler.faults
    server.url = f"http://127.0.0.1:{server.server_port}/{_HANDLE}"
    try:
      yield server
    finally:
      server.shutdown()


def _verify(verifier: signing_keys.Verifier, export_dir=None, archive_path=None,
            beside=None, **options) -> verification.Verdict:
  text = lambda place: None if place is None else str(place)
  return verification.verify(
      published_model.subject(text(export_dir), text(archive_path), text(beside)),
      verifier, **options)


def _archive(module_dir: pathlib.Path) -> pathlib.Path:
  return module_dir.with_name("1.tar.gz")


def _program(*flags: object, cwd: pathlib.Path | None = None
             ) -> subprocess.CompletedProcess:
  environment = {k: v for k, v in os.environ.items()
                 if k != "BUILD_WORKING_DIRECTORY"}
  environment["PYTHONPATH"] = os.pathsep.join(sys.path)
  return subprocess.run(
      [sys.executable, "-m", "checks.verify", *map(str, flags)], text=True,
      capture_output=True, cwd=cwd, env=environment, timeout=300, check=False)


def _tamper(path: pathlib.Path) -> None:
  """Alters one bit in the middle; the size stays."""
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def _report_archive(module_dir: pathlib.Path) -> None:
  """Makes the report tell of the archive that is there now."""
  path = module_dir.with_name("1.checks.json")
  packed = _archive(module_dir).read_bytes()
  path.write_text(json.dumps(json.loads(path.read_text()) | {
      "archive": {"sha256": hashlib.sha256(packed).hexdigest(),
                  "bytes": len(packed)}}))


def _resign(module_dir: pathlib.Path, private_key: pathlib.Path) -> None:
  """Makes sums and both signatures true again of what is there now."""
  parent = module_dir.parent
  signer = signing_keys.load_signer(private_key)
  def hashes(base: pathlib.Path, paths) -> dict[str, str]:
    return {p.relative_to(base).as_posix():
                hashlib.sha256(p.read_bytes()).hexdigest()
            for p in paths if p.is_file()}
  all_files = hashes(parent, parent.rglob("*"))
  content = sums.render({k: v for k, v in all_files.items()
                         if k not in _NEEDED})
  path = parent / "1.SHA256SUMS"
  path.write_bytes(content)
  (parent / "1.SHA256SUMS.sig").write_bytes(signatures.sign(
      path, {".": hashlib.sha256(content).hexdigest()}, signer))
  (parent / "1.sig").write_bytes(signatures.sign(
      module_dir, hashes(module_dir, module_dir.rglob("*")), signer))


class TestSound:

  def test_directory_archive_and_address_give_the_same(
      self, module_dir, verifier, keys, server):
    fingerprint = hashlib.sha256(keys[1].read_bytes()).hexdigest()
    verdict = _verify(verifier, module_dir, handle=_HANDLE)
    assert (verdict.handle, verdict.signer.shown) == (
        _HANDLE, f"key {fingerprint}")
    assert verdict.num_files == len(tiny_export.FILES) + 1
    # Archive, card, report, provenance, three pictures and a page.
    assert verdict.num_beside == 8
    assert verdict.provenance.startswith("checkpoint keras:tiny, code ")
    assert _verify(verifier, None, _archive(module_dir)) == verdict
    for address in (server.url, server.url + ".tar.gz", server.url + "/",
                    server.url + "?tf-hub-format=compressed"):
      assert _verify(verifier, None, address) == verdict

  def test_a_cache_is_verified_with_the_files_of_an_address(
      self, module_dir, verifier, server, tmp_path):
    cached = tmp_path / "cache" / "0123abcd"
    shutil.copytree(module_dir, cached)
    verdict = _verify(verifier, cached, beside=server.url)
    assert (verdict.handle, verdict.num_beside) == (_HANDLE, 8)
    _tamper(cached / "saved_model.pb")
    with pytest.raises(errors.ChecksError, match="1/saved_model.pb differs"):
      _verify(verifier, cached, beside=server.url)
    with pytest.raises(errors.HubExportError, match="Say with --beside"):
      _verify(verifier, cached)

  def test_module_only_needs_just_its_signature(self, module_dir, verifier,
                                                tmp_path):
    for source in (module_dir, _archive(module_dir),
                   module_dir.with_name("1.sig")):
      copy = shutil.copytree if source.is_dir() else shutil.copy
      (tmp_path / "few").mkdir(exist_ok=True)
      copy(source, tmp_path / "few" / source.name)
    for place in ((tmp_path / "few" / "1", None),
                  (None, tmp_path / "few" / "1.tar.gz")):
      verdict = _verify(verifier, *place, module_only=True)
      assert (verdict.handle, verdict.num_beside) == (_HANDLE, None)
      with pytest.raises(errors.ChecksError, match="SHA256SUMS is missing; .*"
                         "with --module_only 1.sig alone is needed"):
        _verify(verifier, *place)

  def test_by_certificate(self, tmp_path):
    root_key, _ = tiny_keys.write_pair(tmp_path / "ca", "authority")
    root = tiny_keys.write_certificate(root_key, "Root")
    private, _ = tiny_keys.write_pair(tmp_path / "keys")
    own = tiny_keys.write_certificate(private, "Publisher", (root, root_key))
    module_dir = tiny_published.publish(tmp_path, private, (own, [root]))
    verifier = signing_keys.load_verifier(chain=[root], signer="CN=Publisher")
    verdict = _verify(verifier, module_dir)
    assert verdict.signer.name == "certificate CN=Publisher"
    _tamper(module_dir / "saved_model.pb")
    with pytest.raises(errors.ChecksError, match="1/saved_model.pb differs"):
      _verify(verifier, module_dir)

  def test_module_and_sums_by_two_certificates(self, tmp_path):
    root_key, _ = tiny_keys.write_pair(tmp_path / "ca", "authority")
    root = tiny_keys.write_certificate(root_key, "Root")
    made = []
    for name in ("one", "two"):
      private, _ = tiny_keys.write_pair(tmp_path / name)
      own = tiny_keys.write_certificate(private, "Publisher", (root, root_key))
      made.append(tiny_published.publish(tmp_path / name, private,
                                         (own, [root])))
    shutil.copy(made[1].with_name("1.sig"), made[0].with_name("1.sig"))
    with pytest.raises(errors.ChecksError, match="'signature'(.|\n)*1.sig is "
                       "signed by .*, 1.SHA256SUMS.sig by "):
      _verify(signing_keys.load_verifier(chain=[root], signer="CN=Publisher"),
              made[0])


class TestKaggle:
  """There, a version is the module with the files beside it in documents/."""

  @pytest.fixture(name="downloaded")
  def _downloaded(self, module_dir, tmp_path) -> pathlib.Path:
    downloaded = tmp_path / "models" / "owner" / "1"
    shutil.copytree(module_dir, downloaded)
    for path in list(module_dir.parent.glob("1.*")):
      copy = shutil.copytree if path.is_dir() else shutil.copy
      (downloaded / "documents").mkdir(exist_ok=True)
      if path.name != "1.tar.gz":
        copy(path, downloaded / "documents" / path.name)
    return downloaded

  def test_sound(self, downloaded, verifier):
    assert _verify(verifier, downloaded).num_beside == 7  # No archive.
    assert _verify(verifier, downloaded, module_only=True).num_files == 6
    cached = downloaded.rename(downloaded.with_name("0123abcd"))
    assert _verify(verifier, cached,
                   beside=cached / "documents" / "1").num_beside == 7

  def test_beside_kagglehub_s_own_files(self, downloaded, verifier):
    downloaded.with_name("1.complete").write_text("")
    assert _verify(verifier, downloaded).num_beside == 7

  def test_planted_beside_an_altered_publication(self, downloaded, module_dir,
                                                 verifier):
    shutil.copytree(downloaded / "documents", module_dir / "documents")
    _tamper(_archive(module_dir))
    module_dir.with_name("1.md").write_text("# Module evil")
    with pytest.raises(errors.ChecksError) as caught:
      _verify(verifier, module_dir)
    for listed in ("1.md differs", "1.tar.gz differs",
                   "1/documents/1.sig was added"):
      assert f"  {listed}\n" in str(caught.value)

  @pytest.mark.parametrize("name", [
      None, "saved_model.pb", "assets/labels.txt", "1.md",
      "1.evaluations/pets-test.html"])
  def test_commands_of_cards(self, downloaded, module_dir, name):
    handle = export_dirs.parse_handle(_HANDLE)
    is_side = name and name.startswith("1.")
    for use, where, word in (
        (usage.hub(handle), module_dir.parents[2], "PATH"),
        (usage.hugging_face(handle, "a/b"), module_dir, "DOWNLOADED"),
        (usage.kaggle(handle, "a/b/c/d"), downloaded, "DOWNLOADED")):
      side = where / "documents" if where == downloaded else module_dir.parent
      module = where if where == downloaded else module_dir
      if name:
        _tamper((side if is_side else module) / name)
      ran = subprocess.run(["sh", "-c", use.check_sums.replace(
          word, str(where))], capture_output=True, text=True)
      assert bool(ran.returncode) == bool(name), ran.stdout + ran.stderr
      if name:
        path = (side if is_side else module) / name
        _tamper(path)  # As it was.

  @pytest.mark.parametrize("name", ["documents/1.md", "saved_model.pb"])
  def test_altered_and_missing(self, downloaded, verifier, name):
    listed = name.removeprefix("documents/")
    listed = listed if listed != name else f"1/{name}"
    _tamper(downloaded / name)
    with pytest.raises(errors.ChecksError, match=f"  {listed} differs\n"):
      _verify(verifier, downloaded)
    (downloaded / name).unlink()
    with pytest.raises(errors.ChecksError, match=f"  {listed} is missing\n"):
      _verify(verifier, downloaded)

  @pytest.mark.parametrize("name, listed", [
      ("documents/evil.so", "evil.so"),
      ("documents/1/evil", "documents/1/evil"),
      ("documents/1/saved_model.pb", "documents/1/saved_model.pb"),
      ("documents/1.tar.gz", "1.tar.gz"), ("documents2/evil", "1/documents2/e"),
      ("evil", "1/evil")])
  def test_added(self, downloaded, verifier, name, listed):
    (downloaded / name).parent.mkdir(exist_ok=True)
    (downloaded / name).write_text("x")
    with pytest.raises(errors.ChecksError, match=f"  {listed}.* was added\n"):
      _verify(verifier, downloaded)


class TestTamperedFiles:

  @pytest.mark.parametrize("name", sorted(
      [*tiny_export.FILES, "assets.extra/manifest.json"]))
  def test_altered_file_of_the_module(self, module_dir, verifier, name):
    # As text, for a manifest that can still be read.
    path = module_dir / name
    path.write_bytes(path.read_bytes().replace(b"a", b"b") + b" ")
    with pytest.raises(errors.ChecksError) as caught:
      _verify(verifier, module_dir)
    assert str(caught.value).splitlines()[:-1] == [
        f"{module_dir} failed verification, check 'files':",
        f"  1/{name} differs"]
    with pytest.raises(errors.ChecksError, match="check 'signature'(.|\n)*"
                       f"does not sign the module: {name} differs; expected"):
      _verify(verifier, module_dir, module_only=True)

  def test_missing_file_of_the_module(self, module_dir, verifier):
    (module_dir / "assets" / "labels.txt").unlink()
    with pytest.raises(errors.ChecksError, match="check 'files'(.|\n)*"
                       "  1/assets/labels.txt is missing\n"):
      _verify(verifier, module_dir)
    with pytest.raises(errors.ChecksError, match="labels.txt is missing; exp"):
      _verify(verifier, module_dir, module_only=True)

  @pytest.mark.parametrize("name", ["more", ".gitignore", ".git/config",
                                    "assets.extra/tool.so", "variables/.x"])
  def test_added_file_in_the_module(self, module_dir, verifier, name):
    (module_dir / name).parent.mkdir(exist_ok=True)
    (module_dir / name).write_bytes(b"")
    with pytest.raises(errors.ChecksError, match="check 'files'(.|\n)*"
                       f"  1/{name} was added\n"):
      _verify(verifier, module_dir)
    with pytest.raises(errors.ChecksError, match=f"{name} was added; expected"):
      _verify(verifier, module_dir, module_only=True)

  def test_swapped_and_linked_files(self, module_dir, verifier):
    one, two = module_dir / "saved_model.pb", module_dir / "fingerprint.pb"
    one.rename(module_dir / "x")
    two.rename(one)
    (module_dir / "x").rename(two)
    with pytest.raises(errors.ChecksError) as caught:
      _verify(verifier, module_dir)
    assert "1/fingerprint.pb differs\n  1/saved_model.pb differs" in str(
        caught.value)

  def test_links(self, module_dir, verifier, tmp_path):
    # As in huggingface_hub's cache, each file is a link to its content.
    for number, path in enumerate(list(module_dir.parent.rglob("*"))):
      if path.is_file():
        path.rename(tmp_path / f"blob{number}")
        path.symlink_to(tmp_path / f"blob{number}")
    assert _verify(verifier, module_dir).num_beside == 8
    two = module_dir / "fingerprint.pb"
    two.unlink()
    two.symlink_to(module_dir / "saved_model.pb")
    with pytest.raises(errors.ChecksError, match="  1/fingerprint.pb differs"):
      _verify(verifier, module_dir)
    two.unlink()
    for target in (tmp_path / "nowhere", tmp_path):
      two.symlink_to(target)
      with pytest.raises(errors.HubExportError, match="neither a file nor a"):
        _verify(verifier, module_dir)
      two.unlink()

  @pytest.mark.parametrize("name", _SIDES)
  def test_altered_file_beside_the_module(self, module_dir, verifier, name):
    _tamper(module_dir.parent / name)
    with pytest.raises(errors.ChecksError, match="check 'files'(.|\n)*"
                       f"  {name} differs\n"):
      _verify(verifier, module_dir)

  @pytest.mark.parametrize("name", _SIDES)
  def test_missing_file_beside_the_module(self, module_dir, verifier, name):
    (module_dir.parent / name).unlink()
    with pytest.raises(errors.ChecksError, match="check 'files'(.|\n)*"
                       f"  {name} is missing\n"):
      _verify(verifier, module_dir)

  @pytest.mark.parametrize("name", ["1.evaluations/evil.html", "1.tflite",
                                    "1.more/evil", "1.sig.html"])
  def test_added_file_beside_the_module(self, module_dir, verifier, name):
    (module_dir.parent / name).parent.mkdir(exist_ok=True)
    (module_dir.parent / name).write_text("x")
    with pytest.raises(errors.ChecksError, match="check 'files'(.|\n)*"
                       f"  {name} was added\n"):
      _verify(verifier, module_dir)

  def test_other_versions_beside_it_are_no_concern(self, module_dir, verifier):
    for name in ("2.md", "10.sig", "11.tar.gz"):
      (module_dir.parent / name).write_text("x")
    assert _verify(verifier, module_dir).num_beside == 8

  @pytest.mark.parametrize("name", _NEEDED)
  def test_altered_and_missing_signatures(self, module_dir, verifier, name):
    path = module_dir.parent / name
    _tamper(path)
    with pytest.raises(errors.ChecksError, match="failed verification"):
      _verify(verifier, module_dir)
    path.unlink()
    with pytest.raises(errors.ChecksError, match=f"/{name} is missing; exp"):
      _verify(verifier, module_dir)

  def test_files_and_sums_altered_together(self, module_dir, verifier):
    # Whoever can write to the place alters the card and what sums it.
    card, listed = (module_dir.with_name(n) for n in ("1.md", "1.SHA256SUMS"))
    before = hashlib.sha256(card.read_bytes()).hexdigest()
    _tamper(card)
    listed.write_text(listed.read_text().replace(
        before, hashlib.sha256(card.read_bytes()).hexdigest()))
    with pytest.raises(errors.ChecksError, match="check 'signed sums'(.|\n)*"
                       "1.SHA256SUMS.sig does not sign 1.SHA256SUMS: its "
                       "content differs; expected what key"):
      _verify(verifier, module_dir)

  def test_sums_of_which_a_line_is_gone(self, module_dir, verifier):
    listed = module_dir.with_name("1.SHA256SUMS")
    listed.write_text(listed.read_text().split("\n", 1)[1])
    with pytest.raises(errors.ChecksError, match="check 'signed sums'"):
      _verify(verifier, module_dir)


class TestOtherSigners:

  @pytest.mark.parametrize("module_only", [False, True])
  def test_all_signed_anew_by_somebody_else(self, module_dir, verifier,
                                            tmp_path, module_only):
    (module_dir / "saved_model.pb").write_bytes(b"evil")
    _resign(module_dir, tiny_keys.write_pair(tmp_path, "other")[0])
    with pytest.raises(errors.ChecksError,
                       match="it is signed by key .*; expected key "):
      _verify(verifier, module_dir, module_only=module_only)
    # Though for those who believe in that key all is well with the module.
    other = signing_keys.load_verifier(tmp_path / "other.pub")
    assert _verify(other, module_dir, module_only=True).num_files == 6

  def test_signature_of_another_version(self, module_dir, verifier, keys,
                                        tmp_path):
    other = tiny_published.publish(
        tmp_path, keys[0], handle="local/tiny_classification/2")
    shutil.copy(other.with_name("2.sig"), module_dir.with_name("1.sig"))
    with pytest.raises(errors.ChecksError, match="check 'signature'(.|\n)*"
                       "manifest.json differs; expected what key"):
      _verify(verifier, module_dir)

  def test_signatures_swapped(self, module_dir, verifier):
    shutil.copy(module_dir.with_name("1.sig"),
                module_dir.with_name("1.SHA256SUMS.sig"))
    with pytest.raises(errors.ChecksError, match="check 'signed sums'"):
      _verify(verifier, module_dir)

  def test_an_old_version_in_the_place_of_a_new_one(self, module_dir, verifier,
                                                    keys):
    new = module_dir.with_name("2")
    for path in list(module_dir.parent.iterdir()):
      path.rename(path.with_name("2" + path.name[1:]))
    assert new.is_dir()
    with pytest.raises(errors.ChecksError, match="'handle'(.|\n)*"
                       f"it is {_HANDLE}, signed by its publisher, but lies "
                       "where version 2 should"):
      _verify(verifier, new, module_only=True)
    # The sums name files of version 1.
    with pytest.raises(errors.ChecksError, match="'signed sums'(.|\n)*"
                       "line 1 of 2.SHA256SUMS"):
      _verify(verifier, new)

  def test_another_module_in_its_place(self, module_dir, verifier, server):
    other = module_dir.parent.rename(module_dir.parent.with_name("other")) / "1"
    url = server.url.replace("/tiny_classification/", "/other/")
    cached = shutil.copytree(other, other.parents[3] / "0123" / "0123abcd")
    for place in ((other, None), (None, _archive(other)), (None, url),
                  (cached, None, url)):
      with pytest.raises(errors.ChecksError, match=f"it is {_HANDLE}, .*lies "
                         "where local/other/1 should.*--handle="):
        _verify(verifier, *place)
      assert _verify(verifier, *place, handle=_HANDLE).handle == _HANDLE

  def test_another_module_than_was_asked_for(self, module_dir, verifier):
    for options in ({}, {"module_only": True}):
      with pytest.raises(errors.ChecksError, match="'handle'(.|\n)*expected "
                         "local/other/1"):
        _verify(verifier, module_dir, handle="local/other/1", **options)

  @pytest.mark.parametrize("change, problem", [
      (lambda s: s["predicate"]["buildDefinition"]["resolvedDependencies"].pop(
          0), "1.intoto.json does not name checkpoint/tiny.h5"),
      (lambda s: s["subject"].pop(), "1.intoto.json names 1/variables"),
  ])
  def test_signed_but_untrue_provenance(self, module_dir, verifier, keys,
                                        change, problem):
    path = module_dir.with_name("1.intoto.json")
    statement = json.loads(path.read_text())
    change(statement)
    path.write_text(json.dumps(statement))
    _resign(module_dir, keys[0])
    with pytest.raises(errors.ChecksError,
                       match=f"check 'provenance'(.|\n)*  {problem}"):
      _verify(verifier, module_dir)

  def test_signed_report_of_another_archive(self, module_dir, verifier, keys):
    path = module_dir.with_name("1.checks.json")
    report = json.loads(path.read_text())
    path.write_text(json.dumps(report | {"archive": {"sha256": "ab" * 32}}))
    _resign(module_dir, keys[0])
    with pytest.raises(errors.ChecksError, match="check 'files'(.|\n)*1.checks"
                       ".json says that the archive's sha256 is abab"):
      _verify(verifier, module_dir)

  @pytest.mark.parametrize("content", [None, b"[]", b"{}", b"\xff", b"[" * 9999,
                                       b'{"handle": 1}', b'{"handle": "x"}'])
  def test_signed_but_no_export(self, module_dir, verifier, keys, content):
    path = module_dir / "assets.extra" / "manifest.json"
    path.unlink() if content is None else path.write_bytes(content)
    archive.write(_archive(module_dir), module_dir)
    _report_archive(module_dir)
    _resign(module_dir, keys[0])
    for place in ((module_dir, None), (None, _archive(module_dir))):
      with pytest.raises(errors.ChecksError, match="it has no assets.extra/"):
        _verify(verifier, *place)

  @pytest.mark.parametrize("suffix", [provenance.SUFFIX, ".tar.gz"])
  def test_signed_sums_without_what_they_must_name(self, module_dir, verifier,
                                                   keys, suffix):
    module_dir.with_name("1" + suffix).unlink()
    _resign(module_dir, keys[0])
    with pytest.raises(errors.ChecksError, match=f"1{suffix}"):
      _verify(verifier, module_dir)


class TestArchives:

  def test_altered_archive(self, module_dir, verifier):
    _tamper(_archive(module_dir))
    with pytest.raises(errors.ChecksError, match="check 'files'(.|\n)*"
                       "1.tar.gz differs: its sha256 is"):
      _verify(verifier, None, _archive(module_dir))

  def test_archive_is_not_opened_before_it_is_known(self, module_dir, verifier,
                                                    monkeypatch):
    def never(*_):
      raise AssertionError("opened")
    _archive(module_dir).write_bytes(b"bomb")
    monkeypatch.setattr(archive, "file_sha256s", never)
    with pytest.raises(errors.ChecksError, match="1.tar.gz differs"):
      _verify(verifier, None, _archive(module_dir))

  def test_other_content_packed_as_well(self, module_dir, verifier, tmp_path):
    shutil.copytree(module_dir, tmp_path / "evil")
    (tmp_path / "evil" / "assets.extra" / "run.so").write_bytes(b"evil")
    archive.write(_archive(module_dir), tmp_path / "evil")
    with pytest.raises(errors.ChecksError, match="1.tar.gz differs"):
      _verify(verifier, None, _archive(module_dir))
    with pytest.raises(errors.ChecksError, match="check 'signature'(.|\n)*"
                       "assets.extra/run.so was added; expected what key"):
      _verify(verifier, None, _archive(module_dir), module_only=True)

  def test_links_in_an_archive(self, module_dir, verifier):
    with tarfile.open(_archive(module_dir), "w:gz") as tar:
      link = tarfile.TarInfo("saved_model.pb")
      link.type = tarfile.SYMTYPE
      link.linkname = "/etc/passwd"
      tar.addfile(link)
    with pytest.raises(errors.HubExportError,
                       match="saved_model.pb is neither file nor directory"):
      _verify(verifier, None, _archive(module_dir), module_only=True)

  def test_archive_that_is_none(self, module_dir, verifier):
    _archive(module_dir).write_bytes(b"none")
    with pytest.raises(errors.HubExportError, match="1.tar.gz cannot be read"):
      _verify(verifier, None, _archive(module_dir), module_only=True)


class TestAddresses:

  @pytest.mark.parametrize("name, found", [
      ("1.tar.gz", "1.tar.gz differs: its sha256 is"),
      ("1.md", "1.md differs"),
      ("1.evaluations/pets-test.html", "1.evaluations/pets-test.html differs"),
      ("1.SHA256SUMS", "check 'signed sums'"), ("1.sig", "failed verification"),
  ])
  def test_altered_and_missing(self, module_dir, verifier, server, name, found):
    _tamper(module_dir.parent / name)
    with pytest.raises(errors.ChecksError, match=found):
      _verify(verifier, None, server.url)
    (module_dir.parent / name).unlink()
    with pytest.raises(errors.HubExportError, match=f"{name} is missing"):
      _verify(verifier, None, server.url)

  @pytest.mark.parametrize("name", ["1.tar.gz", "1.SHA256SUMS", "1.md"])
  @pytest.mark.parametrize("fault, problem", [
      ("403", "the server answers 403 Forbidden; expected 200"),
      ("cut", "1.* cannot be read \\(ProtocolError\\)")])
  def test_faults_of_the_server(self, verifier, server, name, fault, problem):
    server.faults[name] = fault
    with pytest.raises(errors.HubExportError, match=problem):
      _verify(verifier, None, server.url)

  def test_a_server_that_recovers_and_one_that_does_not(
      self, verifier, server, monkeypatch):
    monkeypatch.setattr(side_files, "_BACKOFF_S", 0)
    server.faults["1.sig"] = "500"
    with pytest.raises(errors.HubExportError, match="1.sig cannot be read: the "
                       "server answers 500"):
      _verify(verifier, None, server.url)
    asked = []
    class Once(dict):
      def get(self, key, default=None):
        asked.append(key)
        return "503" if key == "1.sig" and asked.count(key) < 3 else default
    handler = server.RequestHandlerClass
    monkeypatch.setattr(handler, "faults", Once())
    assert _verify(verifier, None, server.url).handle == _HANDLE
    assert asked.count("1.sig") == 3

  def test_a_server_that_calls_the_archive_an_encoding(self, verifier, server):
    # Clients would unpack it on the way; some buckets' files are marked so.
    server.faults["1.tar.gz"] = "encoded"
    assert _verify(verifier, None, server.url).handle == _HANDLE

  def test_nobody_listens(self, verifier):
    with pytest.raises(errors.HubExportError,
                       match="cannot be read \\(ConnectionError\\)"):
      _verify(verifier, None, "http://127.0.0.1:9/local/tiny/1")

  def test_passwords_are_not_shown(self, verifier):
    with pytest.raises(errors.HubExportError) as caught:
      _verify(verifier, None, "http://me:hunter2@127.0.0.1:9/local/tiny/1")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(errors.UsageError, match="with a query") as caught:
      published_model.subject(None, "https://h/a/1.tar.gz?Signature=hunter2", None)
    assert "hunter2" not in str(caught.value)

  def test_large_side_files_are_not_read(self, module_dir, verifier, server,
                                         monkeypatch):
    monkeypatch.setattr(side_files, "_MOST_BYTES", 2000)
    for place in ((module_dir, None), (None, server.url)):
      with pytest.raises(errors.HubExportError, match="SHA256SUMS.*small file"):
        with module_dir.with_name("1.SHA256SUMS").open("a") as f:
          f.write("x" * 2000)
        _verify(verifier, *place)


class TestProgram:

  def test_verified_and_not(self, module_dir, keys):
    flags = (f"--public_key={keys[1]}", "--export_dir=local/"
             "tiny_classification/1", f"--handle={_HANDLE}")
    ran = _program(*flags, cwd=module_dir.parents[2])
    assert ran.returncode == 0 and not ran.stderr
    fingerprint = hashlib.sha256(keys[1].read_bytes()).hexdigest()
    assert ran.stdout.startswith(
        f"{_HANDLE}: verified\n"
        f"  signed by   key {fingerprint}\n"
        "  module      6 files, just those that were signed\n"
        "  beside it   8 files, as published\n"
        "  provenance  checkpoint keras:tiny, code ")
    _tamper(module_dir / "saved_model.pb")
    ran = _program(*flags, cwd=module_dir.parents[2])
    assert ran.returncode == 1 and not ran.stdout
    assert ran.stderr == (
        "verify: local/tiny_classification/1 failed verification, check "
        "'files':\n  1/saved_model.pb differs\nDo not use it. Get all of it "
        "again from where it is published, or ask its publisher.\n")

  @pytest.mark.parametrize("flags, status, message", [
      (["--public_key=key.pub"], 2, "expected one of --export_dir and"),
      (["--public_key=key.pub", "--export_dir=1", "--archive=1.tar.gz"], 2,
       "expected one of --export_dir and"),
      (["--export_dir=there/1"], 2, "public key or a chain"),
      (["--export_dir=there/1", "--public_key=none.pub"], 1, "No such file"),
      (["--export_dir=there/1", "--handle=one"], 1, "'one' is not a handle"),
      (["--export_dir=https://h/a/b/1"], 2, "For an address give --archive"),
      (["--archive=gs://bucket/a/b/1"], 2, "no address that can be verified"),
      (["--archive=https://h/a/b/1", "--beside=there/1"], 2, "--beside was"),
      (["--export_dir=nowhere/1"], 1, "nowhere/1 is no directory"),
      (["--archive=there/1"], 1, "there/1 is no file"),
      (["--export_dir=there"], 1, "there does not end in a version"),
      (["--export_dir=there/01"], 1, "there/01 does not end in a version"),
  ])
  def test_wrong_usage_and_input(self, tmp_path, flags, status, message):
    (tmp_path / "there" / "1").mkdir(parents=True)
    (tmp_path / "there" / "01").mkdir()
    ran = _program(*flags, cwd=tmp_path)
    assert ran.returncode == status
    assert message in ran.stderr and ran.stderr.startswith("verify: ")
    assert "Traceback" not in ran.stderr

  def test_starts_without_what_takes_long_to_import(self):
    code = ("import sys; from checks import verify; "
            "print({'tensorflow', 'model_signing', 'cryptography'}"
            " & set(sys.modules))")
    ran = subprocess.run([sys.executable, "-c", code], check=True, text=True,
                         capture_output=True,
                         env=os.environ | {"PYTHONPATH": os.pathsep.join(
                             sys.path)})
    assert ran.stdout == "set()\n"
