"""No program imports TensorFlow before it knows that its flags are right.

Importing it takes seconds; help texts and usage errors are to come at once.
"""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).absolute().parents[1]
PACKAGES = ("benchmarks", "checks", "hub_export", "model_cards")
# Runs a program as __main__, then says what was imported and how it ended.
RUN = """
import json, runpy, sys
module, sys.argv = sys.argv[1], sys.argv[1:]
sys.stdout.flush()
try:
  runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as e:
  status = e.code
sys.__stdout__.flush()
heavy = ("tensorflow", "tf_keras", "tensorflow_hub", "tensorflow_datasets")
print("\\n" + json.dumps([status, [m for m in heavy if m in sys.modules]]))
"""


def _starts(path: pathlib.Path) -> bool:
  """Returns whether a file runs `program.run` or absl's when it is started."""
  tree = ast.parse(path.read_text(encoding="utf-8"))
  return any(
      isinstance(node, ast.Call) and ast.unparse(node.func) in (
          "program.run", "app.run")
      for statement in tree.body if isinstance(statement, ast.If)
      for node in ast.walk(statement))


PROGRAMS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    if _starts(path))


def _run(*arguments: str) -> tuple[int, list[str], str, str]:
  done = subprocess.run(
      [sys.executable, "-c", RUN, *arguments], cwd=ROOT, text=True,
      capture_output=True, check=False, timeout=120)
  out, _, last = done.stdout.rstrip().rpartition("\n")
  status, heavy = json.loads(last)
  return status, heavy, out, done.stderr


def test_the_programs_are_found():
  # Under Bazel, those in this test's data.
  assert {"benchmarks.evaluation", "benchmarks.export", "benchmarks.finetune",
          "benchmarks.inference", "benchmarks.load", "benchmarks.peers",
          "benchmarks.scale", "benchmarks.serve", "benchmarks.suite",
          "checks.check",
          "checks.compare", "checks.datasets", "checks.evaluate",
          "checks.evaluate_fleet", "checks.verify", "hub_export.catalog",
          "hub_export.export", "hub_export.publish", "hub_export.release",
          "hub_export.serve", "model_cards.render_examples",
          "model_cards.validate"} <= set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help(name):
  status, heavy, out, _ = _run(name, "--help")
  assert (status, heavy) == (0, [])
  assert "Flags:" in out or "It has no flags." in out


@pytest.mark.parametrize("name", PROGRAMS)
def test_usage_error(name):
  status, heavy, _, err = _run(name, "--no_such_flag")
  assert (status, heavy) == (2, [])
  assert "no_such_flag" in err
