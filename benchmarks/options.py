"""Flags that the benchmarks share."""

import dataclasses
import os
import pathlib

from absl import flags

from hub_export import program

VARIANT = flags.DEFINE_string("variant", "600mf", "Which network.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None,
    "Weights, as //hub_export:export takes them; by default made-up ones, with "
    "which everything takes as long.")
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 224, "Side of the images in pixels.", 32)
THREADS = flags.DEFINE_integer(
    "threads", os.cpu_count(), "Threads that each contestant may use.", 1)
ROUNDS = flags.DEFINE_integer(
    "rounds", 10, "Rounds that are to count; all have a turn in each.", 1)
SLOW_ROUNDS = flags.DEFINE_integer(
    "slow_rounds", 3,
    "The same where each figure takes a process of its own: load, export and "
    "scale.", 1)
SPARE_ROUNDS = flags.DEFINE_integer(
    "spare_rounds", 10,
    "How many more are held where others disturb; of slow ones at most as many "
    "as count.", 0)
MAX_OTHERS = flags.DEFINE_float(
    "max_others", 5.0,
    "A round in which others use more of the machine in somebody's turn is "
    "held again; in percent.", 0, 100)
PEERS_PYTHON = flags.DEFINE_multi_string(
    "peers_python", [],
    "A Python that has peers installed, such as timm; may be given several "
    "times. //benchmarks:peers makes one.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None,
    "Directory to write the figures (.json) and the picture (.png) to, made if "
    "missing; by default only the table is printed.")
WORK_DIR = flags.DEFINE_string(
    "work_dir", None,
    "Directory that keeps weights and exports for another run with the same "
    "flags; by default they are made in a temporary one.")


@dataclasses.dataclass(frozen=True)
class Setting:
  """What the flags say of the rounds."""
  threads: int
  rounds: int
  spare_rounds: int
  max_others: float  # From 0 to 1.


def setting() -> Setting:
  """Returns what the flags say."""
  return Setting(THREADS.value, ROUNDS.value, SPARE_ROUNDS.value,
                 MAX_OTHERS.value / 100)


def slow_setting() -> Setting:
  """Returns what they say of figures that take a process each."""
  rounds = SLOW_ROUNDS.value
  return dataclasses.replace(
      setting(), rounds=rounds, spare_rounds=min(SPARE_ROUNDS.value, rounds))


def output_dir() -> pathlib.Path | None:
  """Returns where results go to, None for nowhere."""
  return program.user_path(OUTPUT_DIR.value) if OUTPUT_DIR.value else None
