"""Tests of publishing to remote places: what lies there, and what is refused.

Every test runs against all places, each a real server on loopback that the
place's own client talks to.
"""

import dataclasses
import io
import json
import pathlib
import tarfile

import pytest

from hub_export import archive
from hub_export import destinations
from hub_export import errors
from hub_export import forms
from hub_export import releases
from hub_export import trust
from hub_export.destinations import base
from tests import loopback
from tests import places
from tests import tiny_export


@pytest.fixture(name="place", params=places.NAMES)
def _place(request, monkeypatch, tmp_path):
  with places.running(request.param, monkeypatch, tmp_path / "home") as place:
    yield place


@pytest.fixture(name="export_dir")
def _export_dir(tmp_path):
  return _export(tmp_path / "exports")


def _export(output_dir: pathlib.Path, version: int = 1,
            graph: bytes = b"graph" * 40, name: str = "tiny_classification"
            ) -> pathlib.Path:
  export_dir = tiny_export.make(
      output_dir, f"local/{name}/{version}",
      tiny_export.FILES | {"saved_model.pb": graph})
  tiny_export.write_attachments(export_dir)
  return export_dir


def _put(place: places.Place, export_dir: pathlib.Path, spot: str = "spot"
         ) -> base.Outcome:
  """Publishes as a process of its own would, with nothing remembered."""
  return destinations.choose(place.to(spot)).put(releases.read(export_dir))


def _assert_published(place: places.Place, export_dir: pathlib.Path,
                      spot: str = "spot") -> None:
  """Asserts that all of the release lies there, and nothing else."""
  found = place.files(spot, int(export_dir.name))
  if place.name == "hf":  # Has all versions in one table.
    found = {name: content for name, content in found.items()
             if name.startswith((f"{export_dir.name}/", f"{export_dir.name}."))}
  elif place.name != "kaggle":
    found = {name: content for name, content in found.items()
             if name.partition("/")[0].partition(".")[0] == export_dir.name}
  archive = found.get(f"{export_dir.name}.tar.gz")
  if archive is not None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
      packed = {m.name: tar.extractfile(m).read() if m.isfile() else None
                for m in tar}
    assert packed == tiny_export.tree(export_dir)
    found[f"{export_dir.name}.tar.gz"] = b""
  assert found == places.expected(export_dir, place.name)


class TestPut:

  def test_all_is_there_and_reads_back(self, place, export_dir):
    destination = destinations.choose(place.to())
    release = releases.read(export_dir)
    assert not destination.exists(release.handle)
    assert destination.put(release) is base.Outcome.PUBLISHED
    _assert_published(place, export_dir)
    destination.verify(release)
    assert destination.exists(release.handle)
    assert destination.is_remote

  @pytest.mark.parametrize("form", ["main", *tiny_export.FORMS])
  def test_every_form(self, place, tmp_path, form):
    export_dir = (tiny_export.make(tmp_path / "forms") if form == "main" else
                  tiny_export.make_form(tmp_path / "forms", form))
    release = releases.read(export_dir)
    to = place.to(framework=forms.by_name(form).framework)
    assert destinations.choose(to).put(release) is base.Outcome.PUBLISHED
    destinations.choose(to).verify(release)
    assert destinations.choose(to).exists(release.handle)
    assert destinations.choose(to).put(release) is base.Outcome.UNCHANGED
    if place.name == "kaggle":
      assert place.application.variations["lab/spot/tiny"]["fineTunable"] == (
          form == "main")

  def test_a_second_run_writes_nothing(self, place, export_dir):
    _put(place, export_dir)
    before = place.writes()
    assert _put(place, export_dir) is base.Outcome.UNCHANGED
    assert place.writes() == before

  def test_other_bytes_under_a_published_version_are_refused(
      self, place, export_dir, tmp_path):
    _put(place, export_dir)
    other = _export(tmp_path / "other", graph=b"graph" * 39 + b"grave")
    before = place.writes()
    destination = destinations.choose(place.to())
    for call in (destination.put, destination.plan, destination.verify):
      with pytest.raises(errors.HubExportError) as caught:
        call(releases.read(other))
      assert "is published already with other bytes" in str(caught.value)
      assert tiny_export.digest(export_dir) in str(caught.value)
      assert "Export a new version" in str(caught.value)
    assert place.writes() == before
    _assert_published(place, export_dir)

  def test_a_plan_changes_nothing_and_is_what_happens(self, place, export_dir):
    release = releases.read(export_dir)
    plan = destinations.choose(place.to()).plan(release)
    assert plan.outcome is base.Outcome.PUBLISHED
    assert plan.others == {
        "hf": ("hf://lab/spot, a repository",),
        "kaggle": ("kaggle://lab/spot, a private model",
                   "kaggle://lab/spot/tensorFlow2/tiny (its card)")}.get(
                       place.name, ())
    assert place.writes() == 0
    assert all(where.startswith(place.to()) for where, _ in plan.writes)
    _put(place, export_dir)
    sizes = sorted(len(c) for c in place.files().values())
    planned = sorted(size for where, size in plan.writes
                     if not where.endswith("README.md"))
    assert planned == sizes
    plan = destinations.choose(place.to()).plan(release)
    assert plan == base.Plan(base.Outcome.UNCHANGED)

  def test_the_card_and_report_of_the_same_bytes_are_renewed(
      self, place, export_dir):
    _put(place, export_dir)
    tiny_export.write_report(export_dir, metrics=tiny_export.metrics() | {
        "mean_confidence": 91.25})
    tiny_export.write_card(export_dir)
    assert destinations.choose(place.to()).plan(
        releases.read(export_dir)).outcome is base.Outcome.RENEWED
    assert _put(place, export_dir) is base.Outcome.RENEWED
    assert _put(place, export_dir) is base.Outcome.UNCHANGED
    destinations.choose(place.to()).verify(releases.read(export_dir))
    if place.name == "kaggle":  # Whose versions never change.
      assert "91.25" in place.application.variations["lab/spot/tiny"]["usage"]
    else:
      _assert_published(place, export_dir)

  def test_documents_are_added_and_a_signature_is_kept(
      self, place, export_dir):
    release = releases.with_documents(
        releases.read(export_dir),
        [("1.SHA256SUMS", b"hash  file\n"), ("1.sig", b"{}")])
    destinations.choose(place.to()).put(release)
    assert place.files()["1.SHA256SUMS"] == b"hash  file\n"
    if place.name == "kaggle":
      return
    def without(suffix):
      return dataclasses.replace(release, documents=tuple(
          d for d in release.documents if not d[0].endswith(suffix)))

    with pytest.raises(errors.HubExportError, match="with a signature"):
      destinations.choose(place.to()).put(without(".sig"))
    assert destinations.choose(place.to()).put(without(".SHA256SUMS")) is (
        base.Outcome.RENEWED)
    assert [name for name in sorted(place.files())
            if name.startswith("1.") and "/" not in name
            ] == ["1.checks.json", "1.md", "1.sig", "1.tar.gz"]

  def test_another_key_does_not_replace_a_signature(self, place, export_dir):
    if place.name == "kaggle":
      return  # Nothing of a version is replaced there.
    def signed(key: str) -> releases.Release:
      bundle = {"verificationMaterial": {"publicKey": {"hint": key}}}
      return releases.with_documents(
          releases.read(export_dir), [("1.sig", json.dumps(bundle).encode())])

    destinations.choose(place.to()).put(signed("a"))
    for name in ("plan", "put"):
      with pytest.raises(errors.HubExportError, match="by key a, and now key b "
                         "signs.*--replace_signature"):
        getattr(destinations.choose(place.to()), name)(signed("b"))
    assert json.loads(place.files()["1.sig"])["verificationMaterial"][
        "publicKey"]["hint"] == "a"

  def test_the_next_version_stands_beside_it(self, place, export_dir):
    two = _export(export_dir.parents[2], 2, b"two")
    assert _put(place, export_dir) is base.Outcome.PUBLISHED
    assert _put(place, two) is base.Outcome.PUBLISHED
    for path in (export_dir, two):
      _assert_published(place, path)
      assert _put(place, path) is base.Outcome.UNCHANGED

  def test_a_missing_bucket_or_a_wrong_number_is_told(
      self, place, export_dir):
    to, fault = {
        "s3": ("s3://other/x", "does not know it"),
        "gs": ("gs://other/x", "does not know it"),
        "hf": ("hf://lab", "names no repository"),
        "kaggle": ("kaggle://lab/spot/pyTorch/tiny", "names no variation"),
    }[place.name]
    with pytest.raises(errors.HubExportError, match=fault):
      destinations.choose(to).put(releases.read(export_dir))


class TestOnePlaceHoldsOneModule:

  @pytest.fixture(name="place", params=["hf", "kaggle"])
  def _place(self, request, monkeypatch, tmp_path):
    with places.running(request.param, monkeypatch, tmp_path / "home") as p:
      yield p

  def test_another_module_is_refused(self, place, export_dir, tmp_path):
    _put(place, export_dir)
    other = _export(tmp_path / "other", 2, name="tiny_other")
    with pytest.raises(errors.HubExportError) as caught:
      _put(place, other)
    assert "holds local/tiny_classification/1" in str(caught.value)
    assert "expected versions of local/tiny_other only" in str(caught.value)

  def test_the_readme_or_usage_is_the_newest_versions(
      self, place, export_dir):
    two = _export(export_dir.parents[2], 2, b"two")
    _put(place, export_dir)
    _put(place, two)
    card = (place.application.files("lab/spot")["README.md"].decode()
            if place.name == "hf" else
            place.application.variations["lab/spot/tiny"]["usage"])
    assert "local/tiny_classification/2" in card
    # Publishing the first one again does not bring its card back.
    assert _put(place, export_dir) is base.Outcome.UNCHANGED


class TestHuggingFace:

  def test_another_model_is_left_alone(
      self, monkeypatch, tmp_path, export_dir):
    with places.running("hf", monkeypatch, tmp_path / "home") as place:
      files = {".gitattributes": b"", "README.md": b"---\na: b\n---\n# Mine"}
      place.application.commit("lab/spot", files)
      for more in ({}, {"model.safetensors": b"weights"}):
        place.application.commit("lab/spot", files | more)
        with pytest.raises(errors.HubExportError,
                           match="expected an empty repository"):
          _put(place, export_dir)
      # As the Hub makes one that is given a licence.
      place.application.commit("lab/spot", files | {
          "README.md": b"---\nlicense: mit\n---\n"})
      assert _put(place, export_dir) is base.Outcome.PUBLISHED
      # Version 1 of another module is of the wrong module, not taken.
      with pytest.raises(errors.HubExportError, match="repository of its own"):
        _put(place, _export(tmp_path / "other", name="tiny_other"))


class TestKaggle:

  @pytest.fixture(name="place")
  def _place(self, monkeypatch, tmp_path):
    with places.running("kaggle", monkeypatch, tmp_path / "home") as place:
      places.impatient(place.name, monkeypatch)
      yield place

  def test_versions_have_kaggles_numbers(self, place, export_dir):
    two = _export(export_dir.parents[2], 2, b"two")
    with pytest.raises(errors.HubExportError) as caught:
      _put(place, two)
    assert ("has no versions, so the next one there is version 1, not that of "
            "local/tiny_classification/2") in str(caught.value)
    assert not place.writes()

  @pytest.mark.parametrize("looks", [1, 2])
  def test_a_wrong_answer_makes_no_second_version(
      self, place, export_dir, looks):
    """The server says for some time that a variation is not there."""
    _put(place, export_dir)
    two = _export(export_dir.parents[2], 2, b"two")
    for number, again in ((1, export_dir), (2, two)):
      left = [None] * looks
      place.server.fault = lambda _, path, __: (
          loopback.status(403, "{}", "application/json")
          if path.endswith("/GetModelInstance") and left
          and (left.pop() or True) else None)
      try:
        _put(place, again)
      except errors.HubExportError as e:
        assert (looks, number) == (2, 2)
        assert "has no versions" in str(e)
        _put(place, again)
      assert len(place.application.versions("lab/spot/tiny")) == number
    _assert_published(place, two)

  def test_altered_documents_are_seen(self, place, export_dir):
    release = releases.read(export_dir)
    release = releases.with_documents(
        release, trust.trusted_documents(export_dir, release.documents))
    destination = destinations.choose(place.to())
    destination.put(release)
    version = place.application.versions("lab/spot/tiny")[0]
    for name, content, fault in [
        ("1.md", b"#", "documents/1.md is not what 1.SHA256SUMS says"),
        ("1.checks.json", b"[]", "1.checks.json is no report of these bytes"),
        ("1.SHA256SUMS", b"?", "line 1 of 1.SHA256SUMS"),
        ("x.exe", b"", "documents/x.exe does not belong there")]:
      before = dict(version)
      version[f"documents/{name}"] = content
      for call in (destination.put, destination.verify):
        with pytest.raises(errors.HubExportError, match=fault):
          call(release)
      version.clear()
      version.update(before)
    destination.verify(release)

  def test_licence_goes_with_it(self, place, export_dir):
    _put(place, export_dir)
    variation = place.application.variations["lab/spot/tiny"]
    assert variation["licence"] == "Apache 2.0"
    assert variation["overview"] == "A tiny module."

  def test_waits_until_kaggle_has_taken_it_up(self, place, export_dir):
    application = place.application
    def pend():
      application.pending = 3
    application.before_version = pend
    assert _put(place, export_dir) is base.Outcome.PUBLISHED
    assert application.pending == 0


class TestObjectStore:

  @pytest.fixture(name="place", params=["s3", "gs"])
  def _place(self, request, monkeypatch, tmp_path):
    with places.running(request.param, monkeypatch, tmp_path / "home") as p:
      yield p

  def test_the_marker_is_made_last(self, place, export_dir):
    order = []
    def watch(method, path, _):
      order.append(set(place.files()))
    place.server.fault = watch
    _put(place, export_dir)
    place.server.fault = lambda *_: None
    whole = set(place.files())
    for names in order:
      if "1/saved_model.pb" in names:
        assert names - {"1.publishing.json"} == whole

  @pytest.mark.parametrize("name", ["1.md", "1.tar.gz", "saved_model.pb"])
  def test_what_does_not_read_back_cannot_be_loaded(
      self, place, export_dir, name):
    def garble(method, path, _):
      is_content = (method == "GET" and path.endswith(name)
                    and not path.startswith("/storage/"))
      return loopback.wrong_bytes if is_content else None
    place.server.fault = garble
    with pytest.raises(errors.HubExportError, match="does not read back"):
      _put(place, export_dir)
    place.server.fault = lambda *_: None
    assert "1/saved_model.pb" not in place.files()
    # The archive was found to be whole, or is not there.
    assert ("1.tar.gz" in place.files()) == (name == "saved_model.pb")
    assert _put(place, export_dir) is base.Outcome.PUBLISHED
    _assert_published(place, export_dir)

  def test_a_large_file_goes_in_parts(self, place, tmp_path):
    export_dir = tiny_export.make(
        tmp_path / "exports", files=tiny_export.FILES | {
            "variables/variables.data-00000-of-00001": b"0123456" * 800_000})
    _put(place, export_dir)
    _assert_published(place, export_dir)

  def test_what_was_given_up_is_cleared_away(self, place, export_dir, tmp_path):
    other = tiny_export.make(
        tmp_path / "other", files={"saved_model.pb": b"x", "old.txt": b"y"})
    place.at_write(4, loopback.status(403))
    with pytest.raises(errors.RemoteError):
      _put(place, other)
    assert "1/old.txt" in place.files()
    with pytest.raises(errors.HubExportError) as caught:
      _put(place, export_dir)
    message = str(caught.value)
    claim = f"{place.to()}/{places.MODULE}/1.publishing.json"
    assert f"delete {claim} and publish again" in message
    assert tiny_export.digest(other) in message
    # What the message says to do helps.
    destinations.choose(place.to())._service.open().rm_file(claim)
    assert _put(place, export_dir) is base.Outcome.PUBLISHED
    _assert_published(place, export_dir)

  @pytest.mark.parametrize("url", [
      "", "UPPER", "a b", "b//x", "b/../x", "b/x?y", "user:pw@b/x", "b/[x]"])
  def test_odd_addresses_are_refused(self, place, url):
    with pytest.raises(errors.UsageError, match="names no place in a bucket"):
      destinations.choose(f"{place.name}://{url}")


@pytest.mark.parametrize("name", ["s3", "gs", "hf"])
def test_an_archive_is_never_replaced(name, monkeypatch, tmp_path, export_dir):
  with places.running(name, monkeypatch, tmp_path / "home") as place:
    _put(place, export_dir)
    before = place.files()
    monkeypatch.setattr(archive, "_COMPRESSION_LEVEL", 1)
    with pytest.raises(errors.HubExportError, match="with the Python that"):
      _put(place, export_dir)
    assert place.files() == before


def test_documents_of_two_publishers_are_not_mixed(
    monkeypatch, tmp_path, export_dir):
  """One runs whole before each write of the other, with the same bytes."""
  other = _export(tmp_path / "other")
  tiny_export.write_report(other, metrics=tiny_export.metrics() | {
      "mean_confidence": 91.25})
  tiny_export.write_card(other)
  with places.running("gs", monkeypatch, tmp_path / "home") as place:
    _put(place, export_dir, "clean")
    winners = set()
    for step in range(place.writes()):
      spot, told = f"spot{step}", []
      def run_other(application):
        try:
          _put(place, other, spot)
        except errors.HubExportError as e:
          told.append(str(e))
        return application
      place.at_write(step, run_other)
      _put(place, export_dir, spot)
      place.server.fault = lambda *_: None
      _assert_published(place, export_dir, spot)
      winners.update(told and [told[0].partition(", or")[0]])
  assert winners == {"local/tiny_classification/1 is being published with "
                     "other documents"}


def test_the_card_on_the_hub_is_in_its_own_form(
    monkeypatch, tmp_path, export_dir):
  with places.running("hf", monkeypatch, tmp_path / "home") as place:
    _put(place, export_dir)
    card = place.application.files("lab/spot")["README.md"].decode()
  assert card.startswith("---\nlicense: apache-2.0\n")
  assert "(1.evaluations/pets-test.html)" in card
  assert json.loads(
      releases.read(export_dir).report)["dataset"]["name"] == "pets"
