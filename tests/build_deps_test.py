"""Tests of tools/build_deps.py, and of this repository's BUILD files."""

import pathlib

import pytest

from tools import build_deps

# The BUILD file that belongs to the sources below, written by hand.
LIB_BUILD = '''\
package(default_visibility = ["//:__subpackages__"])

py_library(
    name = "package",
    srcs = ["__init__.py"],
    srcs_version = "PY3",
)

py_library(
    name = "low",
    srcs = ["low.py"],
    srcs_version = "PY3",
    deps = [":package"],
)

py_binary(
    name = "tool",
    srcs = ["tool.py"],
    srcs_version = "PY3",
    deps = [
        ":low",
        ":package",
        "//lib/inner:package",
        "//lib/inner:part",
    ],
)
'''

TESTS_BUILD = '''\
load("//tools/python:defs.bzl", "pytest_test")

package(default_visibility = ["//:__subpackages__"])

py_library(
    name = "conftest",
    srcs = ["conftest.py"],
    srcs_version = "PY3",
)

pytest_test(
    name = "low_test",
    size = "small",
    srcs = ["low_test.py"],
    deps = [
        ":conftest",
        "//lib:low",
    ],
)
'''


@pytest.fixture(name="root")
def _root(tmp_path):
  sources = {
      "lib/__init__.py": "",
      "lib/low.py": "import os\nVALUE = 1\n",
      "lib/tool.py": ("import numpy.linalg\nfrom lib import inner, low\n"
                      "def main():\n  from lib.inner.part import f\n"
                      'if __name__ == "__main__":\n  main()\n'),
      "lib/inner/__init__.py": "VALUE = 2\n",
      "lib/inner/part.py": "import lib.inner\n",
      "tests/conftest.py": "",
      "tests/low_test.py": "from lib.low import VALUE\n",
      "bazel-out/lib/stale.py": "from lib import low\n",
  }
  for name, text in sources.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  return tmp_path


def test_the_build_files_of_this_repository():
  # Bazel's files are links; the repository is where they lead to.
  root = pathlib.Path(build_deps.__file__).resolve().parent.parent
  found = build_deps.problems(root)
  assert not found, "\n".join(
      ["run python3 tools/build_deps.py --fix", *found])


def test_fix_writes_the_rules(root):
  build_deps.fix(root)
  assert (root / "lib/BUILD").read_text() == LIB_BUILD
  assert (root / "tests/BUILD").read_text() == TESTS_BUILD
  assert not (root / "bazel-out/lib/BUILD").exists()
  assert not build_deps.problems(root)


def test_fix_keeps_what_is_kept_by_hand(root):
  build_deps.fix(root)
  build = root / "lib/BUILD"
  by_hand = LIB_BUILD.replace('deps = [":package"],',
                              '# Read at import.\n    data = ["x.txt"],')
  build.write_text(by_hand.replace('        ":low",\n', '        ":old",\n'))
  build_deps.fix(root)
  assert build.read_text() == by_hand.replace(
      '["x.txt"],\n', '["x.txt"],\n    deps = [":package"],\n')


def test_tests_of_tensorflow_get_time(root):
  (root / "tests/low_test.py").write_text("import tensorflow as tf\n")
  build_deps.fix(root)
  assert ('    size = "medium",\n    srcs = ["low_test.py"],\n'
          in (root / "tests/BUILD").read_text())


def test_problems_are_named(root):
  build_deps.fix(root)
  (root / "lib/low.py").write_text("from lib.inner import part\n")
  (root / "lib/tool.py").write_text("")
  (root / "tests/new_test.py").write_text("")
  (root / "lib/inner/part.py").unlink()
  problems = build_deps.problems(root)
  assert "//lib:low imports //lib/inner:package, which its deps lack" in problems
  assert "//lib:tool does not import :low of its deps" in problems
  assert ("//tests:new_test is missing: no pytest_test has new_test.py as its "
          "source") in problems
  assert "lib/inner/BUILD: there is no part.py" in problems


def test_package_that_imports_its_modules_makes_no_circle(root):
  (root / "lib/inner/__init__.py").write_text("from lib.inner import part\n")
  (root / "lib/inner/part.py").write_text("")
  rules = {(str(directory), rule.name): rule.deps for directory, rules
           in build_deps.wanted_rules(root).items() for rule in rules}
  assert rules["lib/inner", "package"] == (":part", "//lib:package")
  assert rules["lib/inner", "part"] == ()
  # Who imports the module from elsewhere runs the package's __init__ first.
  (root / "tests/low_test.py").write_text("from lib.inner import part\n")
  rules = {rule.name: rule.deps for rule in
           build_deps.wanted_rules(root)[pathlib.Path("tests")]}
  assert rules["low_test"] == (
      ":conftest", "//lib/inner:package", "//lib/inner:part")


def test_relative_imports_are_refused(root):
  (root / "lib/low.py").write_text("\nfrom . import inner\n")
  with pytest.raises(SystemExit, match=r"lib/low.py:2: a relative import"):
    build_deps.problems(root)
