"""The environment of the tests: nothing of the developer's own."""

import os

# Where programs and libraries would read or write a user's files.
_DIRECTORIES = (
    "HOME",
    "KERAS_HOME",
    "REGNETY_HUB_CACHE",
    "TFDS_DATA_DIR",
    "TFHUB_CACHE_DIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
)


def use(directory: str) -> None:
  """Points HOME and every cache to subdirectories of `directory`.

  Call it before what reads these variables is imported; processes that the
  tests start inherit them.
  """
  for name in _DIRECTORIES:
    os.environ[name] = os.path.join(directory, name.lower())
    os.makedirs(os.environ[name], exist_ok=True)
  # As hub_export.program has it, for tests that import TensorFlow before that.
  os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
  # `bazel run` sets it, and paths would be taken relative to it.
  os.environ.pop("BUILD_WORKING_DIRECTORY", None)
