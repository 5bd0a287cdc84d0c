"""The catalog against what was published, and fetching its files.

Figures and hashes were copied by hand from where the comments say.
"""

import collections
import dataclasses
import hashlib
import re

import pytest

from hub_export import download
from hub_export import errors
from hub_export.regnet import catalog
from hub_export.regnet import variants
from model_cards import tags
from tests import download_server

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/regnet/"
_REGNETY = ("https://github.com/AdityaKane2001/AdityaKane2001/releases/"
            "download/v0.1/")
_PYCLS = "https://dl.fbaipublicfiles.com/pycls/dds_baselines/"
_TORCH = "https://download.pytorch.org/models/"
_HUB = "https://huggingface.co/timm/"

# Name: variant, URLs, hash, and (size, top-1, top-5) of each evaluation. From
# the source of tf_keras.applications.regnet, its trainer's blog and log; pycls'
# dev/model_error.json; torchvision's metadata; timm's results-imagenet.csv; the
# README of the regnety project.
PUBLISHED = {
    "keras:regnety002": (
        "regnety_200mf", [_KERAS + "regnety002.h5"],
        "1e8091c674532b1a61c04f6393a9c570113e0197f22bd1b98cc4c4fe800c6465",
        [(224, 68.51, 88.31)]),
    "keras:regnety006": (
        "regnety_600mf", [_KERAS + "regnety006.h5"],
        "98942e07b273da500ff9699a1f88aca78dfad4375faabb0bab784bb0dace80a9",
        [(224, 73.52, 91.52)]),
    "keras:regnety006_notop": (
        "regnety_600mf", [_KERAS + "regnety006_notop.h5"],
        "b70261cba4e60013c99d130cc098d2fce629ff978a445663b6fa4f8fc099a2be",
        [(224, None, None)]),
    "keras:regnetx320": (
        "regnetx_32gf", [_KERAS + "regnetx320.h5"],
        "91fb3e6f4e9e44b3687e80977f7f4412ee9937c0c704232664fc83e4322ea01e",
        [(224, 80.35, 95.22)]),
    "pycls:RegNetY-600MF": (
        "regnety_600mf",
        [_PYCLS + "160981443/RegNetY-600MF_dds_8gpu.pyth"], None,
        [(224, 75.46, 92.72)]),
    "torchvision:regnet_y_400mf/IMAGENET1K_V2": (
        "regnety_400mf", [_TORCH + "regnet_y_400mf-e6988f5f.pth"], "e6988f5f",
        [(224, 75.804, 92.742)]),
    "torchvision:regnet_y_16gf/IMAGENET1K_V1": (
        "regnety_16gf", [_TORCH + "regnet_y_16gf-9e6ed7dd.pth"], "9e6ed7dd",
        [(224, 80.424, 95.24)]),
    "timm:regnety_006.pycls_in1k": (
        "regnety_600mf",
        [_HUB + "regnety_006.pycls_in1k/resolve/main/model.safetensors"], None,
        [(224, 75.274, 92.532)]),
    "timm:regnety_160.sw_in12k_ft_in1k": (
        "regnety_16gf",
        [_HUB + "regnety_160.sw_in12k_ft_in1k/resolve/main/model.safetensors"],
        None, [(224, 85.596, 97.668), (288, 86.028, 97.836)]),
    "timm:regnety_1280.seer": (
        "regnety_128gf",
        [_HUB + "regnety_1280.seer/resolve/main/model.safetensors"], None,
        [(224, None, None)]),
    "regnety:400mf": (
        "regnety_400mf", [_REGNETY + "400mf_best.index",
                          _REGNETY + "400mf_best.data-00000-of-00001"],
        None, [(224, 70.19, None)]),
    "regnety:800mf": (
        "regnety_800mf", [_REGNETY + "800mf_best.index",
                          _REGNETY + "800mf_best.data-00000-of-00001"],
        None, [(224, 73.94, None)]),
}

# Source: checkpoints, evaluations; counted on the sources' own lists.
COUNTS = {"pycls": (24, 24), "timm": (61, 69), "torchvision": (34, 34),
          "keras": (48, 48), "regnety": (4, 4)}

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_all_of_each_source():
  checkpoints = collections.Counter(e.source for e in catalog.ENTRIES)
  figures = collections.Counter(
      e.source for e in catalog.ENTRIES for _ in e.evaluations)
  assert {s: (checkpoints[s], figures[s]) for s in checkpoints} == COUNTS
  assert list(catalog.SOURCES) == list(dict.fromkeys(
      e.source for e in catalog.ENTRIES))
  assert all(name == s.name for name, s in catalog.SOURCES.items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_entries_are_as_published(name):
  entry = catalog.by_name(name)
  variant, urls, pin, figures = PUBLISHED[name]
  assert entry.variant == variant
  assert entry.source == name.split(":")[0]
  assert [f.url for f in entry.files] == urls
  assert {f.pin for f in entry.files} == {pin}
  assert [(e.image_size, e.accuracy and e.accuracy.top1,
           e.accuracy and e.accuracy.top5)
          for e in entry.evaluations] == figures
  assert entry.accuracy == entry.evaluations[0].accuracy


def test_names_and_addresses_are_unique():
  names = [e.name for e in catalog.ENTRIES]
  urls = [f.url for e in catalog.ENTRIES for f in e.files]
  hashes = [f.pin for e in catalog.ENTRIES for f in e.files if f.pin]
  assert len(set(names)) == len(names) == 171
  assert len(set(urls)) == len(urls) == 175  # Four have two files.
  assert len(set(hashes)) == len(hashes) == 48 + 34
  assert all(url.startswith("https://") for url in urls)


def test_every_entry_is_sound():
  """One test for all: 171 would take longer to start than to run."""
  names = {v.name for v in variants.VARIANTS}
  faults = []
  for e in catalog.ENTRIES:
    head = {0, 1000, 11821}
    checks = {
        "variant": e.variant in names,
        "classes": e.num_classes in head,
        "hash": all(
            re.fullmatch("[0-9a-f]{64}", f.sha256 or "") if e.source == "keras"
            else re.fullmatch("[0-9a-f]{8}", f.sha256_prefix or "")
            if e.source == "torchvision" else f.pin is None for f in e.files),
        "licence": e.licence_id in tags.LICENCES and e.licence.endswith("."),
        "training": len(e.training) > 15 and e.training.endswith("."),
        # A head of another data set, or none, has no ImageNet-1k figure.
        "figures": all((v.accuracy is None) == (e.num_classes != 1000)
                       for v in e.evaluations),
        "top-5": all(50 < v.accuracy.top1 < (v.accuracy.top5 or 99) < 100
                     for v in e.evaluations if v.accuracy),
        "sizes": [v.image_size for v in e.evaluations] in (
            [224], [224, 288], [384]),
        "steps": all(v.steps[-1].size_px >= v.image_size
                     for v in e.evaluations),
        "mean": all(v.mean == ((0, 0, 0) if e.source == "keras" else
                               (0.485, 0.456, 0.406)) for v in e.evaluations),
        "original": e.original is None or e.source == "timm"}
    faults += [f"{e.name}: {what}" for what, good in checks.items() if not good]
  assert faults == []


def test_what_the_licences_restrict():
  """SWAG's CC-BY-NC weights and SEER's; nothing else."""
  restricted = {e.name for e in catalog.ENTRIES if e.needs_acceptance}
  assert restricted == {
      e.name for e in catalog.ENTRIES
      if re.search(r"swag|SWAG|\.seer", e.name)}
  assert len(restricted) == 6 + 6 + 7  # torchvision's, timm's; SEER's.
  seer = catalog.by_name("timm:regnety_640.seer")
  assert (seer.licence_name, seer.licence_id) == ("seer", "custom")


@pytest.mark.parametrize("name, dataset, classes", [
    ("timm:regnety_160.sw_in12k", "imagenet12k", 11821),
    ("timm:regnety_160.sw_in12k_ft_in1k", "imagenet2012", 1000),
    ("timm:regnety_320.seer", None, 0),
    ("timm:regnety_320.seer_ft_in1k", "imagenet2012", 1000),
    ("keras:regnetx002_notop", "imagenet2012", 0)])
def test_data_sets(name, dataset, classes):
  entry = catalog.by_name(name)
  assert (entry.dataset, entry.num_classes) == (dataset, classes)


def test_networks_that_are_not_the_papers():
  other = collections.defaultdict(set)
  for entry in catalog.ENTRIES:
    other[entry.architecture].add(entry.variant)
  assert other["torchvision"] == {"regnetx_400mf", "regnety_800mf",
                                  "regnety_8.0gf"}
  assert other["regnety"] == {f"regnety_{n}00mf" for n in (2, 4, 6, 8)}


# Resize and filter: floor(size / crop_pct) in timm, weights' metadata in
# torchvision. The headless ones have no figure, but timm's configuration.
@pytest.mark.parametrize("name, index, expected", [
    ("pycls:RegNetX-8.0GF", 0, (256, "bilinear", False, 224)),
    ("keras:regnety002", 0, (256, "bilinear", False, 224)),
    ("torchvision:regnet_y_400mf/IMAGENET1K_V1", 0,
     (256, "bilinear", True, 224)),
    ("torchvision:regnet_y_400mf/IMAGENET1K_V2", 0,
     (232, "bilinear", True, 224)),
    ("torchvision:regnet_y_32gf/IMAGENET1K_SWAG_E2E_V1", 0,
     (384, "bicubic", True, 384)),
    ("torchvision:regnet_y_32gf/IMAGENET1K_SWAG_LINEAR_V1", 0,
     (224, "bicubic", True, 224)),
    ("timm:regnety_004.tv2_in1k", 0, (232, "bicubic", True, 224)),
    ("timm:regnety_032.ra_in1k", 0, (235, "bicubic", True, 224)),
    ("timm:regnety_032.ra_in1k", 1, (288, "bicubic", True, 288)),
    ("timm:regnety_320.seer", 0, (232, "bicubic", True, 224)),
    ("timm:regnety_120.sw_in12k", 0, (235, "bicubic", True, 224))])
def test_feeding(name, index, expected):
  figure = catalog.by_name(name).evaluations[index]
  step, = figure.steps
  assert step.mode == "shorter" and not step.jpeg
  assert (step.size_px, step.interpolation, step.antialias,
          figure.image_size) == expected


def test_feeding_of_regnety():
  steps = catalog.by_name("regnety:600mf").evaluations[0].steps
  assert [(s.mode, s.size_px, s.antialias, s.jpeg) for s in steps] == [
      ("squash", 512, False, True), ("squash", 320, False, False)]


def test_other_labels():
  """From timm's results-imagenet-real.csv and -imagenetv2-*.csv."""
  figure = catalog.by_name("timm:regnetx_002.pycls_in1k").evaluations[0]
  assert (figure.real, figure.v2) == ((76.119, 92.205), (55.83, 79.26))


def test_preprocessing_is_made_of_the_row():
  made = catalog.by_name("timm:regnety_032.ra_in1k").evaluations[1]
  record = made.preprocessing.to_dict()
  assert record == {
      "resizes": [{"mode": "shorter", "size_px": 288, "antialias": True,
                   "interpolation": "bicubic", "jpeg": False}],
      "crop_px": 288, "mean": [0.485, 0.456, 0.406],
      "std": [0.229, 0.224, 0.225]}
  assert catalog.SOURCES["keras"].preprocessing.std == (1.0, 1.0, 1.0)


class TestChoice:

  def test_defaults_are_those_with_a_hash(self):
    large = {"regnety_64gf", "regnety_128gf", "regnety_256gf"}
    for variant in variants.VARIANTS:
      if variant.name not in large:
        entry = catalog.default(variant)
        assert entry.source == "keras" and entry.num_classes == 1000
        assert entry.variant == variant.name and entry.files[0].sha256
      else:
        with pytest.raises(errors.UnavailableError, match="--checkpoint"):
          catalog.default(variant)
    assert catalog.default(variants.by_name("800mf")).name == (
        "keras:regnety008")

  # The highest top-1 of the published tables, by eye.
  @pytest.mark.parametrize("variant, accepted, name", [
      ("600mf", (), "pycls:RegNetY-600MF"),
      ("800mf", (), "torchvision:regnet_y_800mf/IMAGENET1K_V2"),
      ("3.2gf", (), "timm:regnety_032.ra_in1k"),  # At 288 pixels only.
      ("16gf", (), "timm:regnety_160.sw_in12k_ft_in1k"),
      # 86.020 against 86.028: SWAG is not better here.
      ("16gf", ("cc-by-nc-4.0",), "timm:regnety_160.sw_in12k_ft_in1k"),
      ("32gf", (), "torchvision:regnet_y_32gf/IMAGENET1K_V2"),
      ("32gf", ("cc-by-nc-4.0",),
       "torchvision:regnet_y_32gf/IMAGENET1K_SWAG_E2E_V1"),
      ("256gf", ("seer",), "timm:regnety_2560.seer_ft_in1k")])
  def test_best(self, variant, accepted, name):
    assert catalog.best(variants.by_name(variant), accepted).name == name

  def test_best_is_never_taken_against_the_licence(self):
    for name in ("64gf", "128gf", "256gf"):
      assert catalog.best(variants.by_name(name)) is None
    assert catalog.best(variants.by_name("64gf"), ("cc-by-nc-4.0",)) is None

  def test_every_variant_has_a_checkpoint(self):
    assert len(variants.VARIANTS) == 27
    assert all(catalog.for_variant(v) for v in variants.VARIANTS)
    assert sum(len(catalog.for_variant(v)) for v in variants.VARIANTS) == 171

  @pytest.mark.parametrize("pattern, count", [
      ("timm:*pycls*", 24), ("TIMM:*PYCLS*", 24), ("keras:*_notop", 24),
      ("torchvision:*/IMAGENET1K_V2", 14), ("*", 171), ("regnety:*", 4),
      ("keras:regnety006", 1), ("regnety006", 0)])
  def test_patterns(self, pattern, count):
    assert len(catalog.matching(pattern)) == count

  def test_hash_finds_its_entry(self):
    for name, (_, _, pin, _) in PUBLISHED.items():
      if pin:
        assert catalog.by_hash(pin.ljust(64, "0")).name == name
    assert catalog.by_hash("0" * 64) is None

  @pytest.mark.parametrize("name, near", [
      ("keras:regnety007", "keras:regnety008"), ("keras:", "keras:"),
      ("keras:REGNETY006", "keras:regnety006"), ("", "keras:regnety006"),
      ("torchvision:regnet_y_16gf.IMAGENET1K_V2",
       "torchvision:regnet_y_16gf/IMAGENET1K_V2"),
      ("timm:regnety_006", "timm:regnety_006.pycls_in1k")])
  def test_unknown_names_are_refused_with_the_nearest(self, name, near):
    with pytest.raises(errors.UsageError) as e:
      catalog.by_name(name)
    assert repr(name) in str(e.value) and near in str(e.value)
    assert "//hub_export:catalog" in str(e.value)


class TestFetch:

  @pytest.fixture(name="server", autouse=True)
  def _server(self, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "DEFAULT_RETRY", download.Retry(
        attempts=1, timeout_s=5))
    with download_server.running() as server:
      yield server

  def at(self, server, name, pin=SHA256):
    """Returns the entry with its files on the server."""
    entry = catalog.by_name(name)
    files = []
    for remote in entry.files:
      server.files[f"/{remote.name}"] = download_server.File(CONTENT)
      files.append(dataclasses.replace(
          remote, url=server.url(f"/{remote.name}"),
          sha256=pin if pin and len(pin) == 64 else None,
          sha256_prefix=pin if pin and len(pin) == 8 else None))
    return dataclasses.replace(entry, files=tuple(files))

  @pytest.mark.parametrize("name, pin, place", [
      ("keras:regnety006", SHA256, "keras_regnety006/regnety006.h5"),
      ("torchvision:regnet_y_400mf/IMAGENET1K_V2", SHA256[:8],
       "torchvision_regnet_y_400mf_IMAGENET1K_V2/regnet_y_400mf-e6988f5f.pth"),
      ("timm:regnety_006.pycls_in1k", None,
       "timm_regnety_006.pycls_in1k/model.safetensors")])
  def test_download_then_cache(self, server, tmp_path, name, pin, place):
    entry = self.at(server, name, pin)
    assert not catalog.is_cached(entry, tmp_path)
    for offline in (False, False, True):
      path = catalog.fetch(entry, tmp_path, offline)
      assert path == tmp_path / place and path.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert catalog.is_cached(entry, tmp_path)

  def test_two_files(self, server, tmp_path):
    entry = self.at(server, "regnety:600mf", None)
    path = catalog.fetch(entry, tmp_path, offline=False)
    assert path.name == "600mf_best.index"
    assert path.with_name("600mf_best.data-00000-of-00001").is_file()

  def test_second_of_two_files_missing(self, server, tmp_path):
    entry = self.at(server, "regnety:600mf", None)
    del server.files["/600mf_best.data-00000-of-00001"]
    with pytest.raises(errors.UnavailableError, match="data-00000-of-00001"):
      catalog.fetch(entry, tmp_path, offline=False)
    assert not catalog.is_cached(entry, tmp_path)

  @pytest.mark.parametrize("pin", ["0" * 64, "0" * 8])
  def test_not_what_was_published(self, server, tmp_path, pin):
    entry = self.at(server, "keras:regnety006", pin)
    with pytest.raises(errors.UnavailableError, match="was published"):
      catalog.fetch(entry, tmp_path, offline=False)

  def test_messages_name_the_entry(self, server, tmp_path):
    entry = self.at(server, "timm:regnety_006.pycls_in1k", None)
    with pytest.raises(errors.UnavailableError, match="^timm:regnety_006.*"
                       "is not in the cache.*--offline forbids"):
      catalog.fetch(entry, tmp_path, offline=True)
    assert server.requests == []
