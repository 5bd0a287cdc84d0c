"""Tests of what makes a publication verifiable, its sums and provenance.

`sha256sum -c` and hashlib say what is right.
"""

import hashlib
import json
import pathlib
import shutil
import subprocess

import pytest

from hub_export import archive
from hub_export import errors
from hub_export import provenance
from hub_export import signing_keys
from hub_export import sums
from hub_export import trust
from tests import tiny_export
from tests import tiny_keys
from tests import tiny_published

_VERSION = "1"


@pytest.fixture(name="export_dir")
def _export_dir(tmp_path: pathlib.Path) -> pathlib.Path:
  export_dir = tiny_export.make(tmp_path / "exports")
  tiny_export.write_attachments(export_dir)
  return export_dir


def _statement(export_dir: pathlib.Path) -> dict:
  made = dict(trust.trusted_documents(export_dir, ()))
  return json.loads(made["1.intoto.json"])


class TestTrustedDocuments:

  def test_names_with_and_without_signer(self, export_dir, tmp_path):
    signer = signing_keys.load_signer(tiny_keys.write_pair(tmp_path)[0])
    before = tiny_export.tree(export_dir.parent)
    unsigned = trust.trusted_documents(export_dir, ())
    signed = trust.trusted_documents(export_dir, (), signer)
    assert [name for name, _ in unsigned] == ["1.intoto.json", "1.SHA256SUMS"]
    assert signed[:2] == unsigned
    assert [name for name, _ in signed[2:]] == ["1.sig", "1.SHA256SUMS.sig"]
    assert signed == trust.trusted_documents(export_dir, (), signer)
    assert tiny_export.tree(export_dir.parent) == before

  def test_archive_sha256_is_taken_as_given(self, export_dir, monkeypatch):
    def never(_):
      raise AssertionError("packed")
    expected = trust.trusted_documents(export_dir, ())
    sha256, _ = archive.sha256(export_dir)
    monkeypatch.setattr(archive, "sha256", never)
    assert trust.trusted_documents(
        export_dir, (), archive_sha256=sha256) == expected


class TestSums:

  @pytest.fixture(name="module_dir")
  def _module_dir(self, tmp_path) -> pathlib.Path:
    return tiny_published.publish(tmp_path, None)

  def _check(self, module_dir: pathlib.Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["sha256sum", "--strict", "--check", "1.SHA256SUMS"], text=True,
        cwd=module_dir.parent, capture_output=True, check=False)

  def test_sha256sum_finds_all_files_right(self, module_dir):
    checked = self._check(module_dir)
    assert checked.returncode == 0, checked.stderr
    named = {line.removesuffix(": OK") for line in checked.stdout.splitlines()}
    there = {path.relative_to(module_dir.parent).as_posix()
             for path in module_dir.parent.rglob("*") if path.is_file()}
    assert named == there - {"1.SHA256SUMS"}
    assert {"1.tar.gz", "1.md", "1.checks.json", "1.intoto.json",
            "1.evaluations/pets-test.html", "1/saved_model.pb"} <= named

  def test_sha256sum_finds_a_change(self, module_dir):
    (module_dir / "saved_model.pb").write_bytes(b"evil")
    checked = self._check(module_dir)
    assert checked.returncode == 1
    assert "1/saved_model.pb: FAILED" in checked.stdout

  def test_form_and_way_back(self):
    hashes = {"1/b": "0b" * 32, "1.tar.gz": "0a" * 32, "1/ü  *": "0c" * 32}
    content = sums.render(hashes)
    assert content.decode() == (
        f"{'0a' * 32}  1.tar.gz\n{'0b' * 32}  1/b\n{'0c' * 32}  1/ü  *\n")
    assert sums.parse(content, _VERSION) == hashes
    binary = content.replace(b"  1/b", b" *1/b")  # `sha256sum --binary`.
    assert sums.parse(binary, _VERSION) == hashes

  @pytest.mark.parametrize("name", ["a\nb", "a\\b", "a\rb", "a\0b", ""])
  def test_names_that_cannot_be_listed(self, name):
    with pytest.raises(errors.HubExportError, match="cannot be a file of a"):
      sums.render({name: "00" * 32})

  @pytest.mark.parametrize("name", [
      "../1/a", "1/../../a", "/etc/passwd", "2/a", "2.md", "1", "10.md", "1//a",
      "./1/a", "1/", "", "a\\b", "1/a\tb"])
  def test_names_outside_the_version_are_refused(self, name):
    content = f"{'00' * 32}  1/a\n{'00' * 32}  {name}\n".encode()
    with pytest.raises(errors.ChecksError, match="line 2 of 1.SHA256SUMS"):
      sums.parse(content, _VERSION)

  @pytest.mark.parametrize("line", [
      "1/a", "00  1/a", f"{'0g' * 32}  1/a", f"{'00' * 32} 1/a",
      f"\\{'00' * 32}  1/a", "", f"{'00' * 32}  1/z"])
  def test_lines_of_another_form(self, line):
    content = f"{'00' * 32}  1/z\n{line}\n".encode()
    with pytest.raises(errors.ChecksError, match="line 2 of 1.SHA256SUMS"):
      sums.parse(content, _VERSION)

  def test_cut_off(self):
    with pytest.raises(errors.ChecksError, match="no end of line"):
      sums.parse(f"{'00' * 32}  1/ab".encode(), _VERSION)


class TestProvenance:

  def test_is_an_in_toto_statement_with_slsa_provenance(self, export_dir):
    content = _statement(export_dir)
    # https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    assert content["predicateType"] == "https://slsa.dev/provenance/v1"
    assert set(content["predicate"]) == {"buildDefinition", "runDetails"}
    build = content["predicate"]["buildDefinition"]
    assert {"buildType", "externalParameters",
            "resolvedDependencies"} <= set(build)
    assert content["predicate"]["runDetails"]["builder"]["id"]

  def test_subjects_are_module_and_archive(self, export_dir, tmp_path):
    archive.write(tmp_path / "1.tar.gz", export_dir)
    expected = {f"1/{path.relative_to(export_dir).as_posix()}":
                    hashlib.sha256(path.read_bytes()).hexdigest()
                for path in export_dir.rglob("*") if path.is_file()}
    expected["1.tar.gz"] = hashlib.sha256(
        (tmp_path / "1.tar.gz").read_bytes()).hexdigest()
    assert {s["name"]: s["digest"]["sha256"]
            for s in _statement(export_dir)["subject"]} == expected

  def test_names_checkpoint_code_and_lock(self, export_dir):
    build = _statement(export_dir)["predicate"]["buildDefinition"]
    assert build["externalParameters"]["handle"] == tiny_export.HANDLE
    assert build["externalParameters"]["checkpoint"] == "keras:tiny"
    digests = {d["name"]: d["digest"] for d in build["resolvedDependencies"]}
    assert digests["checkpoint/tiny.h5"] == {"sha256": "8a5f" * 16}
    root = pathlib.Path(provenance.__file__).resolve().parents[1]
    lock = root / "tools" / "python" / "requirements.txt"
    assert digests["tools/python/requirements.txt"] == {
        "sha256": hashlib.sha256(lock.read_bytes()).hexdigest()}
    # As the statement itself says how: with find and sha256sum.
    printed = subprocess.run(
        "find hub_export checks model_cards -type f -not -path '*/__pycache__/*'"
        " | LC_ALL=C sort | tr '\\n' '\\0' | xargs -0 sha256sum | sha256sum",
        shell=True, cwd=root, check=True, capture_output=True, text=True).stdout
    assert digests["code"]["sha256"] == printed.split()[0]

  def test_revision_is_that_of_git(self, tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
      return subprocess.run(
          ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b",
           *arguments], check=True, capture_output=True, text=True).stdout
    def code(directory: pathlib.Path) -> dict:
      path = directory / "hub_export" / "provenance.py"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text("")
      lock = directory / "tools" / "python" / "requirements.txt"
      lock.parent.mkdir(parents=True, exist_ok=True)
      lock.write_text("numpy==2\n")
      monkeypatch.setattr(provenance, "__file__", str(path))
      # pylint: disable-next=protected-access
      return provenance._code.__wrapped__()
    assert code(tmp_path)["revision"] is None
    assert code(tmp_path)["is_modified"] is None
    if not shutil.which("git"):
      return  # A machine without it: there is no more to be told than that.
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "First")
    commit = git("rev-parse", "HEAD").strip()
    assert (code(tmp_path)["revision"], code(tmp_path)["is_modified"]) == (
        commit, False)
    first = code(tmp_path)["source_sha256"]
    (tmp_path / "hub_export" / "more.py").write_text("x = 1\n")
    assert code(tmp_path)["is_modified"] is True
    assert code(tmp_path)["source_sha256"] != first
    # Somebody else's repository around it says nothing of this code.
    assert code(tmp_path / "vendored")["revision"] is None

  def test_code_is_that_of_the_export_where_it_was_noted(
      self, export_dir, monkeypatch):
    then = {"version": "0.0.9", "revision": "ab" * 20, "is_modified": False,
            "source_sha256": "cd" * 32, "lock_sha256": "ef" * 32}
    unnoted = _statement(export_dir)["predicate"]["buildDefinition"]
    assert unnoted["internalParameters"]["code_noted_at"] == "publish"
    with monkeypatch.context() as patch:
      patch.setattr(provenance, "_code", lambda: then)
      provenance.record(export_dir)
    provenance.record(export_dir)  # Keeps what was noted of these bytes.
    predicate = _statement(export_dir)["predicate"]
    build = predicate["buildDefinition"]
    assert build["internalParameters"]["code_noted_at"] == "export"
    digests = {d["name"]: d["digest"] for d in build["resolvedDependencies"]}
    assert digests["code"] == {"sha256": "cd" * 32, "gitCommit": "ab" * 20}
    assert digests["tools/python/requirements.txt"] == {"sha256": "ef" * 32}
    assert predicate["runDetails"]["builder"]["version"] == {
        "regnety_hub": "0.0.9"}

  def test_note_of_other_bytes(self, export_dir):
    provenance.record(export_dir)
    (export_dir / "saved_model.pb").write_bytes(b"exported again")
    with pytest.raises(errors.HubExportError, match="1.build.json is of an exp"
                       "ort with sha256 .*Export again"):
      trust.trusted_documents(export_dir, ())
    provenance.record(export_dir)
    assert trust.trusted_documents(export_dir, ())

  @pytest.mark.parametrize("content", ["", "{}", "[]"])
  def test_damaged_note(self, export_dir, content):
    export_dir.with_name("1.build.json").write_text(content)
    with pytest.raises(errors.HubExportError, match="1.build.json.*xport"):
      trust.trusted_documents(export_dir, ())


  def test_summary(self, export_dir, monkeypatch):
    then = {"version": "0.0.9", "revision": "ab" * 20, "is_modified": True,
            "source_sha256": "cd" * 32, "lock_sha256": "ef" * 32}
    monkeypatch.setattr(provenance, "_code", lambda: then)
    def summary() -> str:
      return provenance.summary(json.dumps(_statement(export_dir)).encode())
    assert summary() == ("checkpoint keras:tiny, code abababababab with "
                         "changes, lock efefefefefef")
    then.update(revision=None, is_modified=None)
    assert summary() == ("checkpoint keras:tiny, code of no commit (sha256 "
                         "cdcdcdcdcdcd), lock efefefefefef")


class TestProblems:

  def _problems(self, export_dir: pathlib.Path, change=lambda s: None
                ) -> list[str]:
    content = _statement(export_dir)
    change(content)
    files = {path.relative_to(export_dir).as_posix():
                 hashlib.sha256(path.read_bytes()).hexdigest()
             for path in export_dir.rglob("*") if path.is_file()}
    return provenance.problems(
        json.dumps(content).encode(), _VERSION, files,
        archive.sha256(export_dir)[0],
        json.loads((export_dir / "assets.extra/manifest.json").read_text()))

  def test_none_with_a_true_one(self, export_dir):
    assert not self._problems(export_dir)

  @pytest.mark.parametrize("change, problem", [
      (lambda s: s.update(_type="x"), "_type is 'x'; expected"),
      (lambda s: s.update(predicateType="x"), "predicateType is 'x'; expected"),
      (lambda s: s["subject"].pop(0), "names 1.tar.gz with another hash or"),
      (lambda s: s["subject"][1]["digest"].update(sha256="00" * 32),
       "names 1/assets.extra/manifest.json with another"),
      (lambda s: s["subject"].append(
          {"name": "1/more", "digest": {"sha256": "00" * 32}}),
       "names 1/more with another hash or not at all, or it is not there"),
      (lambda s: s["predicate"]["buildDefinition"]["externalParameters"].update(
          handle="local/other/1"), "is on local/other/1; expected local/tiny"),
      (lambda s: s["predicate"]["buildDefinition"]["resolvedDependencies"].pop(
          0), "does not name checkpoint/tiny.h5 of the checkpoint"),
      (lambda s: s["predicate"]["buildDefinition"]["resolvedDependencies"][
          0]["digest"].update(sha256="00" * 32),
       "does not name checkpoint/tiny.h5 of the checkpoint with its hash"),
      (lambda s: s["predicate"]["buildDefinition"]["resolvedDependencies"].pop(
          1), "names no sha256 of code"),
      (lambda s: s["predicate"]["buildDefinition"]["resolvedDependencies"].pop(
          2), "names no sha256 of tools/python/requirements.txt"),
      (lambda s: s.pop("subject"), "is no statement of where a module comes"),
      (lambda s: s.update(predicate=[]), "is no statement of where a module"),
  ])
  def test_each(self, export_dir, change, problem):
    problems = self._problems(export_dir, change)
    assert len(problems) == 1 and problems[0].startswith(problem)
