"""Keeps the tests off the developer's home directory and caches.

Under Bazel tools/python/pytest_main.py has done it already, with the directory
that Bazel gives each test.
"""

import atexit
import os
import shutil
import tempfile

from tools.python import test_environment

if "TEST_TMPDIR" not in os.environ:
  _directory = tempfile.mkdtemp(prefix="regnety_hub_tests_")
  atexit.register(shutil.rmtree, _directory, ignore_errors=True)
  test_environment.use(_directory)
