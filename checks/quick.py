"""Runs quick checks for another program, which names exports as it makes them.

Standard input: a JSON string per line, the directory of one version. Standard
output: for each, in order, one line {"passed": bool, "message": str}. The other
program starts this one first, so that TensorFlow is imported here while the
exports are still being made there.
"""

import json
import os
import pathlib
import sys
import warnings

from checks import report
from hub_export import errors
from hub_export import program


def main() -> None:
  # Whatever else may print must not get between the answers.
  answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(2, 1)
  # tensorflow-hub 0.16.1 makes setuptools warn about tensorflow-hub.
  warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
  with program.quiet_start():
    from checks import suite  # pylint: disable=g-import-not-at-top
  for line in sys.stdin:
    try:
      checked = suite.run(pathlib.Path(json.loads(line)), quick=True)
      failed = [f"{c.group}/{c.name}: {c.message}" for c in checked.checks
                if c.status == report.FAILED]
    except errors.HubExportError as e:
      failed = [str(e)]
    print(json.dumps({"passed": not failed, "message": "\n".join(failed)}),
          file=answers, flush=True)


if __name__ == "__main__":
  main()
