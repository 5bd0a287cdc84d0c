"""What the command-line programs have in common: flags, messages, exit status.

Exit status: 0 done, 1 a `HubExportError` (its message is printed), 2 wrong
usage, 130 interrupted, 143 terminated. Anything else is a bug and shows its
traceback.

Importing TensorFlow takes seconds, so programs import what needs it inside
`main`: help texts and usage errors come at once.
"""

import contextlib
import gc
import os
import pathlib
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from absl import app
from absl import flags
from absl import logging

from hub_export import errors

# TensorFlow's C++ start-up chatter would bury what a program has to say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Else TensorFlow imports Keras 3 along with it, which no program uses: a fifth
# of the seconds that the import takes. tensorflow-hub takes tf-keras anyway.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")


class _Terminated(KeyboardInterrupt):
  """SIGTERM came: all that ends or tidies up after Ctrl-C does so now, too."""


def run(main: Callable[[Sequence[str]], int | None],
        arguments: Sequence[str] = ()) -> None:
  """Parses the flags, runs `main(argv)` and exits with its status.

  Args:
    main: Takes the arguments left after the flags, the program's name first;
      returns an exit status, None for 0.
    arguments: The names of its positional arguments; all have to be given,
      one that ends in "..." any number of times from one up.
  """
  # Any other one is refused: a forgotten "--" would otherwise be ignored
  # without a word.
  def guarded(argv: Sequence[str]) -> int:
    given, count = argv[1:], len(arguments)
    is_open = bool(arguments) and arguments[-1].endswith("...")
    if len(given) > count and not is_open:
      expected = (f"only {' '.join(arguments)} and flags" if arguments
                  else "only flags")
      _fail(f"unexpected argument {given[count]!r}; expected {expected}, "
            "--name=value. See --help.", 2)
    if len(given) < count:
      _fail(f"{arguments[len(given)]} is missing; expected "
            f"{' '.join(arguments)}. See --help.", 2)
    logging.set_verbosity(logging.WARNING)
    signal.signal(signal.SIGTERM, _terminate)
    try:
      status = main(argv) or 0
      sys.stdout.flush()
      return status
    except BrokenPipeError:
      # Who reads the output has enough, such as `| head`. Python would
      # complain of it once more at the end.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      return 128 + signal.SIGPIPE
    except errors.UsageError as e:
      return _print_error(e, 2)
    except errors.HubExportError as e:
      return _print_error(e, 1)
    except _Terminated:
      return _print_error("terminated; nothing half-written was left", 143)
    except KeyboardInterrupt:
      return _print_error("interrupted; nothing half-written was left", 130)

  app.run(guarded, flags_parser=_parse_flags)


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
  """Keeps TensorFlow's start-up chatter off the terminal while it is imported.

  Its C++ code writes to the file descriptor, before any log level counts. If
  the block fails, what was held back is written after all. What the import
  brought is left to the end by the garbage collector, which would go over it
  again and again: a tenth of an export's time.
  """
  is_first = "tensorflow" not in sys.modules
  sys.stderr.flush()
  kept = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    except Exception:  # Not Ctrl-C, which needs no explanation.
      held.seek(0)
      os.write(kept, held.read())
      raise
    finally:
      os.dup2(kept, 2)
      os.close(kept)
  if is_first:  # Later, it would keep garbage of networks as well.
    gc.freeze()


def user_path(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns `path` as the user meant it: relative to where the user stands.

  `bazel run` starts programs in a directory of its own and names the user's in
  BUILD_WORKING_DIRECTORY.
  """
  start = os.environ.get("BUILD_WORKING_DIRECTORY") or os.getcwd()
  # Names are taken from paths, so ".." must not be left in them.
  return pathlib.Path(os.path.abspath(
      os.path.join(start, os.path.expanduser(path))))


def shown_path(path: pathlib.Path) -> pathlib.Path:
  """Returns a path as the user would type it; the way back of `user_path`."""
  start = user_path("")
  return path.relative_to(start) if path.is_relative_to(start) else path


def command(target: str) -> str:
  """Returns how the user starts another program of this repository.

  Args:
    target: A Bazel label such as "//checks:check".
  """
  if "BUILD_WORKING_DIRECTORY" in os.environ:
    return f"./bazelw run {target} --"
  return f"python -m {target.removeprefix('//').replace('/', '.').replace(':', '.')}"


def cache_dir() -> pathlib.Path:
  """Returns the directory for downloads and demo checkpoints.

  REGNETY_HUB_CACHE if it is set, otherwise `regnety_hub` in the user's cache
  directory (XDG base directory specification).

  Raises:
    UsageError: if neither is known.
  """
  own = os.environ.get("REGNETY_HUB_CACHE")
  if own:
    return user_path(own)
  base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  if base.startswith("~"):  # A container's user without a name, for instance.
    raise errors.UsageError(
        "there is no home directory to keep a cache in; set REGNETY_HUB_CACHE "
        "to a directory")
  return pathlib.Path(base, "regnety_hub")


def given_flags(module: Any, leave_out: Collection[str] = ()) -> list[str]:
  """Returns the flags that the user gave, as another program takes them.

  Args:
    module: Which module's flags, as absl's get_key_flags_for_module takes it.
    leave_out: Names of flags that are not wanted.
  """
  return [flag.serialize()
          for flag in flags.FLAGS.get_key_flags_for_module(module)
          if flag.present and flag.name not in leave_out]


def child_environment() -> dict[str, str]:
  """Returns the environment in which `python -m` finds these packages."""
  # The directory above the packages, not the current one under Bazel.
  root = str(pathlib.Path(__file__).absolute().parents[1])
  paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
  return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _terminate(*_) -> None:
  # By default the process would be gone at once, and leave temporary files and
  # the processes that it started.
  raise _Terminated


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """As absl's own, but wrong usage exits with 2, and asking for help with 0."""
  # absl's help flags exit with 1 as soon as they are parsed.
  if any(a in ("-h", "--h", "-help", "--help") for a in argv[1:]):
    print(_help_text())
    sys.exit(0)
  try:
    return flags.FLAGS(argv)
  except flags.Error as e:
    _fail(f"{e}. See --help.", 2)


def _help_text() -> str:
  """Returns the program's docstring and its own flags."""
  # The first line of absl's text is the path of a file, of no use to a user.
  own_flags = flags.FLAGS.main_module_help().strip().partition("\n")[2]
  return (f"{sys.modules['__main__'].__doc__.strip()}\n\n"
          + (f"Flags:\n{own_flags}" if own_flags else "It has no flags."))


def _print_error(error: object, status: int) -> int:
  print(f"{pathlib.Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
  return status


def _fail(message: str, status: int) -> None:
  sys.exit(_print_error(message, status))
