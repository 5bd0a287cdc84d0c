"""Tests of pairwise comparison, and of the program that prints it."""

import csv
import dataclasses
import fractions
import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from checks import comparison
from checks import predictions
from checks import report
from hub_export import errors
from hub_export import export_dirs
from tests import tiny_export
from tests import tiny_predictions

_ROOT = pathlib.Path(__file__).absolute().parents[1]


def _pair():
  """Ten examples: 3 both right, 4 only A, 1 only B, 2 both wrong."""
  labels = [[0]] * 5 + [[1]] * 5
  a = [0, 0, 0, 0, 0, 1, 1, 0, 0, 2]
  b = [0, 0, 1, 1, 2, 1, 2, 1, 0, 0]
  return (tiny_predictions.of(labels, [[c] for c in a], margins=[
              1, 1, 0.5, 2, 3, 1, 4, 0.1, 1, 0.1]),
          tiny_predictions.of(labels, [[c] for c in b], margins=[
              1, 1, 0.4, 5, 0.3, 1, 4, 0.2, 1, 3]))


class TestMcNemar:

  @pytest.mark.parametrize("b, c, p", [
      # Tails of fair coins by hand, twice: 1, (1 + 10) / 1024 and so on.
      (0, 0, 1), (1, 0, 1), (5, 0, 2 / 32), (1, 9, 22 / 1024),
      (3, 3, 1), (2, 3, 1), (4, 1, 12 / 32),
      # R's and statsmodels' documentation: Agresti's approval ratings, 86 and
      # 150, exact p-value 3.716e-05.
      (86, 150, 3.716e-05),
  ])
  def test_known_values(self, b, c, p):
    assert comparison.mcnemar(b, c) == pytest.approx(p, rel=1e-3)
    assert comparison.mcnemar(c, b) == comparison.mcnemar(b, c)

  @pytest.mark.parametrize("b, c", [(7, 20), (60, 40), (211, 180)])
  def test_against_fractions(self, b, c):
    tail = sum(fractions.Fraction(math.comb(b + c, k), 2 ** (b + c))
               for k in range(min(b, c) + 1))
    assert comparison.mcnemar(b, c) == float(2 * tail)

  def test_many(self):
    # The normal approximation with its correction for continuity.
    z = (26_000 - 25_500 - 1) / math.sqrt(51_500)
    assert comparison.mcnemar(25_500, 26_000) == pytest.approx(
        math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert comparison.mcnemar(0, 5_000) == 0  # Below the smallest float.


class TestCompare:

  def test_counts(self):
    found = comparison.compare(*_pair())
    assert (found.both_right, found.only_a, found.only_b,
            found.both_wrong) == (3, 4, 1, 2)
    assert found.total == found.num_examples == 10
    assert found.top1 == (report.Rate(7, 10), report.Rate(4, 10))
    assert found.difference == pytest.approx(-30)
    assert found.error == pytest.approx(100 * math.sqrt(5) / 10)
    assert found.interval == pytest.approx(
        (-30 - 1.96 * found.error, -30 + 1.96 * found.error), abs=0.01)
    assert found.p_value == pytest.approx(12 / 32)

  def test_flips(self):
    flips = comparison.compare(*_pair()).flips
    # By the smaller margin: 4, 2, 0.4, 0.3, 0.1 (twice, by name).
    assert [f.file_name for f in flips] == [
        "0006.png", "0003.png", "0002.png", "0004.png", "0007.png",
        "0009.png"]
    assert flips[0] == comparison.Flip(
        "0006.png", (1,), 1, 2, True, False, 4, 4, 0.5, 0.5)
    assert (flips[4].a_is_right, flips[4].b_is_right) == (False, True)
    assert (flips[5].a, flips[5].b, flips[5].a_is_right,
            flips[5].b_is_right) == (2, 0, False, False)

  def test_symmetric(self):
    a, b = _pair()
    one, other = comparison.compare(a, b), comparison.compare(b, a)
    assert one.p_value == other.p_value
    assert one.difference == -other.difference
    assert one.error == other.error
    assert (one.only_a, one.only_b) == (other.only_b, other.only_a)
    assert {(f.file_name, f.a, f.b) for f in one.flips} == {
        (f.file_name, f.b, f.a) for f in other.flips}

  def test_with_itself(self):
    a = tiny_predictions.random(100, 5, seed=2)
    found = comparison.compare(a, a)
    assert (found.p_value, found.difference, found.flips) == (1, 0, ())
    assert found.both_right == a.top1.correct
    assert found.both_wrong == 100 - a.top1.correct
    assert "nothing tells them apart" in comparison.sentence(found)

  def test_joined_by_name_whatever_the_order(self):
    a, b = _pair()
    shuffled = b.rows(np.random.default_rng(0).permutation(10))
    assert comparison.compare(a, shuffled) == comparison.compare(a, b)

  def test_against_plain_python(self):
    a = tiny_predictions.random(300, 6, seed=5, multi_label=True)
    rng = np.random.default_rng(6)
    top = np.where(rng.random((300, 1)) < 0.4, a.top[:, ::-1], a.top)
    b = dataclasses.replace(a, top=top)
    found = comparison.compare(a, b)
    counts = {}
    for i in range(300):
      labels = set(a.labels[i].tolist()) - {-1}
      if labels:
        key = int(a.top[i, 0]) in labels, int(top[i, 0]) in labels
        counts[key] = counts.get(key, 0) + 1
    assert counts == {
        (True, True): found.both_right, (True, False): found.only_a,
        (False, True): found.only_b, (False, False): found.both_wrong}
    assert found.num_examples == 300 > found.total
    assert len(found.flips) == int((a.top[:, 0] != top[:, 0]).sum())

  def test_examples_without_a_label_only_flip(self):
    found = comparison.compare(
        tiny_predictions.of([[], [0]], [[1], [0]]),
        tiny_predictions.of([[], [0]], [[2], [0]]))
    assert (found.total, found.both_right, found.both_wrong) == (1, 1, 0)
    assert [f.labels for f in found.flips] == [()]


class TestRefusals:

  def test_other_examples(self):
    a, b = _pair()
    with pytest.raises(errors.HubExportError) as caught:
      comparison.compare(a.rows(np.arange(2, 10)), b.rows(np.arange(9)))
    assert ("of 8 and 9 examples there are 1 only in A, such as 0009.png; "
            "2 only in B, such as 0000.png" in str(caught.value))

  def test_other_images_of_the_same_names(self):
    a, b = _pair()
    changed = b.example_sha256.copy()
    changed[3] = b"other"
    with pytest.raises(errors.HubExportError,
                       match="1 with another image or label in B, such as "
                       "0003.png"):
      comparison.compare(a, dataclasses.replace(b, example_sha256=changed))

  def test_classes_numbered_unlike(self):
    a, b = _pair()
    with pytest.raises(errors.HubExportError,
                       match="labels of 10 examples differ, such as of "
                       r"0000.png \(\[0\] and \[1\]\)"):
      comparison.compare(a, dataclasses.replace(b, labels=b.labels + 1))

  def test_a_file_name_twice(self):
    a, b = _pair()
    with pytest.raises(errors.HubExportError,
                       match="^B has 1 examples more than once"):
      comparison.compare(a, b.rows([0, 0, *range(1, 10)]))

  def test_no_labels(self):
    a = tiny_predictions.of([[], []], [[0], [1]])
    with pytest.raises(errors.HubExportError, match="none of 2 examples"):
      comparison.compare(a, a)


@pytest.mark.parametrize("only_a, only_b, told", [
    (0, 0, "nothing tells them apart"),
    (4, 4, "Each is right on 4 that the other is wrong on"),
    (1, 9, "B is right on 8 more of 110 examples"),
    (1, 9, "probability of 0.021: B is better"),
    (9, 1, "A is better"),
    (4, 6, "probability of 0.75: no sign that one is better"),
    (2, 3, "probability of 1: no sign"),
    (0, 100, "less than 1e-12"),
])
def test_sentence(only_a, only_b, told):
  both = 110 - only_a - only_b
  assert told in comparison.sentence(
      comparison.Comparison(110, both, only_a, only_b, 0, ()))


# ----- The program


def _run(*arguments, cwd=_ROOT):
  environment = {k: v for k, v in os.environ.items()
                 if k != "BUILD_WORKING_DIRECTORY"}
  return subprocess.run(
      [sys.executable, "-m", "checks.compare", *map(str, arguments)], cwd=cwd,
      capture_output=True, text=True, check=False, timeout=120,
      env=environment | {
          "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])})


def _export(directory, found, names=("ant", "bee", "c\x1b[31mat")):
  """Writes an export with predictions; returns its directory."""
  export_dir = tiny_export.make(directory, files=tiny_export.FILES | {
      "assets/labels.txt": ("\n".join(names) + "\n").encode()})
  predictions.write(found, export_dirs.evaluation_path(
      export_dir, "pets", "test", ".parquet"), {})
  return export_dir


@pytest.fixture(scope="module", name="exports")
def _exports(tmp_path_factory):
  directory = tmp_path_factory.mktemp("exports")
  return [_export(directory / name, found)
          for name, found in zip("ab", _pair())]


class TestProgram:

  def test_two_exports(self, exports):
    done = _run(*exports)
    assert (done.returncode, done.stderr) == (0, "")
    files = [export_dirs.evaluation_path(e, "pets", "test", ".parquet")
             for e in exports]
    assert done.stdout == f"""\
A  {files[0]}
B  {files[1]}

10 examples

top-1 of A      70.00 %  (39.68 to 89.22)
top-1 of B      40.00 %  (16.82 to 68.73)
B less A       -30.00 points, standard error 22.36, 95 % interval -73.83 to +13.83

both right      3   30.00 %
only A right    4   40.00 %
only B right    1   10.00 %
both wrong      2   20.00 %

McNemar's exact test, two-sided: p = 0.38
A is right on 3 more of 10 examples. Were they equally good, a difference as large would come up by chance with a probability of 0.38: no sign that one is better.

6 of 10 predictions differ.

file      label  A         B         right    margins
0006.png  bee    bee       c?[31mat  A        4.000 4.000
0003.png  ant    ant       bee       A        2.000 5.000
0002.png  ant    ant       bee       A        0.500 0.400
0004.png  ant    ant       c?[31mat  A        3.000 0.300
0007.png  bee    ant       bee       B        0.100 0.200
0009.png  bee    c?[31mat  ant       neither  0.100 3.000
"""

  def test_flips_and_csv(self, exports, tmp_path):
    done = _run(*exports, "--flips=2", "--output=flips.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0003.png" in done.stdout and "0002.png" not in done.stdout
    assert done.stdout.endswith("\nflips  flips.csv\n")
    with open(tmp_path / "flips.csv", encoding="utf-8", newline="") as f:
      rows = list(csv.DictReader(f))
    assert [r["file_name"] for r in rows] == [
        "0006.png", "0003.png", "0002.png", "0004.png", "0007.png",
        "0009.png"]
    assert rows[1] == {
        "file_name": "0003.png", "labels": "0", "a": "0", "b": "1",
        "a_name": "ant", "b_name": "bee", "a_right": "1", "b_right": "0",
        "a_margin": "2.0", "b_margin": "5.0", "a_probability": "0.5",
        "b_probability": "0.5"}

  def test_files_and_the_export_itself(self, exports):
    file = export_dirs.evaluation_path(exports[0], "pets", "test", ".parquet")
    done = _run(exports[0], file)
    assert done.returncode == 0, done.stderr
    assert "p = 1\n" in done.stdout
    assert "0 of 10 predictions differ." in done.stdout

  def test_files_alone_have_class_numbers(self, tmp_path):
    for name, found in zip("ab", _pair()):
      predictions.write(found, tmp_path / f"{name}.parquet", {})
    done = _run("a.parquet", "b.parquet", "--flips=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "A  a.parquet\nB  b.parquet\n" in done.stdout
    assert "0006.png  1      1  2  A      4.000 4.000" in done.stdout

  def test_another_data_set(self, exports):
    a, b = exports
    found = tiny_predictions.of([[0], [1]], [[0], [0]])
    for export_dir in exports:
      predictions.write(found, export_dirs.evaluation_path(
          export_dir, "zoo/small", "train", ".parquet"), {})
    done = _run(a, b, "--dataset=zoo/small", "--split=train")
    assert done.returncode == 0, done.stderr
    assert "zoo-small-train.parquet" in done.stdout
    assert "2 examples\n" in done.stdout
    done = _run(a, b, "--dataset=zoo/small:1.0.0", "--split=train")
    assert "2 examples\n" in done.stdout
    done = _run(a, b, "--dataset=zoo/small")
    assert done.returncode == 1
    assert done.stderr == (
        f"compare: there are no predictions {a}.evaluations/zoo-small-test"
        ".parquet; expected those of an evaluation. Evaluate it: python -m "
        f"checks.evaluate --export_dir={a} --dataset=zoo/small\n")

  def test_other_data(self, exports, tmp_path):
    predictions.write(_pair()[0].rows(np.arange(4)), tmp_path / "c.parquet",
                      {})
    done = _run(exports[0], tmp_path / "c.parquet")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "6 only in A, such as 0004.png" in done.stderr
    assert "Traceback" not in done.stderr

  @pytest.mark.parametrize("arguments, status, fault", [
      ([], 2, "A is missing; expected A B"),
      (["x"], 2, "B is missing; expected A B"),
      (["x", "y", "z"], 2, "unexpected argument 'z'; expected only A B and"),
      (["x", "y", "--flips=-1"], 2, "flips"),
      (["x.parquet", "y.parquet", "--split=test"], 2, "--dataset and --split"),
      (["x", "y"], 1, "x is not an export"),
      (["x.parquet", "y.parquet"], 1, "there are no predictions"),
  ])
  def test_errors(self, tmp_path, arguments, status, fault):
    done = _run(*arguments, cwd=tmp_path)
    assert done.returncode == status
    assert fault in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr

  def test_a_damaged_file(self, exports, tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    done = _run(exports[0], tmp_path / "bad.parquet")
    assert done.returncode == 1
    assert "bad.parquet cannot be read" in done.stderr
    assert "Traceback" not in done.stderr

  def test_a_manifest_without_a_split(self, tmp_path):
    export_dir = _export(tmp_path, _pair()[0])
    path = export_dir / "assets.extra" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["dataset"]["split"] = None
    path.write_text(json.dumps(manifest))
    done = _run(export_dir, export_dir)
    assert done.returncode == 2
    assert "names no split" in done.stderr

  def test_help_and_no_tensorflow(self):
    done = _run("--help")
    assert done.returncode == 0
    assert "--flips" in done.stdout and "McNemar" in done.stdout
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from checks import compare\n"
         "assert 'tensorflow' not in sys.modules"], cwd=_ROOT, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0
