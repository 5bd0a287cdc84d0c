"""Publishes a checked export where users load it from.

    ./bazelw run //hub_export:publish -- \\
        --export_dir=exports/local/regnety600mf_digits_classification/1 \\
        --to=published

Only what has a passing report of its very bytes is published: module, archive,
card with its pictures, and report, all or nothing. Publishing it again does
nothing.
"""

from collections.abc import Sequence

from absl import flags

from hub_export import destinations
from hub_export import program
from hub_export import releases

_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Directory of one module's version, such as "
    "exports/local/regnety600mf_classification/1.", required=True)
_TO = flags.DEFINE_string(
    "to", None, "Where to publish: a directory, made if need be.",
    required=True)


def main(_: Sequence[str]) -> int:
  destination = destinations.choose(_TO.value)
  release = releases.read(program.user_path(_EXPORT_DIR.value))
  outcome = destination.put(release)
  destination.verify(release)
  print(f"{release.handle}: {outcome.value}")
  for what, where in destination.describe(release.handle):
    print(f"  {what:<8} {where}")
  print("Load it with:")
  for step in destination.next_steps(release.handle):
    print(f"  {step}")
  return 0


if __name__ == "__main__":
  program.run(main)
