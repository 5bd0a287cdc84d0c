"""Runs a TF.js form in TensorFlow.js, in a process of Node.js."""

import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from hub_export import errors
from hub_export.forms import extras

_RUNNER = pathlib.Path(__file__).with_name("run_tfjs.js")
# Nothing of the user's: a preloaded script could change what is measured.
_IGNORED = ("NODE_OPTIONS", "NODE_PATH")


class Session:
  """A graph model, loaded; a context that ends the process."""

  def __init__(self, directory: pathlib.Path, backend: str = "wasm"):
    """Loads the model.

    Args:
      directory: With model.json and its shards.
      backend: "wasm", which has vector instructions, or "cpu", which is
        JavaScript alone.

    Raises:
      UnavailableError: if Node.js or TensorFlow.js is not installed.
      ChecksError: if the model cannot be loaded.
    """
    node = extras.node()
    self._scratch = tempfile.TemporaryDirectory()
    self._log = tempfile.TemporaryFile("w+", encoding="utf-8")
    self._process = subprocess.Popen(
        [node.program, str(_RUNNER), str(node.modules), str(directory),
         backend],
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=self._log,
        env={k: v for k, v in os.environ.items() if k not in _IGNORED})
    try:
      # "version", "backend", "node", "inputs", "outputs", "metadata".
      self.about: Mapping[str, Any] = self._answer()
    except BaseException:
      self.close()
      raise

  def __enter__(self) -> "Session":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Ends the process."""
    self._process.kill()
    self._process.communicate()
    self._log.close()
    self._scratch.cleanup()

  def run(self, images: np.ndarray) -> np.ndarray:
    """Returns float32 [batch, outputs] for images.

    Args:
      images: float32 [batch, height, width, 3], RGB in [0, 1].

    Raises:
      ChecksError: if TensorFlow.js fails.
    """
    given = pathlib.Path(self._scratch.name, "input")
    made = given.with_name("output")
    given.write_bytes(np.ascontiguousarray(images, "<f4").data)
    task = {"input": str(given), "shape": list(images.shape),
            "output": str(made)}
    try:
      self._process.stdin.write(json.dumps(task) + "\n")
      self._process.stdin.flush()
    except BrokenPipeError:
      pass  # `_answer` tells of it.
    answer = self._answer()
    return np.fromfile(made, "<f4").reshape(answer["shape"])

  def _answer(self) -> Mapping[str, Any]:
    line = self._process.stdout.readline()
    if line:
      answer = json.loads(line)
      if "error" not in answer:
        return answer
      said = answer["error"]
    else:
      self._log.seek(0)
      said = (f"exit status {self._process.wait()}: "
              f"{self._log.read().strip()[-1000:] or 'nothing'}")
    raise errors.ChecksError(
        f"TensorFlow.js failed: {said}. Expected it to load and run the "
        "model; export it again.")
