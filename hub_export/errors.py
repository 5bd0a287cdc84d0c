"""Errors that a user can do something about.

A program prints the message of a `HubExportError` and exits with status 1;
any other exception is a bug and keeps its traceback. A message says what was
wrong (where, and the value seen), what was expected and what to do.
"""

from collections.abc import Sequence


class HubExportError(Exception):
  """Something about the input or the machine, told in one message."""


class UsageError(HubExportError):
  """The command line does not make sense; programs exit with status 2."""


class CheckpointError(HubExportError):
  """A checkpoint that cannot be read, or does not fit the variant."""


class UnavailableError(HubExportError):
  """A checkpoint or data set that is neither on this machine nor reachable."""


class WriteError(HubExportError):
  """A file or directory that could not be written."""


class RemoteError(HubExportError):
  """A remote place that cannot be reached, refuses, or fails."""


class ChecksError(HubExportError):
  """An export that has not passed its checks."""


_MOST_LINES = 1000


def join_problems(summary: str, problems: Sequence[str], advice: str) -> str:
  """Returns one message: the summary, a line per problem, what to do.

  Args:
    summary: What was wrong, without a full stop.
    problems: One line each. All are shown, but for those of a hostile file:
      from the thousandth on they are counted.
    advice: What to do about it, a sentence.
  """
  shown = [f"  {problem}" for problem in problems[:_MOST_LINES]]
  if len(problems) > len(shown):
    shown.append(f"  ... and {len(problems) - len(shown)} more")
  return "\n".join([f"{summary}:", *shown, advice])
