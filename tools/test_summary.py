"""Adds up the test.xml files of one `bazel test`, for people and for CI.

    bazel test --build_event_json_file=EVENTS //...; status=$?
    python3 tools/test_summary.py --events=EVENTS --bazel_status=$status

Bazel's build events say which tests were wanted, how each of them ended and
where its test.xml lies, cached results included; what earlier runs left behind
in bazel-testlogs does not count. Only what Python brings is used, for it runs
outside Bazel, on any Python from 3.9 on.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import pathlib
import sys
import urllib.parse
import urllib.request
import xml.etree.ElementTree

# What overall statuses of Bazel's build event protocol count as good; anything
# else, INCOMPLETE and those of later Bazels included, is a failure. FLAKY
# means that it passed in the end (flaky = True in the BUILD file).
_GOOD = ("PASSED", "FLAKY")


@dataclasses.dataclass
class Summary:
  """Test cases counted by how they ended, and a line for each that failed."""
  passed: int = 0
  failed: int = 0
  skipped: int = 0
  problems: list[str] = dataclasses.field(default_factory=list)

  def __str__(self) -> str:
    return (f"{self.passed} passed, {self.failed} failed, "
            f"{self.skipped} skipped")

  def fail(self, problem: str) -> None:
    """Counts one failure."""
    self.failed += 1
    self.problems.append(problem)

  def add(self, other: Summary) -> None:
    """Adds the counts and problems of `other`."""
    self.passed += other.passed
    self.failed += other.failed
    self.skipped += other.skipped
    self.problems += other.problems


@dataclasses.dataclass(frozen=True)
class Result:
  """How one shard of one run of a test target ended."""
  status: str                   # Of the build event protocol, "PASSED" say.
  xml_path: pathlib.Path | None  # Where its test.xml lies.


def summarize(events: str, bazel_status: int) -> Summary:
  """Returns the summary of one `bazel test`.

  Args:
    events: The build events, a JSON object per line. A last line that is cut
      off, as when Bazel was killed, is passed over.
    bazel_status: Bazel's exit status. One that is not 0 is at least one
      failure, and so is a run without any test.
  """
  wanted, results = _read_events(events)
  summary = Summary()
  for label in sorted(wanted | set(results)):
    shards = results.get(label)
    if not shards:
      summary.fail(f"{label}: was not run; see Bazel's messages above")
      continue
    for key in sorted(shards):
      _add_result(summary, label, shards[key])
  if not summary.failed and bazel_status:
    summary.fail(f"Bazel ended with status {bazel_status}; see its messages "
                 "above")
  if not summary.passed + summary.failed:
    summary.problems.append("no test was run; expected at least one")
  return summary


def read_xml(content: bytes) -> Summary:
  """Returns the counts of one test.xml in JUnit's format.

  Counted are the test cases themselves, for Bazel's stand-in files and pytest
  put different totals into the head.

  Raises:
    ValueError: if it is not such a file.
  """
  try:
    root = xml.etree.ElementTree.fromstring(content)
  except xml.etree.ElementTree.ParseError as e:
    raise ValueError(str(e)) from e
  if root.tag not in ("testsuites", "testsuite"):
    raise ValueError(f"the outermost element is <{root.tag}>")
  # A test that fails and whose tear-down then fails too has two entries.
  outcomes = collections.defaultdict(list)
  for number, case in enumerate(root.iter("testcase")):
    name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
    outcomes[name or number].append(case)
  summary = Summary()
  for name, cases in outcomes.items():
    bad = [e for case in cases for e in case if e.tag in ("failure", "error")]
    if bad:
      message = (bad[0].get("message") or bad[0].text or "").strip()
      summary.fail(f"{name}: {(message.splitlines() or ['failed'])[0]}")
    elif any(case.find("skipped") is not None for case in cases):
      summary.skipped += 1
    else:
      summary.passed += 1
  return summary


def _read_events(
    events: str) -> tuple[set[str], dict[str, dict[tuple[int, int], Result]]]:
  """Returns the wanted labels, and by label the result of each run and shard."""
  wanted = set()
  last_attempts = {}
  for line in events.splitlines():
    try:
      event = json.loads(line)
    except ValueError:
      continue
    configured = event["id"].get("targetConfigured")
    # Only tests have a size; the protocol writes an aspect as its own event.
    if configured and event.get("configured", {}).get("testSize"):
      wanted.add(configured["label"])
    identity = event["id"].get("testResult")
    if identity and "testResult" in event:
      key = (identity["label"], identity.get("run", 1),
             identity.get("shard", 1))
      attempt = identity.get("attempt", 1)
      if attempt >= last_attempts.get(key, (0, None))[0]:
        last_attempts[key] = (attempt, _result(event["testResult"]))
  results = collections.defaultdict(dict)
  for (label, *shard), (_, result) in last_attempts.items():
    results[label][tuple(shard)] = result
  return wanted, results


def _result(record: dict) -> Result:
  xml_path = None
  for output in record.get("testActionOutput", ()):
    uri = urllib.parse.urlsplit(output.get("uri", ""))
    if output.get("name") == "test.xml" and uri.scheme == "file":
      xml_path = pathlib.Path(urllib.request.url2pathname(uri.path))
  return Result(record.get("status", "NO_STATUS"), xml_path)


def _add_result(summary: Summary, label: str, result: Result) -> None:
  """Counts one shard's test.xml, and its status where the two disagree."""
  counts = Summary()
  unreadable = ""
  if result.xml_path is None:
    unreadable = "it left no test.xml"
  else:
    try:
      counts = read_xml(result.xml_path.read_bytes())
    except (OSError, ValueError) as e:
      unreadable = f"its test.xml cannot be read ({e})"
  counts.problems = [f"{label}: {problem}" for problem in counts.problems]
  if unreadable:
    counts.fail(f"{label}: {result.status}, but {unreadable}"
                if result.status in _GOOD else
                f"{label}: {result.status}, and {unreadable}")
  elif result.status not in _GOOD and not counts.failed:
    counts.fail(f"{label}: {result.status}, although its test.xml names no "
                "failure; see its log above")
  summary.add(counts)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--events", required=True,
                      help="file of --build_event_json_file")
  parser.add_argument("--bazel_status", required=True, type=int,
                      help="exit status of Bazel")
  arguments = parser.parse_args()
  try:
    events = pathlib.Path(arguments.events).read_text("utf-8", "replace")
  except OSError as e:
    print(f"test_summary: no build events: {e}", file=sys.stderr)
    events = ""
  summary = summarize(events, arguments.bazel_status)
  sys.stdout.reconfigure(errors="backslashreplace")
  if summary.problems:
    print("\nProblems:")
    for problem in summary.problems:
      print(f"  {problem}")
    print()
  print(summary, flush=True)
  return 1 if summary.problems or arguments.bazel_status else 0


if __name__ == "__main__":
  sys.exit(main())
