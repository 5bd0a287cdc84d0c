r"""Checks an export, writes its report beside it and renews its card.

  bazel run //checks:check -- \
      --export_dir=exports/local/regnety600mf_classification/1

Exit status: 0 if everything passed (with --quick: if nothing failed), 1 if
something failed or could not be run, 2 on wrong usage.
"""

import logging as python_logging
import pathlib
import sys
import warnings
from collections.abc import Sequence

from absl import flags
import tqdm

from checks import report
from hub_export import errors
from hub_export import export_dirs
from hub_export import program
from hub_export.forms import extras

_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None,
    "Directory of one module's version, <output_dir>/<publisher>/<name>/"
    "<version>.", required=True)
_DATASET = flags.DEFINE_string(
    "dataset", None,
    "Data set to evaluate on, as //checks:datasets lists them, such as "
    "imagenet2012 or folder:PATH; by default that of the manifest.")
_SPLIT = flags.DEFINE_string(
    "split", None, "Split to evaluate on; by default that of the manifest.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None,
    "TFDS' directory of prepared data sets; by default TFDS' own, and for the "
    "embedded digits one in the cache.")
_QUICK = flags.DEFINE_bool(
    "quick", False,
    "Only structure, numerics and card. Not enough for publishing. A report of "
    "all checks of the same bytes is kept, and shown.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Images per step of the evaluation.", lower_bound=1)

_FRESH = flags.DEFINE_bool(
    "fresh", False,
    "Evaluate every image anew. By default the predictions that this export "
    "has made on this machine are used again, so that an evaluation that was "
    "interrupted goes on where it was.")
_EXPECT_TOP1 = flags.DEFINE_float(
    "expect_top1", None,
    "Percent that top-1 has to come to, within 0.1 points; beside the figure "
    "that the export's manifest reports.", lower_bound=0, upper_bound=100)

_COLOURS = {report.PASSED: "32", report.FAILED: "31", report.NOT_RUN: "33"}
_WORDS = {report.PASSED: "passed", report.FAILED: "FAILED",
          report.NOT_RUN: "not run"}


def table(checked: report.Report, is_terminal: bool) -> str:
  """Returns the checks as lines: group, check, status and message.

  Args:
    checked: The report.
    is_terminal: Whether statuses are coloured.
  """
  width = max(len(check.name) for check in checked.checks)
  lines = []
  group = None
  for check in checked.checks:
    status = f"{_WORDS[check.status]:8}"
    if is_terminal:
      status = f"\x1b[{_COLOURS[check.status]}m{status}\x1b[0m"
    first = check.group if check.group != group else ""
    group = check.group
    # Checks that were not run for one reason: it is told once, below.
    message = check.message.splitlines()[0]
    lines.append(f"{first:13} {check.name:{width}}  {status}  {message}")
  return "\n".join(lines)


def reasons(checked: report.Report) -> list[str]:
  """Returns the messages of more than a line, each once."""
  return list(dict.fromkeys(
      check.message for check in checked.checks if "\n" in check.message))


def main(_: Sequence[str]) -> int:
  export_dir = program.user_path(_EXPORT_DIR.value)
  manifest = export_dirs.read_manifest(export_dir)  # A wrong path: at once.
  # tensorflow-hub 0.16.1 makes setuptools warn about tensorflow-hub.
  warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
  # One check saves to .h5 on purpose.
  warnings.filterwarnings("ignore", message="You are saving your model")
  # TensorFlow takes seconds to import; usage errors have come before.
  with program.quiet_start():
    from checks import suite  # pylint: disable=g-import-not-at-top

  # TFDS 4.9.10 uses what TensorFlow 2.21 calls deprecated.
  python_logging.getLogger("tensorflow").setLevel(python_logging.ERROR)
  progress = _bar(suite)
  try:
    checked = suite.run(
        export_dir, dataset=_DATASET.value, split=_SPLIT.value,
        data_dir=program.user_path(_DATA_DIR.value) if _DATA_DIR.value
        else None,
        quick=_QUICK.value, batch_size=_BATCH_SIZE.value,
        fresh=_FRESH.value, expect_top1=_EXPECT_TOP1.value, progress=progress)
  finally:
    progress.close()
  print(f"{checked.handle}\n\n{table(checked, sys.stdout.isatty())}\n")
  for reason in reasons(checked):
    print(f"{reason}\n")
  if _QUICK.value and checked.is_full:
    print("This is the report of all checks on these very bytes, of "
          f"{checked.started}. It tells more than a quick check and was kept; "
          "without --quick, all checks are run again.\n")
  return _conclude(checked, export_dir, manifest.get("form"))


def _conclude(checked: report.Report, export_dir: pathlib.Path,
              form: str) -> int:
  """Prints what it comes to and the next command; returns the exit status."""
  if checked.metrics:
    top1, opened = checked.metrics["top1"], checked.dataset
    print(f"top-1 {top1['value']:.2f} % ({top1['low']:.2f} to "
          f"{top1['high']:.2f}) on {opened['name']}/{opened['split']}, "
          f"{opened['num_examples']:,} examples")
  export_dir = program.shown_path(export_dir)
  print(f"report  {export_dirs.report_path(export_dir)}\n"
        f"card    {export_dirs.card_path(export_dir)}")
  if checked.metrics:
    page = export_dirs.evaluation_path(
        export_dir, opened["name"], opened["split"], export_dirs.PAGE_SUFFIX)
    print(f"page    {page}")
  failed = [f"{c.group}/{c.name}" for c in checked.checks
            if c.status == report.FAILED]
  if failed:
    print(f"\nfailed: {', '.join(failed)}; the export must not be published.")
    return 1
  if checked.status == report.PASSED:
    publish = program.command("//hub_export:publish")
    print(f"\nAll {len(checked.checks)} checks passed in {checked.seconds:.0f} "
          f"s. Next:\n  {publish} --export_dir={export_dir} --to=DIR")
    return 0
  if _QUICK.value:
    check = extras.command(form, "//checks:check")
    print(f"\nThe quick checks passed. Next, all of them:\n  {check} "
          f"--export_dir={export_dir}")
    return 0
  raise errors.ChecksError(
      "nothing failed, but some checks were not run, so the export cannot be "
      "published yet; the reasons stand above")


def _bar(suite):
  """Returns a Progress that draws bars on a terminal's standard error."""

  class Bar(suite.Progress):
    """One bar over the checks, one over the examples of an evaluation."""

    def __init__(self):
      self._checks = None
      self._examples = None

    def start(self, num_checks: int) -> None:
      self._checks = tqdm.tqdm(total=num_checks, unit="check", leave=False,
                               disable=None, dynamic_ncols=True)

    def check(self, group: str, name: str) -> None:
      self._checks.set_description(f"{group}/{name}")

    def result(self, result: report.CheckResult) -> None:
      del result  # The table comes at the end.
      self._close_examples()
      self._checks.update()

    def examples(self, done: int, total: int, correct: int) -> None:
      if self._examples is None:
        self._examples = tqdm.tqdm(total=total, unit="image", leave=False,
                                   position=1, disable=None,
                                   dynamic_ncols=True)
      self._examples.update(done - self._examples.n)
      if done:
        self._examples.set_postfix_str(f"top-1 {100 * correct / done:.2f} %",
                                       refresh=False)

    def close(self) -> None:
      self._close_examples()
      if self._checks is not None:
        self._checks.close()

    def _close_examples(self) -> None:
      if self._examples is not None:
        self._examples.close()
        self._examples = None

  return Bar()


if __name__ == "__main__":
  program.run(main)
