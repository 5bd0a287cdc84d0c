r"""Runs all benchmarks that go into the README, one after the other.

  bazel run //benchmarks:suite -- --output_dir=results
  bazel run //benchmarks:suite -- --variant=1.6gf --output_dir=results

They are //benchmarks:inference, finetune, load, export and scale, with the
flags given here. One that fails does not keep the others from running.

Exit status: 0 all done, 1 one or more failed, 2 wrong usage.
"""

from collections.abc import Sequence
import sys

from absl import flags

from benchmarks import options
from benchmarks import processes
from hub_export import program

flags.adopt_module_key_flags(options)
_GRACE_SECONDS = 30.0  # More than a benchmark gives what it has started.
PROGRAMS = ("inference", "finetune", "load", "export", "scale")


def main(_: Sequence[str]) -> int:
  # A flag that was given several times is several lines.
  given = [word for flag in program.given_flags(sys.argv[0])
           for word in flag.splitlines()]
  failed = []
  for name in PROGRAMS:
    print(f"\n=== //benchmarks:{name}\n", flush=True)
    with processes.started(
        [sys.executable, "-m", f"benchmarks.{name}", *given],
        program.child_environment(), _GRACE_SECONDS) as process:
      if process.wait():
        failed.append(name)
  if failed:
    print(f"\nFailed, see above: {', '.join(failed)}", file=sys.stderr)
  return 1 if failed else 0


if __name__ == "__main__":
  program.run(main)
