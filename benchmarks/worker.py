"""One contestant in a process of its own, asked for one thing after another.

Standard input: a JSON object per line, whose "do" is one of

  open     {"task": {...}}             -> {"versions": {...}}
  outputs  {"images": npy, "to": npy}  -> {}        writes what comes out
  ready    {"images": npy, "labels": npy or null}   -> {"loss": number or null}
           these images are what is run from now on; a few calls warm up
  time     {"seconds": s, "fewest": n} -> {"wall": [s], "cpu": s, "others": x}
  memory   {}                          -> {"peak_bytes": n}

Standard output: an object for each; {"error": text} where it went wrong. Ends
with its input. Needs the runtime, NumPy and the standard library only: it may
run in a Python that knows nothing of this project.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from checks import meter

_WARM_UP_CALLS = 2
_MOST_CALLS = 200
_PAUSE_SECONDS = 0.25


class Worker:
  """Answers requests about one model."""

  def __init__(self):
    self._task: Mapping[str, Any] = {}
    self._model: Any = None
    self._call: Callable[[], Any] | None = None

  def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the answer to one request."""
    return getattr(self, "do_" + request["do"])(request)

  def do_open(self, request: Mapping[str, Any]) -> dict[str, Any]:
    self._task = request["task"]
    runtime = importlib.import_module(
        "benchmarks.runtimes." + self._task["runtime"])
    self._model = runtime.open_model(self._task)
    return {"versions": self._model.versions}

  def do_outputs(self, request: Mapping[str, Any]) -> dict[str, Any]:
    import numpy as np  # pylint: disable=g-import-not-at-top
    outputs = self._model.call(np.load(request["images"]))()
    np.save(request["to"], self._model.array(outputs))
    return {}

  def do_ready(self, request: Mapping[str, Any]) -> dict[str, Any]:
    import numpy as np  # pylint: disable=g-import-not-at-top
    images = np.load(request["images"])
    if self._task["mode"] == "train":
      self._call = self._model.step(images, np.load(request["labels"]))
      loss = self._call()
    else:
      self._call, loss = self._model.call(images), None
    for _ in range(_WARM_UP_CALLS):
      self._call()
    return {"loss": loss}

  def do_time(self, request: Mapping[str, Any]) -> dict[str, Any]:
    # Other runtimes' idle threads go on turning round for up to 0.2 s.
    time.sleep(_PAUSE_SECONDS)
    if self._task["mode"] == "infer":
      self._call()  # Others have had the caches meanwhile.
    turn = meter.time_calls(
        self._call, lambda calls, seconds: calls >= _MOST_CALLS or (
            calls >= request["fewest"] and seconds >= request["seconds"]))
    return {"wall": turn.wall, "cpu": turn.cpu, "others": turn.others}

  def do_memory(self, request: Mapping[str, Any]) -> dict[str, Any]:
    del request
    # Linux has kilobytes there: getrusage(2).
    return {"peak_bytes":
            1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def main() -> None:
  # Whatever else may print must not get between the answers.
  answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(2, 1)
  worker = Worker()
  for line in sys.stdin:
    try:
      answer = worker.answer(json.loads(line))
    except Exception as e:  # pylint: disable=broad-except
      # Of any runtime whatsoever; the other side decides what comes of it.
      answer = {"error": f"{type(e).__name__}: {e}"[:2000]}
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
  main()
