"""Runs a TF.js form in TensorFlow.js, in a process of Node.js."""

import json
import math
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from checks.forms import constants
from hub_export import errors
from hub_export.forms import extras
from hub_export.forms import tfjs as form

_RUNNER = pathlib.Path(__file__).with_name("run_tfjs.js")
# Nothing of the user's: a preloaded script could change what is measured.
_IGNORED = ("NODE_OPTIONS", "NODE_PATH")


class Session:
  """A graph model, loaded; a context that ends the process."""
  graph: Mapping[str, Any]  # The content of model.json.

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
    self.graph = read(directory)
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


class Model:
  """What loading.load gives back for a TF.js form."""

  def __init__(self, directory: pathlib.Path, backend: str = "wasm"):
    """Loads the model; see Session."""
    self._directory = directory
    self._session = Session(directory, backend)
    self.about = self._session.about

  def __call__(self, images: tf.Tensor) -> tf.Tensor:
    return tf.constant(self._session.run(np.asarray(images)))

  def close(self) -> None:
    """Ends the process that runs the model; else that ends with this one."""
    self._session.close()

  @property
  def signatures(self) -> Mapping[str, Callable[..., dict[str, tf.Tensor]]]:
    """The one function, under the name that SavedModels have for it."""
    output, = self.about["outputs"]
    return {"serving_default": lambda images: {output: self(images)}}

  @property
  def graph(self) -> Mapping[str, Any]:
    """The content of model.json."""
    return self._session.graph

  @property
  def variables(self) -> list[constants.Constant]:
    """The last layer's kernel and bias: what the outputs are made from."""
    graph = self.graph
    output, = graph["signature"]["outputs"].values()
    nodes = {n["name"]: n for n in graph["modelTopology"]["node"]}
    node = nodes[output["name"].partition(":")[0]]
    if node["op"] != "_FusedMatMul":
      return []
    values = weights(self._directory, graph)
    names = node["input"][1:3]
    if len(names) != 2 or not values.keys() >= {*names}:
      return []
    return constants.head(*(values[name] for name in names))


def read(directory: pathlib.Path) -> dict[str, Any]:
  """Returns the content of model.json, whose shards are there and whole.

  Raises:
    ChecksError: if it cannot be read, or a shard is missing, or they are longer
      or shorter than what is in them.
  """
  path = directory / form.MODEL
  try:
    graph = json.loads(path.read_text("utf-8"))
    groups = [(group["paths"], sum(
        math.prod(w["shape"]) * np.dtype(w["dtype"]).itemsize
        for w in group["weights"])) for group in graph["weightsManifest"]]
    _ = [(node["name"], node["op"]) for node in graph["modelTopology"]["node"]]
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise errors.ChecksError(
        f"{path} cannot be read ({type(e).__name__}: {e}); expected a graph "
        "model of TensorFlow.js. Export it again.") from e
  for names, num_bytes in groups:
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
      raise errors.ChecksError(
          f"{directory} has no {', '.join(missing)}; expected every shard that "
          f"{form.MODEL} names. Export it again.")
    seen = sum((directory / name).stat().st_size for name in names)
    if seen != num_bytes:
      raise errors.ChecksError(
          f"the shards of {directory} hold {seen:,} bytes; expected the "
          f"{num_bytes:,} that {form.MODEL} tells of. Export it again.")
  return graph


def weights(directory: pathlib.Path, graph: Mapping[str, Any]
            ) -> dict[str, np.ndarray]:
  """Returns the constants of a graph model, read from its shards.

  Args:
    directory: With the shards.
    graph: What `read` returned.
  """
  found = {}
  for group in graph["weightsManifest"]:
    content = b"".join((directory / p).read_bytes() for p in group["paths"])
    start = 0
    for entry in group["weights"]:
      count = math.prod(entry["shape"])
      values = np.frombuffer(content, np.dtype(entry["dtype"]), count, start)
      found[entry["name"]] = values.reshape(entry["shape"])
      start += values.nbytes
  return found
