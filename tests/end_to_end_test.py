"""The whole way with the real programs: export, check, publish, serve, load.

One demo checkpoint of the smallest variant is trained for all tests here. The
programs run as a user runs them, in processes of their own.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import h5py
import keras
import numpy as np
import pytest
import requests
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras

from checks import predictions
from hub_export import digits
from hub_export import export_dirs
from hub_export import preprocessing
from tests import forked_program

_ROOT = pathlib.Path(__file__).absolute().parents[1]
_CLASSIFIER = "regnety200mf_digits_classification"
_EXTRACTOR = "regnety200mf_digits_feature_extractor"


class User:
  """Somebody who stands in a directory and types commands."""

  def __init__(self, home: pathlib.Path):
    self.home = home
    self.environment = os.environ | {
        "PYTHONPATH": str(_ROOT), "HOME": str(home),
        "REGNETY_HUB_CACHE": str(home / "cache"),
        "TFHUB_CACHE_DIR": str(home / "tfhub")}
    # The tests' own runner must not be taken for the user's `bazel run`.
    self.environment.pop("BUILD_WORKING_DIRECTORY", None)

  def start(self, program: str, *flags: str, **environment: str):
    return subprocess.Popen(
        [sys.executable, "-m", program, *flags], cwd=self.home, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=self.environment | environment)

  def run(self, program: str, *flags: str, status: int = 0, **environment: str):
    """Returns (standard output, standard error) of a finished program."""
    process = self.start(program, *flags, **environment)
    out, err = process.communicate()
    assert process.returncode == status, f"{out}\n{err}"
    return out, err

  def export(self, *flags: str, status: int = 0):
    return self.run("hub_export.export", "--variant=200mf",
                    "--checkpoint=demo", *flags, status=status)

  def dir(self, name: str, version: int = 1) -> pathlib.Path:
    return self.home / "exports" / "local" / name / str(version)


@pytest.fixture(scope="module", name="user")
def _user(tmp_path_factory):
  return User(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module", name="exported")
def _exported(user):
  """What the README's first command prints on a machine without weights."""
  return user.run("hub_export.export", "--variant=200mf", "--offline")


@pytest.fixture(scope="module", name="published")
def _published(user, exported):
  """Both modules, checked in full and published to `published`."""
  del exported
  checks = [user.start("checks.check", f"--export_dir={user.dir(name)}")
            for name in (_CLASSIFIER, _EXTRACTOR)]
  for check in checks:
    out, err = check.communicate()
    assert check.returncode == 0, f"{out}\n{err}"
  for name in (_CLASSIFIER, _EXTRACTOR):
    user.run("hub_export.publish", f"--export_dir={user.dir(name)}",
             "--to=published")
  return user.home / "published"


@pytest.fixture(scope="module", name="url")
def _url(user, published):
  """The address of a running HTTP hub."""
  del published
  server = user.start("hub_export.serve", "--root=published", "--port=0")
  address = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
  yield address[0]
  server.send_signal(signal.SIGINT)
  server.communicate(timeout=30)


def test_the_evaluation_is_kept_shown_and_compared(user, url, published):
  """Predictions beside the report; pictures and page beside the card."""
  del published
  for name in (_CLASSIFIER, _EXTRACTOR):
    rows, _ = predictions.read(export_dirs.evaluation_path(
        user.dir(name), "optical_digits", "test", ".parquet"))
    report = json.loads(export_dirs.report_path(user.dir(name)).read_text())
    assert rows.top1.correct == report["metrics"]["top1"]["correct"]
    card = requests.get(f"{url}/local/{name}/1.md", timeout=30).text
    links = re.findall(r"\]\((1\.evaluations/[^)]+)\)", card)
    assert len(links) == 4
    assert set(links) == set(report["attachments"])
    for link in links:
      answer = requests.get(f"{url}/local/{name}/{link}", timeout=30)
      assert answer.content.startswith(
          b"<!DOCTYPE html>" if link.endswith(".html") else b"\x89PNG")
  # An extractor is evaluated with the classifier's last layer.
  out, _ = user.run("checks.compare", str(user.dir(_CLASSIFIER)),
                    str(user.dir(_EXTRACTOR)))
  assert "360 examples" in out and "0 of 360 predictions differ." in out


def _test_digits():
  """Returns encoded PNGs and labels of the held-out split."""
  images, labels = digits.load("test")
  return np.array([tf.io.encode_png(i).numpy() for i in images]), labels


def test_export_says_what_it_made_and_what_comes_next(user, exported):
  out, err = exported
  assert "keras:regnety002 is not in the cache" in out
  assert "Falling back to the demo checkpoint" in out
  assert "They are a demo on digits" in out
  assert "-m checks.check --export_dir=exports/local/" + _CLASSIFIER in out
  assert "Traceback" not in err
  for name in (_CLASSIFIER, _EXTRACTOR):
    assert f"exports/local/{name}/1" in out
    card = export_dirs.card_path(user.dir(name)).read_text()
    assert card.startswith(f"# Module local/{name}/1\n")
    # What provenance will say of it.
    noted = json.loads(user.dir(name).with_name("1.build.json").read_text())
    root = pathlib.Path(export_dirs.__file__).resolve().parents[1]
    assert noted["lock_sha256"] == export_dirs.file_sha256(
        root / "tools" / "python" / "requirements.txt")


# The export program, to which any module is a large one.
_LARGE_EXPORT = """
from hub_export import export, program
print("begins")
export._LARGE_BYTES = 0
program.run(export.main)
"""


def test_the_same_checkpoint_gives_the_same_bytes(user, exported):
  """From a process that trained its checkpoint, and from one that did not.

  The second begins afresh for the quick checks, as one does with a large model.
  """
  del exported
  large = subprocess.run(
      [sys.executable, "-c", _LARGE_EXPORT, "--variant=200mf",
       "--checkpoint=demo", "--output_dir=again"], text=True, cwd=user.home,
      capture_output=True, env=user.environment, check=False)
  assert large.returncode == 0, large.stderr
  assert large.stdout.count("begins") == 2
  assert large.stdout.count(": passed") == 2 and "\nMade:" in large.stdout
  for name in (_CLASSIFIER, _EXTRACTOR):
    first, again = user.dir(name), user.home / "again" / "local" / name / "1"
    assert export_dirs.digest(first) == export_dirs.digest(again)
    assert export_dirs.report_path(again).exists()


def test_reports_pass_and_say_what_was_measured(user, published):
  del published
  for name in (_CLASSIFIER, _EXTRACTOR):
    report = json.loads(export_dirs.report_path(user.dir(name)).read_text())
    assert report["status"] == "passed"
    assert report["dataset"]["num_examples"] == 360
    # The demo has to learn its digits: over 95 % of images it never saw.
    assert report["metrics"]["top1"]["correct"] > 0.95 * 360


def test_loading_from_the_address(url, published):
  del published
  model = hub.load(f"{url}/local/{_CLASSIFIER}/1")
  encoded, labels = _test_digits()
  out = model.signatures["image_bytes"](image_bytes=tf.constant(encoded))
  assert np.mean(out["classes"][:, 0] == labels) > 0.95
  names = np.array([b"zero", b"one", b"two", b"three", b"four", b"five",
                    b"six", b"seven", b"eight", b"nine"])
  np.testing.assert_array_equal(out["labels"], names[out["classes"]])


def test_fine_tuning_from_the_address(user, url, published, tmp_path):
  """Batch 32 on a CPU through KerasLayer; then saved, and exported again."""
  del published
  tf_keras.utils.set_random_seed(0)
  layer = hub.KerasLayer(f"{url}/local/{_EXTRACTOR}/1", trainable=True,
                         arguments={"batch_norm_momentum": 0.5})
  model = tf_keras.Sequential([
      tf_keras.layers.InputLayer((64, 64, 3)), layer,
      tf_keras.layers.Dense(2)])
  model.compile(tf_keras.optimizers.SGD(0.01), tf_keras.losses
                .SparseCategoricalCrossentropy(from_logits=True))
  random = np.random.default_rng(0)
  labels = np.arange(64) % 2
  images = (random.uniform(0, 0.7, (64, 64, 64, 3))
            + 0.3 * labels[:, None, None, None]).astype("f")
  before = [v.numpy() for v in layer.trainable_variables]
  losses = model.fit(images, labels, batch_size=32, epochs=4,
                     verbose=0).history["loss"]
  assert losses[-1] < losses[0] / 2
  assert all(np.any(v.numpy() != old) for v, old in zip(
      layer.trainable_variables, before, strict=True))
  expected = model.predict(images, verbose=0)
  model.save(tmp_path / "tuned")
  again = tf_keras.models.load_model(tmp_path / "tuned")
  np.testing.assert_allclose(again.predict(images, verbose=0), expected,
                             atol=1e-4 * expected.std())
  (tmp_path / "names.txt").write_text("dark\nbright\n")
  out, _ = user.run(
      "hub_export.export", f"--checkpoint={tmp_path / 'tuned'}",
      f"--labels={tmp_path / 'names.txt'}", "--image_size=64")
  assert "It is a regnety_200mf." in out
  tuned = hub.load(str(user.dir("regnety200mf_own_classification")))
  np.testing.assert_allclose(tuned(images), expected,
                             atol=1e-4 * expected.std())


def test_keras_3_serves_the_classifier(user, exported):
  """keras.layers.TFSMLayer, as the README shows it."""
  del exported
  encoded, labels = _test_digits()
  module = hub.load(str(user.dir(_CLASSIFIER)))
  manifest = export_dirs.read_manifest(user.dir(_CLASSIFIER))
  images = preprocessing.from_dict(manifest["preprocessing"]).apply_batch(
      tf.constant(encoded[:32]))
  layer = keras.layers.TFSMLayer(str(user.dir(_CLASSIFIER)),
                                 call_endpoint="serving_default")
  logits = layer(images)["logits"]
  np.testing.assert_allclose(logits, module(images), rtol=1e-5, atol=1e-5)
  assert np.mean(np.argmax(logits, -1) == labels[:32]) > 0.9


def test_publishing_again_changes_nothing(user, published):
  before = {p: p.stat().st_mtime_ns for p in published.rglob("*")
            if p.is_file()}
  out, _ = user.run("hub_export.publish",
                    f"--export_dir={user.dir(_CLASSIFIER)}", "--to=published")
  assert "already" in out
  assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_release_goes_on_with_what_is_left(user, published):
  """Exported, checked and published in one place already; not in the other."""
  del published
  out, err = user.run(
      "hub_export.release", "--variant=200mf", "--checkpoint=demo",
      "--to=published", "--to=mirror")
  assert "Traceback" not in err
  assert out.count("has passed before") == 2
  assert out.count("published already; nothing to do") == 2
  assert out.endswith(
      "Released to published, mirror:\n"
      f"  released  local/{_CLASSIFIER}/1\n  released  local/{_EXTRACTOR}/1\n")
  for name in (_CLASSIFIER, _EXTRACTOR):
    assert export_dirs.digest(user.home / "mirror" / "local" / name / "1"
                              ) == export_dirs.digest(user.dir(name))


def test_altered_bytes_are_not_published(user, published):
  del published
  copy = user.home / "altered" / "local" / _CLASSIFIER / "1"
  shutil.copytree(user.dir(_CLASSIFIER).parent, copy.parent)
  data = copy / "variables" / "variables.data-00000-of-00001"
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(content)
  _, err = user.run("hub_export.publish", f"--export_dir={copy}",
                    "--to=elsewhere", status=1)
  assert "other bytes" in err or "sha256" in err
  assert not (user.home / "elsewhere").exists()


def test_of_many_one_fails_and_the_others_are_exported(user, exported):
  """Of the smallest there is a cached demo; none is trained of the largest.

  That of the smallest is exported again, which makes no new version.
  """
  del exported
  out, err = user.run("hub_export.export", "--variant=regnety_200mf,32gf",
                      "--offline", "--jobs=2", status=1)
  assert "keras:regnety320 is not in the cache" in out
  rows = out[out.index("Checkpoint "):].splitlines()
  assert [row.split()[:2] for row in rows[1:3]] == [
      ["regnety_200mf", "demo"], ["regnety_32gf", "FAILED"]]
  assert f"exports/local/{_CLASSIFIER}/1" in rows[1]
  assert "1 exported, 1 failed" in out and "Traceback" not in out + err
  assert export_dirs.versions(user.dir(_CLASSIFIER).parent) == [1]


def test_killed_exports_leave_no_half_version_to_two_at_once(user, exported):
  """kill -9 as soon as the temporary directory has this many files in it.

  The two that come next find what was left, and get a version each.
  """
  del exported
  model_dir = user.home / "exports" / "killed" / _CLASSIFIER
  whole = set(export_dirs.files(user.dir(_CLASSIFIER)))
  flags = ("--variant=200mf", "--checkpoint=demo", "--publisher=killed",
           "--force")
  killed = 0
  for wanted in (1, 5):
    process = user.start("hub_export.export", *flags)
    while process.poll() is None:
      # os.walk passes over what is renamed away under its eyes.
      count = sum(len(files) for path in model_dir.glob(".tmp-*")
                  for _, _, files in os.walk(path))
      if count >= wanted:
        process.kill()
        killed += 1
        break
      time.sleep(0.002)
    process.communicate()
    for version in export_dirs.versions(model_dir):
      assert set(export_dirs.files(model_dir / str(version))) == whole
  assert killed
  before = len(export_dirs.versions(model_dir))
  running = [user.start("hub_export.export", *flags) for _ in range(2)]
  for process in running:
    out, err = process.communicate()
    assert process.returncode == 0, f"{out}\n{err}"
  versions = export_dirs.versions(model_dir)
  assert versions == list(range(1, before + 3))
  assert not list(model_dir.glob(".tmp-*"))
  for version in versions[-2:]:
    assert set(export_dirs.files(model_dir / str(version))) == whole
  # They have had the quick checks, which are not enough to be published.
  _, err = user.run("hub_export.publish",
                    f"--export_dir={model_dir / str(versions[-1])}",
                    "--to=elsewhere", status=1)
  assert "not run" in err and "checks.check" in err
  assert not (user.home / "elsewhere").exists()


# What a user's own program does on a machine without oneDNN.
_FINE_TUNING = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, tensorflow_hub as hub, tf_keras
tf_keras.utils.set_random_seed(0)
model = tf_keras.Sequential([
    tf_keras.layers.InputLayer((48, 48, 3)),
    hub.KerasLayer(sys.argv[1], trainable=True)])
model.compile(tf_keras.optimizers.SGD(0.01), tf_keras.losses
              .SparseCategoricalCrossentropy(from_logits=True))
labels = np.arange(16) % 2
images = (np.random.default_rng(0).uniform(0, 0.5, (16, 48, 48, 3))
          + 0.5 * labels[:, None, None, None]).astype("f")
losses = model.fit(images, labels, batch_size=16, epochs=6,
                   verbose=0).history["loss"]
assert losses[-1] < losses[0] / 2, losses
print("trained")
"""


def test_without_onednn_the_main_form_infers_and_the_portable_form_trains(
    user, exported):
  """In processes with TF_ENABLE_ONEDNN_OPTS=0; the golden outputs hold."""
  del exported
  user.export("--form=portable")
  portable = _CLASSIFIER.replace("digits_", "digits_portable_")
  training = subprocess.Popen(
      [sys.executable, "-c", _FINE_TUNING, str(user.dir(portable))], text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=user.environment | {"TF_ENABLE_ONEDNN_OPTS": "0"})
  for name in (_CLASSIFIER, portable):
    copy = user.home / "no_onednn" / "local" / name / "1"
    shutil.copytree(user.dir(name), copy)
    user.run("checks.check", f"--export_dir={copy}", "--quick",
             TF_ENABLE_ONEDNN_OPTS="0")
    report = json.loads(export_dirs.report_path(copy).read_text())
    assert report["environment"]["onednn"] is False
    passed = {c["group"] for c in report["checks"] if c["status"] == "passed"}
    assert passed >= {"structure", "numerics", "card"}
  out, err = training.communicate()
  assert out == "trained\n", err


@pytest.fixture(scope="module", name="forked")
def _forked(user):
  """The export program, with TensorFlow imported already."""
  with forked_program.running(
      "hub_export.export", "hub_export.saved_model",
      "hub_export.regnet.family", "hub_export.regnet.resolve",
      cwd=user.home, env=user.environment) as program:
    yield program


@pytest.mark.parametrize("flags,status,words", [
    (["--variant=601mf"], 2, ["601mf", "regnety_600mf"]),
    (["--variant=600mf", "--frobnicate"], 2, ["frobnicate"]),
    (["--variant=600mf", "--form=light"], 2, ["light", "main", "portable"]),
    ([], 2, ["--variant"]),
    (["--variant=600mf", "stray"], 2, ["stray"]),
    (["--variant=600mf", "--publisher=No Body"], 2, ["No Body"]),
    (["--variant=600mf", "--checkpoint=x.h5", "--reported_top1=nan"], 2,
     ["from 0 to 100"]),
    (["--variant=600mf", "--checkpoint=x.h5", "--reported_source=me"], 2,
     ["--reported_top1"]),
    (["--variant=600mf", "--licence=mit"], 2, ["--licence", "of your own"]),
    (["--variant=600mf", "--checkpoint=keras:regnety999"], 2,
     ["regnety999", "a name such as keras:regnety"]),
    (["--variant=600mf", "--checkpoint=regnety:600mf", "--offline"], 1,
     ["regnety:600mf", "--offline"]),
    (["--variant=600mf", "--checkpoint=nowhere.h5"], 1, ["nowhere.h5"]),
    (["--variant=600mf", "--checkpoint=text.h5"], 1,
     ["text.h5", "no format that is read here", "--checkpoint_format"]),
    (["--variant=600mf", "--checkpoint=demo.h5"], 1,
     ["regnety_200mf", "--variant="]),
    (["--variant=200mf", "--checkpoint=cut.h5"], 1, ["cut.h5"]),
    (["--variant=200mf", "--checkpoint=nan.h5"], 1,
     ["Stage_0_YBlock_0_conv_3x3/kernel", "not finite"]),
    (["--variant=200mf", "--checkpoint=lacking.h5"], 1,
     ["missing", "Stage_3_YBlock_6_conv_1x1_2/kernel"]),
    (["--variant=200mf", "--checkpoint=demo", "--output_dir=text.h5"], 1,
     ["text.h5"]),
])
def test_bad_input(user, exported, forked, flags, status, words):
  """One message, the right status, no traceback, nothing left behind."""
  del exported
  _spoil(user.home)
  before = set(user.home.rglob("*"))
  done = forked.run(*flags)
  out, err = done.stdout, done.stderr
  assert done.returncode == status, f"{out}\n{err}"
  for word in words:
    assert word in err
  assert "Traceback" not in out + err
  assert set(user.home.rglob("*")) == before


def _spoil(home: pathlib.Path) -> None:
  """Makes the broken checkpoints that `test_bad_input` names."""
  if (home / "text.h5").exists():
    return
  good = next((home / "cache" / "demo").glob("*.h5"))
  (home / "text.h5").write_text("no checkpoint at all")
  shutil.copy(good, home / "demo.h5")
  (home / "cut.h5").write_bytes(good.read_bytes()[:100_000])
  for name in ("nan", "lacking"):
    shutil.copy(good, home / f"{name}.h5")
  with h5py.File(home / "nan.h5", "a") as f:
    layer = "regnety200mf_Stage_0_YBlock_0_conv_3x3"
    f[f"{layer}/{layer}/kernel:0"][0, 0, 0, 0] = np.nan
  with h5py.File(home / "lacking.h5", "a") as f:
    names = f.attrs["layer_names"]
    gone = b"regnety200mf_Stage_3_YBlock_6_conv_1x1_2"
    assert gone in names
    f.attrs["layer_names"] = names[names != gone]
