"""Tiny archives of the published data sets, prepared by TFDS' own builders.

Only what TFDS holds downloads to, their sizes and hashes, is that of the tiny
archives instead.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from unittest import mock

import PIL.Image
import tensorflow_datasets as tfds

from checks import evaluation_sets
from checks import known_sets

# Classes of ILSVRC2012_val_00000001 to 8, from the development kit's
# ILSVRC2012_validation_ground_truth.txt, in sorted WordNet ids: sea snake,
# alp, Shetland sheepdog, soup bowl, cradle, garter snake, porcupine, bakery.
TRUTH = (65, 970, 230, 809, 516, 57, 334, 415)
VALIDATION = "ILSVRC2012_img_val.tar"


def jpeg(index: int) -> bytes:
  """Returns an image that is unlike those of other numbers, 0 to 20."""
  image = PIL.Image.new("RGB", (20 + index, 30), (10 * index, 90, 200))
  buffer = io.BytesIO()
  image.save(buffer, "JPEG")
  return buffer.getvalue()


def tar(members: Mapping[str, bytes]) -> bytes:
  """Returns an archive of files, in their order."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return buffer.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
  """Returns a zip archive of files."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  return buffer.getvalue()


def validation_tar() -> bytes:
  """Returns ImageNet's first eight validation images; it need not be sorted."""
  return tar({f"ILSVRC2012_val_{i + 1:08d}.JPEG": jpeg(i)
              for i in (3, 0, 7, 1, 2, 6, 5, 4)})


def real_json(labels: list[list[int]]) -> bytes:
  """Returns the file of ReaL labels."""
  return json.dumps(labels).encode()


@contextlib.contextmanager
def published(name: str, manual_dir: pathlib.Path, files: Mapping[str, bytes],
              sizes: Mapping[str, int] | None = None) -> Iterator[None]:
  """Lets TFDS and the known sets take `files` for the published archives.

  Args:
    name: A known set.
    manual_dir: Where the files are put.
    files: Its archives by their names.
    sizes: Examples by split; by default any number will do.
  """
  manual_dir.mkdir(parents=True, exist_ok=True)
  for file_name, content in files.items():
    (manual_dir / file_name).write_bytes(content)
  known = known_sets.find(name)
  archives = tuple(dataclasses.replace(
      a, num_bytes=len(files[a.file_name]),
      sha256=hashlib.sha256(files[a.file_name]).hexdigest())
                   for a in known.archives)
  others = tuple(k for k in known_sets.KNOWN_SETS if k != known)
  builder_class = tfds.builder_cls(name.split("/")[0])
  recorded = {a.url: tfds.download.checksums.UrlInfo(
      tfds.core.utils.Size(a.num_bytes), a.sha256, a.file_name)
              for a in archives if a.url}
  kept = {key: count for key, count in evaluation_sets.KNOWN_SIZES.items()
          if key[0] != name}
  kept |= {(name, split): count for split, count in (sizes or {}).items()}
  with (mock.patch.object(builder_class, "url_infos", recorded),
        mock.patch.object(
            known_sets, "KNOWN_SETS",
            (dataclasses.replace(known, archives=archives), *others)),
        mock.patch.object(evaluation_sets, "KNOWN_SIZES", kept)):
    yield


def prepare(name: str, data_dir: pathlib.Path, files: Mapping[str, bytes]
            ) -> None:
  """Prepares a known set from tiny archives in TFDS' directory."""
  with published(name, data_dir / "downloads" / "manual", files):
    tfds.builder(name, data_dir=data_dir, try_gcs=False).download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False))


@contextlib.contextmanager
def any_size(name: str) -> Iterator[None]:
  """Lets a known set have any number of examples."""
  kept = {key: count for key, count in evaluation_sets.KNOWN_SIZES.items()
          if key[0] != name}
  with mock.patch.object(evaluation_sets, "KNOWN_SIZES", kept):
    yield
