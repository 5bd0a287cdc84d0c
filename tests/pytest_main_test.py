"""Tests of tools/python/pytest_main.py, run as Bazel runs it."""

import os
import pathlib
import subprocess
import sys

import pytest

from tools import test_summary
from tools.python import test_environment

_PROGRAM = pathlib.Path(test_environment.__file__).with_name("pytest_main.py")
_ROOT = _PROGRAM.parents[2]

_FOUR_TESTS = "\n".join(
    f"def test_{name}(): assert {claim}"
    for name, claim in (("a", 1), ("b", 1), ("c", 0), ("d", 1)))


@pytest.fixture(name="run")
def _run(tmp_path):
  """Runs a test file's text; returns exit status, test.xml and the folder."""
  def run(text, **environ):
    test_file = tmp_path / "some_test.py"
    test_file.write_text(text)
    xml_path = tmp_path / "test.xml"
    done = subprocess.run(
        [sys.executable, str(_PROGRAM), str(test_file)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT),
             "HOME": "/nonexistent", "TEST_TMPDIR": str(tmp_path / "scratch"),
             "XML_OUTPUT_FILE": str(xml_path), **environ})
    return done.returncode, test_summary.read_xml(xml_path.read_bytes())
  return run


def test_the_report_goes_where_bazel_wants_it(run):
  status, summary = run(_FOUR_TESTS)
  assert str(summary) == "3 passed, 1 failed, 0 skipped"
  assert status == 1


@pytest.mark.parametrize("shard, status, counts", [
    ("0", 1, "1 passed, 1 failed, 0 skipped"),  # test_a and test_c
    ("1", 0, "2 passed, 0 failed, 0 skipped")])
def test_shards_share_the_tests(run, tmp_path, shard, status, counts):
  noted = tmp_path / "shards"
  assert run(_FOUR_TESTS, TEST_TOTAL_SHARDS="2", TEST_SHARD_INDEX=shard,
             TEST_SHARD_STATUS_FILE=str(noted))[0] == status
  assert str(run(_FOUR_TESTS, TEST_TOTAL_SHARDS="2",
                 TEST_SHARD_INDEX=shard)[1]) == counts
  assert noted.exists()


def test_filter_picks_tests_and_may_pick_none(run):
  status, summary = run(_FOUR_TESTS, TESTBRIDGE_TEST_ONLY="test_b")
  assert (status, str(summary)) == (0, "1 passed, 0 failed, 0 skipped")
  status, summary = run(_FOUR_TESTS, TESTBRIDGE_TEST_ONLY="test_elsewhere")
  assert (status, str(summary)) == (0, "0 passed, 0 failed, 0 skipped")


def test_file_without_tests_fails(run):
  assert run("VALUE = 1")[0] == 5  # pytest's status for it.


def test_process_that_ends_early_is_no_success(run, tmp_path):
  premature = tmp_path / "premature"
  text = "import os\ndef test_a(): os._exit(0)\n"
  status, summary = run(text, TEST_PREMATURE_EXIT_FILE=str(premature))
  assert status == 0
  assert str(summary) == "0 passed, 1 failed, 0 skipped"
  assert "ended before pytest had finished" in summary.problems[0]
  assert premature.exists()
  run("def test_a(): pass", TEST_PREMATURE_EXIT_FILE=str(premature))
  assert not premature.exists()


def test_home_is_in_bazels_scratch_directory(run, tmp_path):
  text = ("import os, pathlib\ndef test_a():\n"
          f"  assert os.environ['HOME'].startswith({str(tmp_path)!r})\n"
          "  assert pathlib.Path.home().is_dir()\n")
  assert run(text)[0] == 0
