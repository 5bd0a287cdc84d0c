"""Keeps the tests off the developer's home directory and caches.

Under Bazel tools/python/pytest_main.py has done it already, with the directory
that Bazel gives each test.
"""

import atexit
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
