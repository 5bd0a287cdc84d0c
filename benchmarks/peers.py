r"""Makes the environment of the benchmarks' peers.

  bazel run //benchmarks:peers
  bazel run //benchmarks:peers -- --torch

Installs ONNX Runtime, OpenVINO, LiteRT and onnx, or with --torch PyTorch and
timm, from a lock with hashes into a directory of the cache, where the other
benchmarks find it. Nothing else is touched; to undo it, delete the directory
that is named at the end. On Linux --torch needs 7 GB, as the package index has
PyTorch with CUDA only: where an environment with a smaller one exists, give its
Python to the benchmarks as --peers_python instead.

Exit status: 0 done, 1 it could not be installed, 2 wrong usage.
"""

from collections.abc import Sequence
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from absl import flags

from benchmarks import pythons
from hub_export import errors
from hub_export import program

_TORCH = flags.DEFINE_bool(
    "torch", False, "PyTorch and timm instead of the others; large.")


def main(_: Sequence[str]) -> int:
  target = pythons.environment_dir(_TORCH.value)
  if pythons.made_python(_TORCH.value):
    print(f"Already there: {target}")
    return 0
  install(pythons.lock(_TORCH.value), target)
  print(f"Made: {target}")
  return 0


def install(lock: pathlib.Path, target: pathlib.Path) -> None:
  """Makes a virtual environment with all of a lock, or nothing.

  Args:
    lock: Requirements with hashes.
    target: Where; nothing may be there.

  Raises:
    HubExportError: if it cannot be made.
  """
  target.parent.mkdir(parents=True, exist_ok=True)
  # What an interrupted run left.
  shutil.rmtree(target, ignore_errors=True)
  try:
    _run([sys.executable, "-m", "venv", str(target)])
    python = target / "bin" / "python"
    _run([str(python), "-m", "pip", "install", "--quiet", "--require-hashes",
          "--no-deps", "-r", str(lock)])
    (target / pythons.WHOLE).touch()
  except BaseException:
    shutil.rmtree(target, ignore_errors=True)
    raise


def _run(command: Sequence[str]) -> None:
  environment = {name: value for name, value in os.environ.items()
                 if name not in ("PYTHONPATH", "PYTHONHOME")}
  with tempfile.TemporaryFile() as log:
    if subprocess.run(
        command, env=environment | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdout=2, stderr=log, check=False).returncode:
      log.seek(0)
      said = log.read().decode(errors="replace").strip()
      raise errors.HubExportError(
          f"`{' '.join(command[:4])} ...` failed; expected the package index "
          "to be reachable, and to have these versions for this Python: "
          f"{said[-800:]}. Or give a Python that has the peers to the "
          "benchmarks with --peers_python.")


if __name__ == "__main__":
  program.run(main)
