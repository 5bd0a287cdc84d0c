"""The data sets that exports are usually evaluated on, as plain data.

Names, numbers of examples, archives and licences of what TensorFlow Datasets
can prepare, and of the embedded digits. Byte counts and hashes are those that
TFDS 4.9.10 records and holds downloads to. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

# What prefixes the path of a directory of images where a data set is named.
FOLDER = "folder:"


@dataclasses.dataclass(frozen=True)
class Archive:
  """One published file that a data set is prepared from."""
  file_name: str   # As it has to be called in the directory of manual files.
  num_bytes: int
  sha256: str
  url: str         # Where TFDS downloads it; "" if only a person can get it.
  page: str        # Where a person finds it.


@dataclasses.dataclass(frozen=True)
class KnownSet:
  """One data set, in one configuration."""
  name: str                      # TFDS', with the configuration.
  title: str                     # For people.
  split: str                     # What models are measured on.
  num_examples: Mapping[str, int]  # By split.
  num_classes: int               # With images.
  classes: str                   # What they are, and how they are numbered.
  archives: tuple[Archive, ...]
  is_extracted: bool             # Whether TFDS unpacks the archives to disk.
  licence: str                   # As published.
  notes: str = ""

  @property
  def archive_bytes(self) -> int:
    return sum(a.num_bytes for a in self.archives)

  @property
  def prepare_bytes(self) -> int:
    """Space for preparing, beside the archives, from above.

    Images are stored as they come and packed images hardly shrink, so what is
    written, and what is unpacked before, is about as large as the archive; a
    tenth is for gzip.
    """
    return int(self.archive_bytes * (2 if self.is_extracted else 1) * 1.1)

  @property
  def needs_person(self) -> bool:
    """Whether TFDS cannot download an archive by itself."""
    return any(not a.url for a in self.archives)


_IMAGENET_1000 = "ImageNet's 1,000, in its order"
_IMAGENET_TERMS = ("ImageNet's terms of access: non-commercial research and "
                   "education only (https://image-net.org/download); TFDS "
                   "states none")
_VALIDATION = Archive(
    "ILSVRC2012_img_val.tar", 6_744_924_160,
    "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
    url="", page="https://image-net.org/download-images (with an account)")
_V2_PAGE = "https://huggingface.co/datasets/vaishaal/ImageNetV2"
_V2_LICENCE = ("images: Flickr's, \"can be used the same way as the original "
               "ImageNet dataset\"; code: MIT "
               "(https://github.com/modestyachts/ImageNetV2); TFDS states none")


def _v2(config: str, selection: str, file_name: str, num_bytes: int,
        sha256: str) -> KnownSet:
  return KnownSet(
      f"imagenet_v2/{config}", f"ImageNetV2, {selection}", "test",
      {"test": 10_000}, 1000, _IMAGENET_1000,
      (Archive(file_name, num_bytes, sha256,
               f"{_V2_PAGE}/resolve/main/{file_name}", _V2_PAGE),),
      is_extracted=True, licence=_V2_LICENCE)


def _imagenette(config: str, size: str, file_name: str, num_bytes: int,
                sha256: str) -> KnownSet:
  is_v2 = config.endswith("-v2")
  return KnownSet(
      f"imagenette/{config}",
      f"Imagenette, {size}{'' if is_v2 else ', first version'}", "validation",
      {"train": 9_469, "validation": 3_925} if is_v2 else
      {"train": 12_894, "validation": 500},
      10, "10 of ImageNet's, with numbers of their own",
      (Archive(file_name, num_bytes, sha256,
               f"https://s3.amazonaws.com/fast-ai-imageclas/{file_name}",
               "https://github.com/fastai/imagenette"),),
      is_extracted=True,
      licence="images: the same terms as ImageNet "
              "(https://github.com/fastai/imagenette/issues/23); repository: "
              "Apache-2.0; TFDS states none",
      notes="70 : 30 of all its images, of which most are from ImageNet's "
            "training split, so that models have seen them: to try things "
            "out, not for a verdict" if is_v2 else "")


KNOWN_SETS = (
    KnownSet(
        "imagenet2012", "ImageNet (ILSVRC 2012)", "validation",
        {"train": 1_281_167, "validation": 50_000}, 1000, _IMAGENET_1000,
        (_VALIDATION,), is_extracted=False, licence=_IMAGENET_TERMS,
        notes="ILSVRC2012_img_train.tar in the same directory would be "
              "prepared as well (148 GB and hours); it is not needed here"),
    KnownSet(
        "imagenet2012_real", "ImageNet with ReaL labels", "validation",
        {"validation": 50_000}, 1000,
        f"{_IMAGENET_1000}; none, one or several per image",
        (_VALIDATION, Archive(
            "real.json", 388_478,
            "d83e9bff374c631aae8439eb064c7019acc56e1b3bc3f56b8380c2a710b0220b",
            "https://raw.githubusercontent.com/google-research/"
            "reassessed-imagenet/master/real.json",
            "https://github.com/google-research/reassessed-imagenet")),
        is_extracted=False,
        licence=f"images: {_IMAGENET_TERMS}; labels: not stated, the code "
                "beside them is under Apache-2.0"),
    _v2("matched-frequency", "matched frequency",
        "imagenetv2-matched-frequency.tar.gz", 1_264_079_360,
        "f0c37fdf925916b19ea1323cd9a2208cdb6959ba2c32eef2a7fc393835c9ca7c"),
    _v2("threshold-0.7", "threshold 0.7",
        "imagenetv2-threshold0.7.tar.gz", 1_249_906_176,
        "32142bfe998f9cfa4141be691f6a80eeb1e27b24bd532a668eb08c26d98897a2"),
    _v2("topimages", "top images",
        "imagenetv2-top-images.tar.gz", 1_245_927_936,
        "85e4ace30f3f0d660152062254b8759dda66267b27f7ec0fd8d5768f1073a04b"),
    KnownSet(
        "imagenet_a", "ImageNet-A", "test", {"test": 7_500}, 200,
        "200 of ImageNet's, with its numbers",
        (Archive(
            "imagenet-a.tar", 687_552_512,
            "3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e",
            "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
            "https://github.com/hendrycks/natural-adv-examples"),),
        is_extracted=True,
        licence="images: not stated; repository: MIT; TFDS states none"),
    KnownSet(
        "imagenet_r", "ImageNet-R", "test", {"test": 30_000}, 200,
        "200 of ImageNet's, with its numbers",
        (Archive(
            "imagenet-r.tar", 2_191_079_936,
            "18c6bf493b39a0d975d48e587437f562caab9c52ae6327dcfa9dd8eb54aa1b52",
            "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
            "https://github.com/hendrycks/imagenet-r"),),
        is_extracted=True, licence="not stated"),
    KnownSet(
        "imagenet_sketch", "ImageNet-Sketch", "test", {"test": 50_889}, 1000,
        _IMAGENET_1000,
        (Archive(
            "ImageNet-Sketch.zip", 7_593_573_012,
            "4d3ce6b82a7c48aabf14aeac105eb533e75707f152cc858f55bfc022031a72ed",
            "https://drive.google.com/u/0/uc?"
            "id=1Mj0i5HBthqH1p_yeXzsg22gZduvgoNeA&export=download",
            "https://github.com/HaohanWang/ImageNet-Sketch"),),
        is_extracted=False,
        licence="images: not stated; repository: MIT; TFDS states none",
        notes="Google Drive at times refuses so large a file to programs; "
              "then get it with a browser"),
    _imagenette(
        "full-size-v2", "full size", "imagenette2.tgz", 1_557_161_267,
        "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd"),
    _imagenette(
        "320px-v2", "320 pixels", "imagenette2-320.tgz", 341_663_724,
        "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c"),
    _imagenette(
        "160px-v2", "160 pixels", "imagenette2-160.tgz", 99_003_388,
        "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5"),
    _imagenette(
        "full-size", "full size", "imagenette.tgz", 1_556_495_367,
        "1bd650bc16884ca88e4f0f537ed8569b1f8d7ae865d37eba8ecdd87d9cd9dcfa"),
    _imagenette(
        "320px", "320 pixels", "imagenette-320.tgz", 341_289_752,
        "0e3ac85d7f3fd0a63d5e27d85c68511be9ac4dae260345b6f7434a0d4fa24b3f"),
    _imagenette(
        "160px", "160 pixels", "imagenette-160.tgz", 98_752_094,
        "4bacf19aa3f2454e330ac366c98ac1e470ccc6bebca8ff63ecc7f339cb2ead11"),
    KnownSet(
        "optical_digits", "optical digits (UCI)", "test",
        {"test": 360, "train": 1_437}, 10, "the digits", (),
        is_extracted=False, licence="CC BY 4.0",
        notes="embedded: prepared on the spot"),
)

# What TFDS takes where a name comes without a configuration.
_DEFAULT_CONFIGS = {"imagenet_v2": "matched-frequency",
                    "imagenette": "full-size-v2"}


def find(name: str) -> KnownSet | None:
  """Returns the known set of a TFDS name, with or without a version.

  Args:
    name: Such as "imagenet_v2", "imagenet_v2/topimages" or
      "imagenet2012:5.1.0".
  """
  name = name.split(":")[0]
  config = _DEFAULT_CONFIGS.get(name)
  full = f"{name}/{config}" if config else name
  return next((s for s in KNOWN_SETS if s.name == full), None)


def stored_name(name: str) -> str:
  """Returns what evaluations call a data set, whatever a user calls it.

  Args:
    name: A TFDS name with or without configuration and version, or
      "folder:PATH".
  """
  if name.startswith(FOLDER):
    return FOLDER + pathlib.PurePath(name.removeprefix(FOLDER)).name
  known = find(name)
  return known.name if known else name.split(":")[0]


def family(name: str) -> tuple[str, ...]:
  """Returns the names of the known sets that differ in configuration only."""
  stem = name.split(":")[0].split("/")[0]
  return tuple(s.name for s in KNOWN_SETS if s.name.split("/")[0] == stem)


def instructions(known: KnownSet, manual_dir: pathlib.Path, command: str
                 ) -> list[str]:
  """Returns lines that say how to prepare a data set.

  Args:
    known: The data set, with archives.
    manual_dir: Where TFDS looks for files that a person got.
    command: What then prepares it.
  """
  by_hand = [a for a in known.archives if not a.url]
  rest = [a for a in known.archives if a.url]
  lines = []
  if by_hand:
    lines.append("get, and put as it is into " + f"{manual_dir}:")
    lines += _files(by_hand)
  lines.append(
      f"run this; it needs {size_text(known.prepare_bytes)} of space"
      + (", and downloads" if rest else "")
      + (f" {size_text(sum(a.num_bytes for a in rest))} more:" if rest
         else ":"))
  lines.append(f"   {command}")
  if rest:
    lines.append(f"without a network, first put into {manual_dir}"
                 + (" as well:" if by_hand else ", as it is:"))
    lines += _files(rest)
  return lines


def _files(archives: Sequence[Archive]) -> list[str]:
  lines = []
  for archive in archives:
    lines.append(f"   {archive.file_name} ({archive.num_bytes:,} bytes), from "
                 f"{archive.page}")
    lines.append(f"   SHA-256 {archive.sha256}")
  return lines


def size_text(num_bytes: int) -> str:
  """Returns a size for people, such as "6.7 GB" (10^9 bytes)."""
  if num_bytes < 1_000_000:
    return f"{num_bytes / 1000:.0f} kB"
  if num_bytes < 1_000_000_000:
    return f"{num_bytes / 1e6:.0f} MB"
  return f"{num_bytes / 1e9:.1f} GB"
