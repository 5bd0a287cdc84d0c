"""Tests of publishing to remote places when things go wrong.

Publishers are killed at every request that changes something; servers fail,
refuse, answer late, hang up, or give back wrong bytes; two publish at once.
Whatever happens, users see all of a release or nothing, the next run completes
it, and nobody sees a credential.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from hub_export import destinations
from hub_export import errors
from hub_export import releases
from hub_export.destinations import base
from tests import forked_publisher
from tests import loopback
from tests import places
from tests import tiny_export

# As publish.py, but Kaggle's client is led to the test's server.
_PROGRAM = """
from tests import places
places.use_kaggle_server()
from hub_export import program, publish
program.run(publish.main)
"""
_SKEWED = ("<Error><Code>RequestTimeTooSkewed</Code><Message>The difference "
           "between the request time and the current time is too large."
           "</Message></Error>")


@pytest.fixture(name="place", params=places.NAMES)
def _place(request, monkeypatch, tmp_path):
  with places.running(request.param, monkeypatch, tmp_path / "home") as place:
    places.impatient(place.name, monkeypatch)
    yield place


@pytest.fixture(name="export_dir")
def _export_dir(tmp_path):
  return _export(tmp_path / "exports")


def _export(output_dir: pathlib.Path, graph: bytes = b"graph",
            version: int = 1) -> pathlib.Path:
  """Makes an export of few files, so that there are few steps to fail at."""
  return tiny_export.make(output_dir, f"{places.MODULE}/{version}", files={
      "saved_model.pb": graph, "variables/variables.index": b"index"})


def _put(place: places.Place, export_dir: pathlib.Path, spot: str = "spot"
         ) -> base.Outcome:
  return destinations.choose(place.to(spot)).put(releases.read(export_dir))


def _is_visible(place: places.Place, spot: str = "spot") -> bool:
  """Whether anybody could load the module."""
  return "1/saved_model.pb" in place.files(spot)


def _assert_whole(place: places.Place, export_dir: pathlib.Path,
                  spot: str = "spot", claim: bool = False) -> None:
  """Asserts that the release lies there, and at most a claim beside it."""
  found = place.files(spot)
  wanted = places.expected(export_dir, place.name)
  if claim:
    found.pop("1.publishing.json", None)
  if "1.tar.gz" in found:
    found["1.tar.gz"] = b""
    if claim and "1/saved_model.pb" not in found:
      del wanted["1/saved_model.pb"]  # It comes next.
  assert found == wanted


def _run(export_dir: pathlib.Path, to: str) -> subprocess.CompletedProcess:
  """Runs publish.py as the program that it is."""
  return subprocess.run(
      [sys.executable, "-c", _PROGRAM, f"--export_dir={export_dir}",
       f"--to={to}"], text=True, capture_output=True, timeout=120,
      env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


class TestKilled:

  def test_at_every_write(self, place, export_dir):
    _put(place, export_dir, "clean")
    writes = place.writes()
    assert writes >= 5
    seen = []
    with forked_publisher.running(*places.MODULES[place.name]) as publisher:
      # The last time, only after the last write was done.
      for step in range(writes + 1):
        spot = f"spot{step}"
        pid = publisher.start(export_dir, place.to(spot))
        place.at_write(min(step, writes - 1),
                       loopback.kill(lambda: pid, after=step == writes))
        assert publisher.finish() == "killed"
        place.server.fault = lambda *_: None
        visible = _is_visible(place, spot)
        if visible or "1.tar.gz" in place.files(spot):
          _assert_whole(place, export_dir, spot, claim=True)
        seen.append(visible)
        outcome = _put(place, export_dir, spot)
        assert outcome in ({base.Outcome.UNCHANGED, base.Outcome.RENEWED}
                           if visible else {base.Outcome.PUBLISHED})
        _assert_whole(place, export_dir, spot)
    # The first deaths came before it was visible, the last ones after.
    assert seen == sorted(seen) and set(seen) == {False, True}


class TestServerFails:

  @pytest.mark.parametrize("fault, told, share", [
      (loopback.status(500), "the server of .* failed or was not reached", 0.5),
      (loopback.status(403), "refused it \\(403", 0),
      (loopback.cut, "the server of .* failed or was not reached", 1)],
      ids=["500", "403", "cut"])
  def test_for_good_from_some_write_on(
      self, place, export_dir, fault, told, share):
    _put(place, export_dir, "clean")
    start, number = place.writes(), int(share * (place.writes() - 1))
    place.server.fault = lambda method, path, _: (
        fault if place.is_write(method, path)
        and place.writes() - start > number else None)
    with pytest.raises(errors.RemoteError, match=told) as caught:
      _put(place, export_dir)
    assert "\n" not in str(caught.value)
    place.server.fault = lambda *_: None
    if _is_visible(place):
      _assert_whole(place, export_dir, claim=True)
    _put(place, export_dir)
    _assert_whole(place, export_dir)

  def test_once_at_every_write(self, place, export_dir):
    """By turns busy, cut off, cut off after the deed, and slow."""
    _put(place, export_dir, "clean")
    writes = place.writes()
    faults = (loopback.status(503), loopback.cut, loopback.cut_after,
              loopback.slow(0.3))
    for step in range(writes):
      spot = f"spot{step}"
      place.at_write(step, faults[step % len(faults)])
      try:
        _put(place, export_dir, spot)
        _assert_whole(place, export_dir, spot)
      except errors.RemoteError as e:
        assert "publish again" in str(e)
        if _is_visible(place, spot):
          _assert_whole(place, export_dir, spot, claim=True)
      place.server.fault = lambda *_: None
      _put(place, export_dir, spot)
      _assert_whole(place, export_dir, spot)

  def test_with_wrong_bytes(self, place, export_dir):
    reads = []
    def garble(method, path, _):
      # Not what Cloud Storage says about an object, only its bytes.
      if (path.endswith("DownloadModelInstanceVersion")
          or method == "GET" and path.endswith("variables.index")
          and not path.startswith("/storage/")):
        reads.append(path)
        return loopback.wrong_bytes
      return None
    place.server.fault = garble
    with pytest.raises(errors.HubExportError) as caught:
      _put(place, export_dir)
    assert reads
    assert ("does not read back" in str(caught.value)
            or "with other bytes" in str(caught.value))
    if place.name in ("s3", "gs"):
      assert not _is_visible(place)
      assert "1.tar.gz" not in place.files()
    place.server.fault = lambda *_: None
    _put(place, export_dir)
    _assert_whole(place, export_dir)

  def test_to_answer_at_all(self, place, export_dir, monkeypatch):
    from hub_export.destinations import gcs
    from hub_export.destinations import hugging_face
    from hub_export.destinations import kaggle
    from hub_export.destinations import s3
    monkeypatch.setattr(gcs, "_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(hugging_face, "_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(kaggle, "_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(s3, "_READ_SECONDS", 0.5)
    place.server.fault = lambda *_: loopback.slow(2)
    with pytest.raises(errors.RemoteError,
                       match="failed or was not reached"):
      _put(place, export_dir)
    assert not place.files()


class TestTwoAtOnce:
  """One runs from start to end before some write of the other."""

  def test_with_other_bytes(self, place, export_dir, tmp_path):
    other = _export(tmp_path / "other", b"grave")
    winners = []
    for spot, first, second in self._meetings(place, other, export_dir):
      if first == "PUBLISHED":
        assert "with other bytes" in second
        _assert_whole(place, other, spot)
      else:
        assert "with other bytes" in first
        assert second == "PUBLISHED"
        _assert_whole(place, export_dir, spot)
      winners.append(first)
    assert winners[0] == "PUBLISHED"

  def test_with_the_same_bytes(self, place, export_dir):
    done = {outcome.name for outcome in base.Outcome}
    for spot, first, second in self._meetings(place, export_dir, export_dir):
      assert first in done and second in done
      assert "PUBLISHED" in (first, second)
      _assert_whole(place, export_dir, spot)

  def _meetings(self, place, inner, outer):
    """Yields the spot, what became of `inner`, and what of `outer`."""
    _put(place, outer, "clean")
    with forked_publisher.running(*places.MODULES[place.name]) as publisher:
      for step in range(place.writes()):
        spot = f"spot{step}"
        outcomes = []
        def run_inner(application):
          publisher.start(inner, place.to(spot))
          outcomes.append(publisher.finish())
          return application
        place.at_write(step, run_inner)
        try:
          outcomes.append(_put(place, outer, spot).name)
        except errors.HubExportError as e:
          outcomes.append(str(e))
        place.server.fault = lambda *_: None
        yield spot, *outcomes

  def test_kaggle_tells_of_the_version_that_came_second(
      self, monkeypatch, tmp_path, export_dir):
    for spot, graph, fault in [
        ("a", b"grave", "is published already with other bytes"),
        ("b", b"two", "is published, but twice")]:
      two = _export(export_dir.parents[2], b"two", version=2)
      other = _export(tmp_path / spot, graph, version=2)
      with places.running("kaggle", monkeypatch, tmp_path / "home") as place:
        _put(place, export_dir)
        done = []
        def first():
          if not done:
            done.append(1)
            _put(place, other)
        place.application.before_version = first
        with pytest.raises(errors.HubExportError) as caught:
          _put(place, two)
      assert fault in str(caught.value)
      assert ("kaggle://lab/spot/tensorFlow2/tiny/3 is what came second: "
              "delete that version on Kaggle") in str(caught.value)


class TestCredentials:

  def test_missing_ones_are_asked_for_in_one_message(
      self, place, export_dir, monkeypatch):
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN",
                     "STORAGE_EMULATOR_HOST", "KAGGLE_USERNAME", "KAGGLE_KEY"):
      monkeypatch.delenv(variable, raising=False)
    done = _run(export_dir, place.to())
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert "there are no credentials for " in done.stderr
    for way in {
        "s3": ("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "AWS_PROFILE",
               "role of the machine"),
        "gs": ("GOOGLE_APPLICATION_CREDENTIALS",
               "gcloud auth application-default login", "service account of"),
        "hf": ("HF_TOKEN,", "hf auth login", "HF_TOKEN_PATH"),
        "kaggle": ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME and KAGGLE_KEY",
                   "~/.kaggle/kaggle.json")}[place.name]:
      assert way in done.stderr
    assert not place.server.requests

  def test_they_are_shown_nowhere(self, place, export_dir):
    told = " ".join([
        *places.SECRETS[place.name],
        "https://user:passw0rd@host/x?X-Amz-Signature=abcdef",
        "Authorization: Bearer ya29.theAccessTokenOfTheTests"])
    for code in (403, 500, 400):
      place.server.fault = lambda *_: loopback.status(
          code, f"<Error><Code>Odd</Code><Message>{told}</Message></Error>",
          "application/xml")
      with pytest.raises(errors.RemoteError) as caught:
        _put(place, export_dir)
      self._assert_clean(place, str(caught.value))
      assert caught.value.__cause__ is None
    place.server.fault = lambda *_: loopback.status(
        403, '{"error": "%s", "code": 403, "message": "%s"}' % (told, told),
        "application/json")
    done = _run(export_dir, place.to())
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "in one of three ways" in done.stderr
    self._assert_clean(place, done.stdout + done.stderr)

  def test_a_release_does_not_hold_them(self, place, export_dir):
    done = _run(export_dir, place.to())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("local/tiny_classification/1: published\n")
    self._assert_clean(place, done.stdout)
    for content in place.files().values():
      self._assert_clean(place, content.decode("latin-1"))

  def _assert_clean(self, place: places.Place, text: str) -> None:
    for secret in (*places.SECRETS[place.name], "passw0rd", "abcdef",
                   "theAccessToken"):
      assert secret not in text


class TestClock:

  def test_a_wrong_one_is_told(self, monkeypatch, tmp_path, export_dir):
    with places.running("s3", monkeypatch, tmp_path / "home") as place:
      places.impatient(place.name, monkeypatch)
      place.server.fault = lambda *_: loopback.status(
          403, _SKEWED, "application/xml")
      with pytest.raises(errors.RemoteError,
                         match="Set the clock, then publish again"):
        _put(place, export_dir)

  def test_none_is_consulted_when_publishers_take_turns(
      self, monkeypatch, tmp_path, export_dir):
    """The server's times are of 1999 and 2999; a claim holds all the same."""
    other = _export(tmp_path / "other", b"grave")
    with places.running("gs", monkeypatch, tmp_path / "home") as place:
      places.impatient(place.name, monkeypatch)
      place.at_write(2, loopback.status(403))
      with pytest.raises(errors.RemoteError):
        _put(place, other)
      place.server.fault = lambda *_: None
      with pytest.raises(errors.HubExportError,
                         match="is being published with other bytes"):
        _put(place, export_dir)
      assert _put(place, other) is base.Outcome.PUBLISHED
      _assert_whole(place, other)
