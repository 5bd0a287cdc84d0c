"""How a module is loaded from each place, for the snippets on its card."""

import dataclasses

from hub_export import export_dirs


@dataclasses.dataclass(frozen=True)
class Usage:
  """What the snippets need: Python expressions and paths of a shell."""
  intro: str                # What to put in for the names in capitals.
  address: str              # Python, for hub.KerasLayer and hub.load.
  path: str                 # Python, the module's directory.
  export_dir: str           # The same in a shell.
  check_sums: str           # A shell's command; fails if a file differs.
  mount: str                # Docker's -v, for TensorFlow Serving.
  path_intro: str = ""      # Instead of `intro`, where there is no address.
  imports: tuple[str, ...] = ()  # Lines above the others.
  setup: tuple[str, ...] = ()    # Lines that set `path`.


def hub(handle: export_dirs.Handle) -> Usage:
  """Returns that of a directory, a bucket or an HTTP hub."""
  return Usage(
      intro="Put in for `PATH_OR_URL` the directory of exports, the directory "
      "that the module was published to, or the address that serves it "
      "(`http://host:port`); for `PATH` one of the two directories.",
      path_intro="Put in for `PATH` the directory of exports, or the directory "
      "that the module was published to.",
      address=f'"PATH_OR_URL/{handle}"', path=f'"PATH/{handle}"',
      export_dir=f"PATH/{handle}",
      check_sums=f"cd PATH/{handle.publisher}/{handle.name} && "
      f"sha256sum --check {handle.version}.SHA256SUMS",
      mount=f"PATH/{handle.publisher}/{handle.name}:/models/{handle.name}")


def hugging_face(handle: export_dirs.Handle, repo: str) -> Usage:
  """Returns that of a repository of the Hugging Face Hub, "owner/name"."""
  return Usage(
      intro="The module lies in a directory of this repository that is called "
      "by its version. `path` is where it comes to lie on your machine; put that "
      "in for `DOWNLOADED`.",
      address="path", path="path", export_dir="DOWNLOADED",
      check_sums="cd DOWNLOADED/.. && "
      f"sha256sum --check {handle.version}.SHA256SUMS",
      mount=f"DOWNLOADED:/models/{handle.name}/{handle.version}",
      imports=("import os", "", "import huggingface_hub"),
      setup=("path = os.path.join(",
             f'    huggingface_hub.snapshot_download("{repo}"),',
             f'    "{handle.version}")'))


def kaggle(handle: export_dirs.Handle, model: str) -> Usage:
  """Returns that of Kaggle Models, "owner/model/framework/variation"."""
  return Usage(
      intro="`path` is where the module comes to lie on your machine; put "
      "that in for `DOWNLOADED`.",
      address="path", path="path", export_dir="DOWNLOADED",
      # There the module lies at the top, the rest in documents/, no archive.
      check_sums=(
          f"cd DOWNLOADED && sed -e '/  {handle.version}\\.tar\\.gz$/d' "
          f"-e 's#  {handle.version}/#  #' -e t -e 's#  #  documents/#' "
          f"documents/{handle.version}.SHA256SUMS | sha256sum --check"),
      mount=f"DOWNLOADED:/models/{handle.name}/{handle.version}",
      imports=("import kagglehub",),
      setup=(f'path = kagglehub.model_download("{model}")',))
