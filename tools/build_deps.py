"""Keeps the BUILD files true to the imports: no dependency missing or idle.

    python3 tools/build_deps.py          says what is wrong, exits with 1
    python3 tools/build_deps.py --fix    puts it right

Every module, program and test has a rule of its own, named like the file, and
its `deps` are the modules of this repository that the file imports. A package's
__init__.py is the rule "package", on which the package's modules depend. What
a file starts as a process or reads as a file stands in `data`, which is kept by
hand, as are sizes, tags and visibility. Needs Python 3.9 and nothing else.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
import pathlib
import sys

_RULES = ("py_library", "py_binary", "pytest_test")
_NOT_SOURCE = ("__pycache__", "bazel4", "exports", "published", "venv")
_LOAD = 'load("//tools/python:defs.bzl", "pytest_test")\n'
_HEAD = 'package(default_visibility = ["//:__subpackages__"])\n'


@dataclasses.dataclass(frozen=True)
class Rule:
  """A rule that a BUILD file has or should have."""
  kind: str              # One of _RULES.
  name: str
  source: str            # Name of its Python file, in the same directory.
  deps: tuple[str, ...]  # Labels, sorted as buildifier does.
  is_heavy: bool         # A test with TensorFlow at work; only for new rules.


def wanted_rules(root: pathlib.Path) -> dict[pathlib.Path, list[Rule]]:
  """Returns for each directory with Python files the rules it should have.

  Args:
    root: The repository's root.
  """
  sources = _python_files(root)
  rules = {}
  for source in sources:
    if str(source.parent) == "." or _is_exported(root, source):
      continue
    rules.setdefault(source.parent, []).append(_rule(root, source, sources))
  return rules


def problems(root: pathlib.Path) -> list[str]:
  """Returns a line for each rule that is missing or has wrong deps."""
  found = []
  for directory, rules in wanted_rules(root).items():
    build = root / directory / "BUILD"
    present = _present_rules(build)
    for rule in rules:
      place = f"//{directory.as_posix()}:{rule.name}"
      if rule.source not in present:
        found.append(f"{place} is missing: no {rule.kind} has "
                     f"{rule.source} as its source")
        continue
      deps = _deps(present[rule.source])
      for label in rule.deps:
        if label not in deps:
          found.append(f"{place} imports {label}, which its deps lack")
      for label in deps:
        if label not in rule.deps:
          found.append(f"{place} does not import {label} of its deps")
    sources = {rule.source for rule in rules}
    found += [f"{build.relative_to(root)}: there is no {source}"
              for source in present if source not in sources]
  return found


def fix(root: pathlib.Path) -> None:
  """Rewrites the deps that are wrong and appends the rules that are missing.

  Rules whose source is gone are left for a person to take out.
  """
  for directory, rules in wanted_rules(root).items():
    build = root / directory / "BUILD"
    text = build.read_text() if build.exists() else _HEAD
    for rule in rules:
      present = _present_rules_of(text)
      if rule.source not in present:
        text = _append(text, rule)
      elif sorted(_deps(present[rule.source])) != sorted(rule.deps):
        text = _replace_deps(text, present[rule.source], rule.deps)
    if not build.exists() or text != build.read_text():
      build.write_text(text)


def _python_files(root: pathlib.Path) -> list[pathlib.Path]:
  """Returns the Python files below `root`, relative to it and sorted."""
  found = []
  for directory, subdirectories, names in os.walk(root):
    # os.walk goes on to what is left in this list.
    subdirectories[:] = [d for d in subdirectories
                         if d not in _NOT_SOURCE
                         and not d.startswith((".", "bazel-"))]
    found += [pathlib.Path(directory, name).relative_to(root)
              for name in names if name.endswith(".py")]
  return sorted(found)


def _is_exported(root: pathlib.Path, source: pathlib.Path) -> bool:
  """Whether a macro's own file: in its BUILD file's exports_files."""
  build = root / source.parent / "BUILD"
  return build.exists() and any(
      isinstance(node, ast.Call) and _callee(node) == "exports_files" and
      source.name in ast.literal_eval(node.args[0])
      for node in ast.walk(ast.parse(build.read_text())))


def _rule(root: pathlib.Path, source: pathlib.Path,
          sources: list[pathlib.Path]) -> Rule:
  tree = ast.parse((root / source).read_text("utf-8"), str(source))
  if source.name.endswith("_test.py"):
    kind = "pytest_test"
  elif any(isinstance(node, ast.If) and "__main__" in ast.dump(node.test)
           for node in tree.body):
    kind = "py_binary"
  else:
    kind = "py_library"
  used = set()
  for file in _imported_files(tree, source, sources):
    used.add(_label(file))
    above = file.parent / "__init__.py"
    if (above in sources and _imports_own(root, above, sources)
        and file.parent != source.parent):
      used.add(_label(above))
  name = source.stem
  package = source.parent / "__init__.py"
  if source.name == "__init__.py":
    name = "package"
    package = source.parent.parent / "__init__.py"
  if package in sources and not _imports_own(root, package, sources):
    used.add(_label(package))
  conftest = source.parent / "conftest.py"
  if kind == "pytest_test" and conftest in sources:
    used.add(_label(conftest))
  here = f"//{source.parent.as_posix()}:"
  deps = [":" + label[len(here):] if label.startswith(here) else label
          for label in used if label != _label(source)]
  deps.sort(key=lambda label: (not label.startswith(":"), label.split(":")))
  is_heavy = kind == "pytest_test" and any(
      alias.name.startswith("tensorflow") for node in ast.walk(tree)
      if isinstance(node, ast.Import) for alias in node.names)
  return Rule(kind, name, source.name, tuple(deps), is_heavy)


def _imported_files(tree: ast.Module, source: pathlib.Path,
                    sources: list[pathlib.Path]) -> set[pathlib.Path]:
  """Returns the repository's files that `source` imports, at whatever depth."""
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      if node.level:
        raise SystemExit(f"{source}:{node.lineno}: a relative import; expected "
                         "the path from the root: from hub_export import x")
      names.update(f"{node.module}.{alias.name}" for alias in node.names)
  files = set()
  for name in names:
    path = pathlib.Path(*name.split("."))
    # What a file is not is a name in the file or package above it.
    for candidate in (path.with_suffix(".py"), path / "__init__.py",
                      path.parent.with_suffix(".py") if path.parent.name
                      else path, path.parent / "__init__.py"):
      if candidate in sources:
        files.add(candidate)
        break
  return files


def _imports_own(root: pathlib.Path, package: pathlib.Path,
                 sources: list[pathlib.Path]) -> bool:
  """Whether an __init__.py imports modules of its package: a circle else."""
  tree = ast.parse((root / package).read_text("utf-8"))
  return any(file.is_relative_to(package.parent)
             for file in _imported_files(tree, package, sources))


def _label(source: pathlib.Path) -> str:
  name = "package" if source.name == "__init__.py" else source.stem
  return f"//{source.parent.as_posix()}:{name}"


def _present_rules(build: pathlib.Path) -> dict[str, ast.Call]:
  return _present_rules_of(build.read_text() if build.exists() else "")


def _present_rules_of(text: str) -> dict[str, ast.Call]:
  """Returns a BUILD file's rules for Python files, by their source."""
  return {
      source: node
      for node in ast.walk(ast.parse(text))
      if isinstance(node, ast.Call) and _callee(node) in _RULES
      for keyword in node.keywords if keyword.arg == "srcs"
      for source in ast.literal_eval(keyword.value)}


def _callee(call: ast.Call) -> str:
  return call.func.id if isinstance(call.func, ast.Name) else ""


def _deps(call: ast.Call) -> list[str]:
  for keyword in call.keywords:
    if keyword.arg == "deps":
      return ast.literal_eval(keyword.value)
  return []


def _render_deps(deps: tuple[str, ...]) -> str:
  if len(deps) == 1:
    return f'    deps = ["{deps[0]}"],\n'
  lines = [f'        "{label}",\n' for label in deps]
  return "".join(["    deps = [\n", *lines, "    ],\n"])


def _append(text: str, rule: Rule) -> str:
  lines = [f"{rule.kind}(\n", f'    name = "{rule.name}",\n']
  if rule.kind == "pytest_test":
    size = "medium" if rule.is_heavy else "small"
    lines.append(f'    size = "{size}",\n')
    if _LOAD not in text:
      text = _LOAD + ("\n" + text if text else "")
  lines.append(f'    srcs = ["{rule.source}"],\n')
  if rule.kind != "pytest_test":
    lines.append('    srcs_version = "PY3",\n')
  if rule.deps:
    lines.append(_render_deps(rule.deps))
  return text + ("\n" if text else "") + "".join([*lines, ")\n"])


def _replace_deps(text: str, call: ast.Call, deps: tuple[str, ...]) -> str:
  lines = text.splitlines(keepends=True)
  rendered = [_render_deps(deps)] if deps else []
  for keyword in call.keywords:
    if keyword.arg == "deps":
      lines[keyword.lineno - 1:keyword.value.end_lineno] = rendered
      return "".join(lines)
  lines[call.end_lineno - 1:call.end_lineno - 1] = rendered
  return "".join(lines)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--fix", action="store_true",
                      help="rewrite the BUILD files")
  arguments = parser.parse_args()
  root = pathlib.Path(__file__).resolve().parent.parent
  if arguments.fix:
    fix(root)
  found = problems(root)
  for problem in found:
    print(problem, file=sys.stderr)
  if found:
    print("build_deps: the BUILD files and the imports disagree; run "
          "python3 tools/build_deps.py --fix", file=sys.stderr)
  return 1 if found else 0


if __name__ == "__main__":
  sys.exit(main())
