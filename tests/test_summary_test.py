"""Tests of tools/test_summary.py, on build events and XML as they are written.

The events are those of Bazel 4.2.3 with the fields that are not read left out;
the XML is pytest's and that of Bazel's generate-xml.sh.
"""

import json
import pathlib
import subprocess
import sys

import pytest

from tools import test_summary

PYTEST_XML = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="1"
 failures="2" skipped="1" tests="6" time="0.1" hostname="h">
<testcase classname="tests.a_test" name="test_good" time="0.001" />
<testcase classname="tests.a_test" name="test_also_good" time="0.001" />
<testcase classname="tests.a_test" name="test_bad" time="0.001">
<failure message="assert 1 == 2&#10;second line">def test_bad()</failure></testcase>
<testcase classname="tests.a_test" name="test_setup" time="0.001">
<error message="failed on setup">E</error></testcase>
<testcase classname="tests.a_test" name="test_skip" time="0.001">
<skipped type="pytest.skip" message="no GPU">x</skipped></testcase>
<testcase classname="tests.a_test" name="test_both" time="0.001">
<failure message="assert False">E</failure></testcase>
<testcase classname="tests.a_test" name="test_both" time="0.001">
<error message="failed on teardown">E</error></testcase>
</testsuite></testsuites>
"""

ONE_PASSED = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" tests="1"><testcase classname="tests.b_test"
 name="test_one" time="0.1" /></testsuite></testsuites>
"""

# What Bazel writes for a test that left no XML and exited with 1.
STAND_IN = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="tests/c_test" tests="1" failures="0" errors="1">
    <testcase name="tests/c_test" status="run" duration="2" time="2">
    <error message="exited with error code 1"></error></testcase>
      <system-out>Generated test.log</system-out>
    </testsuite>
</testsuites>
"""


def wanted(label):
  return json.dumps({
      "id": {"targetConfigured": {"label": label}},
      "children": [{"targetCompleted": {"label": label}}],
      "configured": {"targetKind": "py_test rule", "testSize": "SMALL"}})


def result(label, status, xml_path, **identity):
  outputs = [{"name": "test.log", "uri": "file:///tmp/test.log"}]
  if xml_path:
    outputs.append({"name": "test.xml", "uri": xml_path.as_uri()})
  return json.dumps({
      "id": {"testResult": {"label": label, "run": 1, "shard": 1, "attempt": 1,
                            **identity}},
      "testResult": {"testActionOutput": outputs, "status": status,
                     "cachedLocally": True}})


@pytest.fixture(name="xml")
def _xml(tmp_path):
  def write(content, name="test.xml"):
    path = tmp_path / "test logs" / name  # A URI writes the blank as %20.
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return path
  return write


def summarize(*lines, bazel_status=0):
  return test_summary.summarize("\n".join(lines), bazel_status)


def test_cases_are_counted_once_each_and_errors_as_failures(xml):
  summary = summarize(wanted("//t:a"),
                      result("//t:a", "FAILED", xml(PYTEST_XML)),
                      bazel_status=3)
  assert str(summary) == "2 passed, 3 failed, 1 skipped"
  assert summary.problems == [
      "//t:a: tests.a_test::test_bad: assert 1 == 2",
      "//t:a: tests.a_test::test_setup: failed on setup",
      "//t:a: tests.a_test::test_both: assert False"]


def test_targets_are_added_up_cached_ones_too(xml):
  summary = summarize(
      wanted("//t:a"), wanted("//t:b"), wanted("//t:c"),
      result("//t:a", "FAILED", xml(PYTEST_XML, "a.xml")),
      result("//t:b", "PASSED", xml(ONE_PASSED, "b.xml")),
      result("//t:c", "FAILED", xml(STAND_IN, "c.xml")), bazel_status=3)
  assert str(summary) == "3 passed, 4 failed, 1 skipped"
  assert ("//t:c: tests/c_test: exited with error code 1" in summary.problems)


def test_shards_and_runs_all_count_and_of_attempts_the_last(xml):
  good, bad = xml(ONE_PASSED, "good.xml"), xml(STAND_IN, "bad.xml")
  summary = summarize(
      wanted("//t:a"),
      result("//t:a", "PASSED", good, shard=1),
      result("//t:a", "PASSED", good, shard=2),
      result("//t:a", "PASSED", good, shard=2, run=2),
      result("//t:a", "FAILED", bad, shard=3, attempt=1),
      result("//t:a", "PASSED", good, shard=3, attempt=2))
  assert str(summary) == "4 passed, 0 failed, 0 skipped"


@pytest.mark.parametrize("content", [
    "", "<testsuites><testsuite>", "not XML", "<html></html>",
    ONE_PASSED[:-30], "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>"
    "<testsuites>&a;</testsuites>"])
@pytest.mark.parametrize("status", ["PASSED", "FAILED"])
def test_unreadable_xml_is_one_failure(xml, content, status):
  summary = summarize(wanted("//t:a"), wanted("//t:b"),
                      result("//t:a", status, xml(content)),
                      result("//t:b", "PASSED", xml(ONE_PASSED, "b.xml")))
  assert str(summary) == "1 passed, 1 failed, 0 skipped"
  assert summary.problems[0].startswith(f"//t:a: {status}, ")
  assert "its test.xml cannot be read (" in summary.problems[0]


def test_xml_that_is_not_there_is_one_failure(xml, tmp_path):
  summary = summarize(
      wanted("//t:a"), result("//t:a", "PASSED", tmp_path / "none.xml"),
      wanted("//t:b"), result("//t:b", "TIMEOUT", None))
  assert str(summary) == "0 passed, 2 failed, 0 skipped"
  assert summary.problems[1] == "//t:b: TIMEOUT, and it left no test.xml"


@pytest.mark.parametrize("status", ["FAILED", "TIMEOUT", "INCOMPLETE", "NEW"])
def test_failed_target_with_a_stale_good_xml_is_a_failure(xml, status):
  summary = summarize(wanted("//t:a"),
                      result("//t:a", status, xml(ONE_PASSED)))
  assert summary.failed == 1
  assert f"//t:a: {status}, although its test.xml" in summary.problems[0]


def test_wanted_target_without_result_is_a_failure(xml):
  summary = summarize(wanted("//t:a"), wanted("//t:not_built"),
                      result("//t:a", "PASSED", xml(ONE_PASSED)))
  assert str(summary) == "1 passed, 1 failed, 0 skipped"
  assert summary.problems == [
      "//t:not_built: was not run; see Bazel's messages above"]


def test_bazels_own_failure_counts(xml):
  summary = summarize(wanted("//t:a"),
                      result("//t:a", "PASSED", xml(ONE_PASSED)),
                      bazel_status=1)
  assert str(summary) == "1 passed, 1 failed, 0 skipped"
  assert "Bazel ended with status 1" in summary.problems[0]


def test_libraries_are_not_wanted_and_a_cut_off_line_is_passed_over(xml):
  library = json.dumps({"id": {"targetConfigured": {"label": "//t:lib"}},
                        "configured": {"targetKind": "py_library rule"}})
  summary = summarize(library, wanted("//t:a"),
                      result("//t:a", "PASSED", xml(ONE_PASSED)), '{"id": {"t')
  assert str(summary) == "1 passed, 0 failed, 0 skipped"
  assert not summary.problems


def run(events, bazel_status):
  return subprocess.run(
      [sys.executable, "-S", test_summary.__file__, f"--events={events}",
       f"--bazel_status={bazel_status}"], capture_output=True, text=True,
      check=False)


def test_program_ends_with_the_plain_line(xml, tmp_path):
  events = pathlib.Path(tmp_path, "events.json")
  events.write_text(wanted("//t:a") + "\n"
                    + result("//t:a", "PASSED", xml(ONE_PASSED)))
  good = run(events, 0)
  assert good.stdout == "1 passed, 0 failed, 0 skipped\n"
  assert (good.returncode, good.stderr) == (0, "")

  events.write_text(wanted("//t:a") + "\n"
                    + result("//t:a", "FAILED", xml(STAND_IN)))
  bad = run(events, 3)
  assert bad.stdout.splitlines() == [
      "", "Problems:", "  //t:a: tests/c_test: exited with error code 1", "",
      "0 passed, 1 failed, 0 skipped"]
  assert bad.returncode == 1


@pytest.mark.parametrize("skipped", [False, True])
def test_run_without_a_test_fails(xml, tmp_path, skipped):
  events = pathlib.Path(tmp_path, "events.json")
  only_skipped = PYTEST_XML[:PYTEST_XML.index("<testcase")] + (
      '<testcase name="s"><skipped/></testcase></testsuite></testsuites>')
  if skipped:
    events.write_text(result("//t:a", "PASSED", xml(only_skipped)))
  done = run(events, 0)
  assert done.returncode == 1
  assert "no test was run" in done.stdout
  assert done.stdout.endswith(f"\n0 passed, 0 failed, {int(skipped)} skipped\n")
