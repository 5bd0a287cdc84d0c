"""The report on an export: what was checked, what came out, on what machine.

It lies beside the export as <version>.checks.json. An export may be published
only if its report has the status "passed" and names the digest of its bytes.

Nothing here imports TensorFlow.
"""

import dataclasses
import json
import math
import pathlib
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from hub_export import errors
from hub_export import export_dirs

SCHEMA_VERSION = 1
GROUPS = ("structure", "numerics", "trainability", "accuracy", "card")
QUICK_GROUPS = ("structure", "numerics", "card")  # Those of a quick check.
PASSED = "passed"
FAILED = "failed"
NOT_RUN = "not_run"
INCOMPLETE = "incomplete"  # Of a report only: nothing failed, some not run.


@dataclasses.dataclass(frozen=True)
class CheckResult:
  """What one check found."""
  group: str    # One of GROUPS.
  name: str     # Such as "labels"; unique within its group.
  status: str   # PASSED, FAILED or NOT_RUN, which never counts as passed.
  message: str  # For people: what holds, what is wrong, or why it was not run.
  figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
  seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Rate:
  """A share of examples, with its 95 % Wilson interval."""
  correct: int
  total: int    # At least 1.

  def to_dict(self) -> dict[str, float | int]:
    """Returns it as a report has it, in percent."""
    low, high = wilson(self.correct, self.total)
    return {"value": 100 * self.correct / self.total, "correct": self.correct,
            "total": self.total, "low": 100 * low, "high": 100 * high}


@dataclasses.dataclass(frozen=True)
class Report:
  """Everything that was found out about one export."""
  handle: str
  export_sha256: str             # export_dirs.digest of what was checked.
  checks: tuple[CheckResult, ...]
  dataset: Mapping[str, Any] | None  # name, version, split, num_examples,
                                     # digest; None if accuracy was not run.
  metrics: Mapping[str, Any] | None  # "top1" and "top5" to Rate.to_dict().
  environment: Mapping[str, Any]
  started: str                   # UTC, "2026-11-21T10:50:00Z".
  seconds: float                 # Wall clock.
  # None where it was not looked for, as in a quick check.
  archive: Mapping[str, Any] | None = None   # "sha256", "bytes": what
                                             # archive.write makes of it.
  latency: Mapping[str, Any] | None = None   # As latency.measure gives it.
  previous: Mapping[str, Any] | None = None  # earlier_version.changes.
  # SHA-256 of the evaluation's pictures and page, by name beside the report.
  attachments: Mapping[str, str] | None = None

  @property
  def status(self) -> str:
    """PASSED, FAILED or INCOMPLETE, by `overall_status`."""
    return overall_status(self.checks)

  @property
  def is_full(self) -> bool:
    """Whether more was run than a quick check runs."""
    return any(c.group not in QUICK_GROUPS and c.status != NOT_RUN
               for c in self.checks)

  def to_dict(self) -> dict[str, Any]:
    """Returns the report as it is written."""
    return {
        "schema_version": SCHEMA_VERSION,
        "handle": self.handle,
        "export_sha256": self.export_sha256,
        "status": self.status,
        "checks": [dataclasses.asdict(c) for c in self.checks],
        "dataset": self.dataset,
        "metrics": self.metrics,
        "environment": self.environment,
        "started": self.started,
        "seconds": self.seconds,
        "archive": self.archive,
        "latency": self.latency,
        "previous": self.previous,
        "attachments": self.attachments,
    }


def passed(message: str, **figures: float) -> CheckResult:
  """Returns a passed result; the suite fills in group, name and seconds."""
  return CheckResult("", "", PASSED, message, figures)


def failed(message: str, **figures: float) -> CheckResult:
  """Returns a failed result; the suite fills in group, name and seconds."""
  return CheckResult("", "", FAILED, message, figures)


def not_run(reason: str) -> CheckResult:
  """Returns the result of a check that could not run."""
  return CheckResult("", "", NOT_RUN, reason)


def from_problems(problems: Sequence[str], good: str, **figures: float
                  ) -> CheckResult:
  """Returns failed with all problems, or passed with `good` if none."""
  if problems:
    shown = list(problems[:10])
    if len(problems) > 10:
      shown.append(f"and {len(problems) - 10} more")
    return failed("; ".join(shown), **figures)
  return passed(good, **figures)


def overall_status(checks: Sequence[CheckResult]) -> str:
  """Returns what all results come to.

  Failed if any failed; passed only if every group has checks and all of them
  passed; otherwise incomplete.
  """
  statuses = {c.status for c in checks}
  if FAILED in statuses:
    return FAILED
  if statuses == {PASSED} and {c.group for c in checks} == set(GROUPS):
    return PASSED
  return INCOMPLETE


def mixed_precision(report: Mapping[str, Any] | None) -> Mapping[str, float]:
  """Returns how far each dtype of 16 bits was seen to be off float32.

  Args:
    report: As it is written; None if there is none.

  Returns:
    Root of the mean square, in standard deviations of the outputs; -1 where
    outputs were not finite.
  """
  for check in (report or {}).get("checks", ()):
    if (check["group"], check["name"]) == ("trainability", "mixed_precision"):
      return check.get("figures", {})
  return {}


def wilson(correct: int, total: int) -> tuple[float, float]:
  """Returns the 95 % Wilson score interval of a proportion, in [0, 1].

  E. B. Wilson, Probable inference, the law of succession, and statistical
  inference, JASA 22 (1927).
  """
  z = 1.959963984540054  # The normal distribution's 97.5 % quantile.
  p = correct / total
  scale = 1 + z * z / total
  middle = (p + z * z / (2 * total)) / scale
  half = z / scale * math.sqrt(
      p * (1 - p) / total + z * z / (4 * total * total))
  return max(0.0, middle - half), min(1.0, middle + half)


def environment(onednn: bool) -> dict[str, Any]:
  """Returns the software and the machine.

  Args:
    onednn: Whether TensorFlow computes with oneDNN; only it can tell.
  """
  return {
      "python": platform.python_version(),
      "tensorflow": metadata.version("tensorflow"),
      "tensorflow_hub": metadata.version("tensorflow-hub"),
      "onednn": onednn,
      "processor": processor(),
      "platform": platform.platform(),
  }


def write(report: Report, path: pathlib.Path) -> None:
  """Writes a report, whole or not at all.

  Raises:
    WriteError: if it cannot be written.
  """
  text = json.dumps(report.to_dict(), indent=2, allow_nan=False)
  export_dirs.write_file(path, text + "\n")


def read(path: pathlib.Path) -> Report:
  """Returns the report in a file.

  Raises:
    ChecksError: if there is none, or if it is damaged, of another schema, or
      if its status is not what its checks come to.
  """
  advice = "Run the checks again."
  try:
    record = json.loads(path.read_text("utf-8"))
    if record["schema_version"] != SCHEMA_VERSION:
      raise errors.ChecksError(
          f"{path} has the schema version {record['schema_version']}; expected "
          f"{SCHEMA_VERSION}. {advice}")
    checks = tuple(_read_check(c) for c in record["checks"])
    # Those of earlier releases lack the fields that have a default.
    report = Report(checks=checks, **{
        field.name: record[field.name] for field in dataclasses.fields(Report)
        if field.name != "checks" and (
            field.name in record or field.default is dataclasses.MISSING)})
    export_dirs.parse_handle(report.handle)
    status = record["status"]
  except FileNotFoundError:
    raise errors.ChecksError(
        f"there is no report {path}; expected one from the checks. Run the "
        "checks first.") from None
  except errors.ChecksError:
    raise
  except (OSError, ValueError, KeyError, TypeError, AttributeError,
          RecursionError, errors.HubExportError) as e:
    raise errors.ChecksError(
        f"{path} cannot be read ({type(e).__name__}: {e}); expected a report "
        f"of the checks. {advice}") from e
  if status != report.status:
    raise errors.ChecksError(
        f"{path} says {status!r}, but its checks come to {report.status!r}. "
        f"{advice}")
  return report


def _read_check(record: Mapping[str, Any]) -> CheckResult:
  result = CheckResult(**record)
  if (result.group not in GROUPS
      or result.status not in (PASSED, FAILED, NOT_RUN)):
    raise ValueError(f"unknown group or status in {record}")
  return result


def processor() -> str:
  """Returns the processor's name where the system tells it."""
  try:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.split(":", 1)[1].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()
