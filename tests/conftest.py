"""Keeps the tests off the developer's home directory and caches.

Under Bazel tools/python/pytest_main.py has done it already, with the directory
that Bazel gives each test.
"""

import atexit
import gc
import os
import shutil
import tempfile

from absl import flags

from tools.python import test_environment

if "TEST_TMPDIR" not in os.environ:
  # Programs share names of flags. Each has a process of its own, and so has
  # each file of tests under Bazel, but not under plain pytest.
  _define = flags.FlagValues.__setitem__

  def _define_anew(values, name, flag):
    flag.allow_override = True
    _define(values, name, flag)

  flags.FlagValues.__setitem__ = _define_anew
  _directory = tempfile.mkdtemp(prefix="regnety_hub_tests_")
  atexit.register(shutil.rmtree, _directory, ignore_errors=True)
  test_environment.use(_directory)


def pytest_collection_finish() -> None:
  """Spares the garbage collector what the tests have imported.

  It would go over TensorFlow's modules again and again, and over each graph
  while that is being traced: a seventh of the time of tests that trace much.
  """
  gc.freeze()
  gc.set_threshold(20_000, 20, 20)
