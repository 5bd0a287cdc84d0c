"""What the machine is that figures come from."""

import os
import pathlib
import platform
import re
from typing import Any

# What runtimes choose their kernels by.
_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16",
          "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16",
          "i8mm", "sve")
_NAMES = ("model name", "Model", "Hardware")  # proc(5): by architecture.


def describe(cpuinfo: str | None = None, meminfo: str | None = None
             ) -> dict[str, Any]:
  """Returns the machine: processor, what it can do, cores, memory, system.

  Args:
    cpuinfo: Content of /proc/cpuinfo, read if not given.
    meminfo: The same of /proc/meminfo.
  """
  cpuinfo = _read("cpuinfo") if cpuinfo is None else cpuinfo
  meminfo = _read("meminfo") if meminfo is None else meminfo
  words = set((_field(cpuinfo, "flags") or _field(cpuinfo, "Features")
               or "").split())
  total = re.search(r"MemTotal:\s+(\d+) kB", meminfo)
  return {
      "processor": next(filter(None, (_field(cpuinfo, n) for n in _NAMES)),
                        platform.machine()),
      "family_model_stepping": [
          _field(cpuinfo, n) for n in ("cpu family", "model", "stepping")],
      "flags": [flag for flag in _FLAGS if flag in words],
      "is_virtual": "hypervisor" in words,
      "cores": os.cpu_count(),
      "memory_bytes": 1024 * int(total[1]) if total else None,
      "system": f"{platform.system()} {platform.release()} "
                f"{platform.machine()}",
      "python": platform.python_version(),
      "load": [round(v, 2) for v in os.getloadavg()],  # 1, 5, 15 minutes.
      "niceness": os.nice(0)}


def line(found: dict[str, Any]) -> str:
  """Returns a description in one line for people."""
  numbers = "/".join(str(n) for n in found["family_model_stepping"])
  memory = found["memory_bytes"]
  return (f"{found['processor']} (family/model/stepping {numbers}; "
          f"{' '.join(found['flags'])}), {found['cores']} cores"
          f"{', virtual' if found['is_virtual'] else ''}, "
          f"{f'{memory / 2**30:.0f} GiB, ' if memory else ''}"
          f"{found['system']}, load {found['load'][0]} at the start, "
          f"niceness {found['niceness']}")


def _field(cpuinfo: str, name: str) -> str | None:
  found = re.search(rf"^{name}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
  return found[1].strip() if found else None


def _read(name: str) -> str:
  path = pathlib.Path("/proc", name)
  return path.read_text("utf-8") if path.exists() else ""
