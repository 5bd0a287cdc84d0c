"""What happens once in a process: imports, loading, first calls, an export.

A program of the benchmarks' own, started afresh for each figure. Argument: a
JSON object whose "do" is one of

  load     {"path", "with": "hub", "saved_model" or "keras", "images": npy}
  export   {"checkpoint", "variant", "output_dir"}: both modules
  infer    {"path", "images": npy, "batch_sizes", "seconds", "threads"}

Standard output's last line: a JSON object with times in seconds ("cpu" is
processor time), and "peak_bytes", the memory of this process at its highest.
"""

import json
import os
import pathlib
import resource
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any

from checks import meter


class _Watch:
  """Seconds on the clock and of the processor since it was made."""

  def __init__(self):
    self._wall, self._cpu = time.perf_counter(), meter.own_seconds()

  def seconds(self) -> dict[str, float]:
    return {"wall": time.perf_counter() - self._wall,
            "cpu": meter.own_seconds() - self._cpu}


def load(task: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the times of imports, of loading and of the first call."""
  # pylint: disable=g-import-not-at-top
  watch = _Watch()
  import numpy as np
  import tensorflow as tf
  if task["with"] == "hub":
    import tensorflow_hub as hub
    opening = hub.load
  elif task["with"] == "keras":
    import tf_keras
    opening = tf_keras.models.load_model
  else:
    opening = tf.saved_model.load
  imports = watch.seconds()
  images = tf.constant(np.load(task["images"])[:1])
  watch = _Watch()
  model = opening(task["path"])
  loading = watch.seconds()
  watch = _Watch()
  call = model.signatures["serving_default"] if (
      task["with"] == "saved_model") else model
  out = call(images)
  (next(iter(out.values())) if isinstance(out, dict) else out).numpy()
  return {"imports": imports, "load": loading, "first_call": watch.seconds()}


def export(task: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the times of imports and of writing both modules."""
  # pylint: disable=g-import-not-at-top
  watch = _Watch()
  from hub_export import program
  with program.quiet_start():  # As the program itself has it.
    from hub_export import saved_model
    from hub_export.regnet import family
    from hub_export.regnet import resolve
    from hub_export.regnet import variants
    from hub_export.regnet import wishes
  imports, imported_bytes = watch.seconds(), peak_bytes()
  watch = _Watch()
  resolved = resolve.resolve(
      task["checkpoint"], variants.by_name(task["variant"]),
      program.cache_dir(), wishes.Wishes(), program.user_path,
      lambda text: None)
  sizes = {}
  for module in family.hub_modules(resolved, "main"):
    written = saved_model.write(module, pathlib.Path(task["output_dir"]),
                                "local", False)
    sizes[module.name] = disk_bytes(written.export_dir)
  return {"imports": imports, "imported_bytes": imported_bytes,
          "export": watch.seconds(), "disk_bytes": sizes}


def infer(task: Mapping[str, Any]) -> dict[str, Any]:
  """Returns times per image by batch size, as `meter.Turn` has them."""
  # pylint: disable=g-import-not-at-top
  import numpy as np
  from benchmarks.runtimes import tensorflow_runtime
  imported_bytes = peak_bytes()
  model = tensorflow_runtime.open_model({
      "what": "saved_model", "path": task["path"], "precision": "float32",
      "mode": "infer", "threads": task["threads"]})
  images = np.load(task["images"])
  found = {}
  for size in task["batch_sizes"]:
    call = model.call(images[:size])
    for _ in range(2):
      call()
    turn = meter.time_calls(call, lambda calls, seconds: calls >= 3 and (
        seconds >= task["seconds"]))
    found[str(size)] = {"wall": turn.median / size, "cpu": turn.cpu / size,
                        "others": turn.others}
  return {"imported_bytes": imported_bytes, "batches": found}


def disk_bytes(directory: pathlib.Path) -> int:
  """Returns the size of all files below a directory."""
  return sum(path.stat().st_size for path in directory.rglob("*")
             if path.is_file())


def peak_bytes() -> int:
  """Returns this process's memory at its highest so far."""
  # Linux has kilobytes there: getrusage(2).
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
  answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(2, 1)
  # tensorflow-hub 0.16.1 makes setuptools warn about tensorflow-hub.
  warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
  task = json.loads(sys.argv[1])
  busy, own, clock = (meter.busy_seconds(), meter.own_seconds(),
                      time.perf_counter())
  found = {"load": load, "export": export, "infer": infer}[task["do"]](task)
  others = meter.others_share(
      meter.busy_seconds() - busy, meter.own_seconds() - own,
      time.perf_counter() - clock, os.cpu_count())
  print(json.dumps(found | {"peak_bytes": peak_bytes(), "others": others}),
        file=answers, flush=True)


if __name__ == "__main__":
  main()
