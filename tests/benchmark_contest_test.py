"""Tests of rounds, of what follows from them, and of how it is told."""

import io
import types

import PIL.Image
import pytest

from benchmarks import contest
from benchmarks import contest_program
from benchmarks import contestants
from benchmarks import inference
from benchmarks import load
from benchmarks import machine
from benchmarks import options
from benchmarks import preparation
from benchmarks import processes
from benchmarks import results
from benchmarks import scale
from benchmarks import targets
from benchmarks import export as export_benchmark
from checks import meter
from hub_export import errors
from hub_export.regnet import variants


def _turn(wall, cpu=1.0, others=0.0):
  return meter.Turn((wall,), cpu, others)


def _held(**walls):
  """Returns a contest whose rounds took these times, by name; processor time
  is their square."""
  rounds = tuple(contest.Round({name: _turn(wall, wall ** 2)
                                for name, wall in zip(walls, row)})
                 for row in zip(*walls.values(), strict=True))
  return contest.Held(rounds, 0, 0.05)


class _Scripted:
  """Turns in which others use these shares, round by round."""

  def __init__(self, shares):
    self.order = []
    self._shares = {"a": list(shares), "b": [0.0] * len(shares)}

  def turns(self):
    def take(name):
      self.order.append(name)
      return _turn(1.0, others=self._shares[name].pop(0))
    return {name: lambda name=name: take(name) for name in "ab"}


class TestHold:

  def test_quiet_rounds_are_all_that_is_held(self):
    script = _Scripted([0.01] * 9)
    held = contest.hold(script.turns(), 3, 5, 0.05)
    assert (len(held.rounds), held.thrown_away) == (3, 0)
    assert held.is_quiet and held.others == 0.01
    # None always comes first.
    assert script.order == ["a", "b", "b", "a", "a", "b"]

  def test_disturbed_rounds_are_held_again(self):
    script = _Scripted([0.5, 0.02, 0.06, 0.03, 0.0])
    held = contest.hold(script.turns(), 2, 9, 0.05)
    assert [r.others for r in held.rounds] == [0.02, 0.03]
    assert held.thrown_away == 2 and held.is_quiet

  def test_the_least_disturbed_fill_up_and_it_is_told(self):
    script = _Scripted([0.5, 0.2, 0.01, 0.3, 0.4])
    held = contest.hold(script.turns(), 3, 2, 0.05)
    assert [r.others for r in held.rounds] == [0.01, 0.2, 0.3]
    assert held.thrown_away == 2
    assert not held.is_quiet and held.others == 0.3

  def test_one_disturbed_turn_spoils_a_round(self):
    round_ = contest.Round({"a": _turn(1, others=0.01),
                            "b": _turn(1, others=0.2)})
    assert round_.others == 0.2


class TestFigures:

  def test_per_image_medians_over_rounds(self):
    held = _held(a=[0.8, 1.6, 0.4], b=[2.0, 2.0, 2.0])
    found = contest.figures(held, 8)
    assert found["a"]["wall_ms"]["median"] == pytest.approx(100)
    assert found["a"]["wall_ms"]["low"] == pytest.approx(75)
    assert found["a"]["wall_ms"]["high"] == pytest.approx(150)
    assert found["a"]["cpu_ms"]["median"] == pytest.approx(80)

  def test_ratios_are_taken_within_rounds(self):
    """The machine became slower and slower; the ratio did not."""
    held = _held(ours=[1.0, 2.0, 30.0], theirs=[2.0, 4.0, 50.0])
    found = contest.ratio(held, "ours", "theirs")
    assert found["wall"]["median"] == 0.5
    assert found["wall"]["high"] == pytest.approx(0.55)  # 0.5, 0.5 and 0.6.
    assert found["cpu"]["median"] == pytest.approx(0.25)

  def test_targets_and_whether_they_hold(self):
    def ratio(wall):
      return {"wall": {"median": wall}, "cpu": {"median": 2.0}}
    plan = contest_program.Plan(
        "infer", [_contestant(n) for n in ("main", "slow", "peer", "gone")],
        [1, 8, 32], 224, [
            targets.Ratio("main", "peer", {1: 0.5, 8: 0.25, 16: 0.1}),
            targets.Ratio("slow", "gone", {8: 0.5}),
            targets.Ratio("main", "not_asked_for", {1: 0.5})], 0, 1)
    batches = {"1": {"ratios": {"main": {"peer": ratio(0.5)},
                                "slow": {"peer": ratio(9.0)}}},
               "8": {"ratios": {"main": {"peer": ratio(0.26)}, "slow": {}}}}
    found = [(t["ours"], t["theirs"], t["batch"], t["limit"], t["holds"])
             for t in contest_program.targets(plan, batches)]
    assert found == [("main", "peer", 1, 0.5, True),
                     ("main", "peer", 8, 0.25, False),
                     ("slow", "gone", 8, 0.5, None)]

  def test_targets_of_a_batch_that_nobody_finished(self):
    plan = contest_program.Plan(
        "infer", [_contestant("a"), _contestant("b")], [1], 224,
        [targets.Ratio("a", "b", {1: 0.5})], 0, 1)
    target, = contest_program.targets(plan, {})
    assert target["wall"] is None and target["holds"] is None


class TestExponent:

  @pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
  def test_of_exact_powers(self, power):
    sizes = [3.0, 11.0, 45.0, 145.0]
    fit = contest.exponent(sizes, [7 * s ** power for s in sizes])
    assert fit["exponent"] == pytest.approx(power)
    assert fit["error"] == pytest.approx(0, abs=1e-6)

  def test_error_of_noise(self):
    # By hand: logs (0, 1, 2) to (0, 2, 2): slope 1, residuals -1/3, 2/3, -1/3;
    # standard error sqrt(6/9 / 1 / 2).
    e = 2.718281828459045
    fit = contest.exponent([1, e, e * e], [1, e * e, e * e])
    assert fit["exponent"] == pytest.approx(1)
    assert fit["error"] == pytest.approx((1 / 3) ** 0.5)

  @staticmethod
  def _row(size):
    return {"variant": "regnety_200mf", "parameters": size,
            "multiply_adds": size ** 1.4, "export": size,
            "export_memory": size ** 1.3, "disk": size,
            "batch_1": size ** 1.4, "batch_8": size ** 1.6,
            "infer_memory": size}

  def test_what_grows_faster_is_told(self):
    rows = [self._row(1e6), self._row(1e7), self._row(1e8)]
    found = {"variants": rows, "exponents": scale.exponents(rows)}
    holds = {k: e["verdict"]["holds"] for k, e in found["exponents"].items()}
    # Batch 1 takes the time of its multiply-adds, batch 8 more than that.
    assert holds == {"export": True, "export_memory": False, "disk": True,
                     "batch_1": True, "batch_8": False, "infer_memory": True}
    lines = scale.table(found).splitlines()
    assert lines[-1] == (
        "Faster than linearly grows: export memory, batch 8 CPU")
    fit, = [line for line in lines if line.startswith("batch 1 CPU")]
    assert fit.split()[3:] == ["1.40", "+-", "0.00", "1.00", "+-", "0.00",
                               "multiply-adds", "at", "most", "1.05:", "1",
                               "yes"]
    assert "1.30 +- 0.00" in lines[7] and "at most 1.05: 1.3 NO" in lines[7]
    assert PIL.Image.open(io.BytesIO(scale.picture(found))).size[0] > 1000

  def test_growth_that_a_constant_part_hides_is_told(self):
    rows = [self._row(10.0 ** k) for k in range(1, 7)]
    for row in rows:
      row["batch_8"] = row["export_memory"] = row["parameters"]
      row["export"] = 1e7 + row["parameters"] ** 1.2
    found = {"variants": rows, "exponents": scale.exponents(rows)}
    assert found["exponents"]["export"]["verdict"]["holds"]
    assert scale.table(found).splitlines()[-1].startswith("Nothing grows")
    for row in rows:
      row["export"] = 1e4 + row["parameters"] ** 1.2
    found = {"variants": rows, "exponents": scale.exponents(rows)}
    larger = found["exponents"]["export"]["fits"]["larger"]["exponent"]
    # By the ends of the larger half: (1e4 + 10^7.2) / (1e4 + 10^4.8).
    assert larger == pytest.approx(1.17, abs=0.01)
    assert found["exponents"]["export"]["verdict"]["holds"]
    assert scale.table(found).splitlines()[-1] == (
        "Faster than linearly grows: export CPU")

  def test_kept_figures_are_taken_where_nothing_changed(
      self, monkeypatch, tmp_path, capsys):
    measured = []

    def measure(name, *_):
      measured.append(name)
      return self._row(1e6 * len(measured)), {"others": 0.01}
    monkeypatch.setattr(scale, "measured", measure)
    setting, here = options.Setting(2, 3, 3, 0.05), {"cores": 2, "load": [0]}

    def take(name="regnety_200mf", seconds=1.0, here=here):
      return scale.kept_or_measured(name, setting, 32, seconds, here)
    flag = types.SimpleNamespace(value=str(tmp_path))
    monkeypatch.setattr(options, "WORK_DIR", flag)
    first = take()
    assert take(here=here | {"load": [7]}) == first and len(measured) == 1
    assert "kept from an earlier run" in capsys.readouterr().out
    take(seconds=2.0)
    take("regnety_400mf")
    take(here=here | {"cores": 4})
    assert len(measured) == 4
    flag.value = None
    take()
    assert len(measured) == 5


def _contestant(name):
  return contestants.Contestant(name, "", "", "float32", "keras", (), 1e-3)


def _found(is_quiet=True):
  held = _held(main=[0.0049], tf_keras=[0.01], timm=[0.02])
  return {
      "groups": {"main": "main", "lite": "lite", "serving_float32": "serving",
                 "serving_bf16": "serving", "tf_keras": "peers",
                 "timm": "peers"},
      "batches": {"1": {
          "rounds": 1, "thrown_away": 2, "others": 0.031, "is_quiet": is_quiet,
          "figures": contest.figures(held, 1),
          "ratios": {"main": {
              peer: contest.ratio(held, "main", peer)
              for peer in ("tf_keras", "timm")}}}}}


class TestTables:

  def test_figures(self):
    lines = results.figures_table(_found(), "image").splitlines()
    assert lines[0].split() == ["Batch", "1", "ms/image,", "quartiles", "CPU",
                                "ms/image", "x", "fastest"]
    assert lines[1].split() == ["main", "4.90", "(4.90", "to", "4.90)",
                                "0.02", "1.00"]
    assert lines[2].split()[-1] == "2.04"
    assert lines[4] == ("1 rounds, 2 more thrown away; others used up to 3.1% "
                        "of the machine: quiet")

  def test_noise_is_told(self):
    assert "NOT quiet" in results.figures_table(_found(False), "image")

  def test_ratios(self):
    lines = results.ratios_tables(_found()).splitlines()
    # Processor time is the square of wall time here.
    assert [line.split() for line in lines[2:]] == [
        ["Batch", "1,", "ours", "to", "tf_keras", "timm"],
        ["main", "0.490,", "0.240", "0.245,", "0.0600"]]

  def test_no_ratios_without_peers(self):
    found = _found()
    found["batches"]["1"]["ratios"] = {"main": {}}
    assert results.ratios_tables(found) == ""
    found["batches"]["1"]["ratios"] = {}
    assert results.ratios_tables(found) == ""

  def test_targets(self):
    spread = {"median": 0.4912, "low": 0.48, "high": 0.5}
    target = {"ours": "a", "theirs": "b", "batch": 8, "limit": 0.5,
              "wall": spread, "cpu": {"median": 0.3}, "holds": True}
    text = results.targets_table([
        target, target | {"holds": False},
        target | {"wall": None, "cpu": None, "holds": None}])
    assert [line.split()[3:] for line in text.splitlines()[1:]] == [
        ["8", "0.5", "0.491", "(0.480", "to", "0.500)", "yes", "0.300"],
        ["8", "0.5", "0.491", "(0.480", "to", "0.500)", "NO", "0.300"],
        ["8", "0.5", "not", "measured"]]
    assert results.targets_table([]) == ""
    assert str(targets.Verdict("x", 8, 9.123, " s")) == (
        "at most 8 s: 9.123 s NO")

  def test_missing_peers_and_how_to_get_them(self):
    assert results.missing_table([]) == ""
    reason = "no such form (" + "what it says " * 12 + "and\n  more of it)"
    text = results.missing_table([
        {"name": "timm", "reason": "torch not installed", "install": "do it"},
        {"name": "lite", "reason": reason, "install": ""}])
    lines = text.splitlines()
    assert lines[:4] == ["Did not take part:", "  timm: torch not installed",
                         "    run this: do it", "  lite: no such form (what it "
                         "says what it says what it says what it says what"]
    assert max(map(len, lines)) <= 80
    # Nothing of it is cut off.
    assert text.split()[-len(reason.split()):] == reason.split()

  def test_picture_in_groups(self):
    found = _found()
    found["batches"]["8"] = {"is_quiet": False, "figures": {
        name: found["batches"]["1"]["figures"]["main"]
        for name in ("serving_float32", "serving_bf16", "timm")}}
    places, ends = results.rows_by_group(found)
    # The Lite form took no part; those of one form are next to each other.
    assert list(places) == ["main", "serving_float32", "serving_bf16",
                            "tf_keras", "timm"]
    assert places["serving_bf16"] - places["serving_float32"] == 1
    assert places["serving_float32"] - places["main"] > 1
    assert [sum(row < end for row in places.values()) for end in ends] == [
        1, 3, 5]
    png = results.contest_picture(found, "Title", "image", "a machine " * 20)
    assert PIL.Image.open(io.BytesIO(png)).format == "PNG"


def test_load_summary():
  def phase(load_s, call_s):
    return {"load": {"wall": load_s, "cpu": load_s},
            "first_call": {"wall": call_s, "cpu": call_s}, "peak_bytes": 5e8}
  rounds = [{load.OURS: phase(0.5 * k, 0.3 * k),
             load.KERAS: phase(5.0 * k, 1.0 * k),
             load.SAVED_MODEL: phase(0.4 * k, 0.6 * k)} for k in (1, 2, 4)]
  found = load.summary(rounds)
  assert found["ratios"]["load"][load.KERAS]["wall"]["median"] == (
      pytest.approx(0.1))
  assert found["ratios"]["load"][load.SAVED_MODEL]["wall"]["median"] == (
      pytest.approx(1.25))
  # Against both ways to load what tf_keras has saved, and in seconds.
  assert [(v["limit"], round(v["found"], 3), v["holds"])
          for v in found["verdicts"]] == [
              (1.0, 0.1, True), (1.0, 1.25, False), (1.0, 1.0, True),
              (0.4, 0.3, True), (0.4, 0.5, False), (0.4, 0.6, False)]
  assert "at most 0.4 s: 0.6 s NO" in load.table(found)


def test_export_summary():
  def found(seconds, peak, disk):
    both = {"wall": seconds, "cpu": 1.0}
    return {"export": {
        "imports": both, "export": both, "imported_bytes": 4e8,
        "peak_bytes": peak, "others": 0.0,
        "disk_bytes": {"x_classification": disk, "x_feature_extractor": 1}},
            "help": {"python": 0.25}}
  summary = export_benchmark.summary(
      [found(7.0, 0.9e9, 26.5e6), found(9.5, 1.2e9, 26.5e6),
       found(7.5, 0.8e9, 26.5e6)], 24_000_000)
  holds = {v["what"]: v["holds"] for v in summary["verdicts"]}
  assert holds == {"export after imports": True, "peak memory": True,
                   "help, python": True, "classifier on disk": False}
  # 1.03 x 24 MB + 1.5 MB.
  assert summary["verdicts"][-1]["limit"] == pytest.approx(26.22)
  text = export_benchmark.table(summary)
  assert "export: 7.50 (7.25 to 8.50) s, 1.00 s of processor time" in text


def test_quiet_rounds_of_processes():
  shares = [0.5, 0.01, 0.2, 0.02]
  kept, quiet = processes.quiet_rounds(
      lambda number: (number, shares[number]), 2, 9, 0.05)
  assert sorted(kept) == [1, 3]
  assert quiet == {"rounds": 2, "thrown_away": 2, "others": 0.02,
                   "is_quiet": True}
  kept, quiet = processes.quiet_rounds(
      lambda number: (number, shares[number]), 2, 1, 0.05)
  assert sorted(kept) == [1, 2] and not quiet["is_quiet"]


class TestMachine:
  _CPUINFO = ("processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\n"
              "model\t\t: 143\nmodel name\t: Some CPU @ 2.60GHz\n"
              "stepping\t: 8\nflags\t\t: fpu sse avx2 avx512_bf16 amx_tile "
              "hypervisor\nprocessor\t: 1\nmodel name\t: Some CPU\n")

  def test_description(self):
    found = machine.describe(self._CPUINFO, "MemTotal:   16777216 kB\n")
    assert found["processor"] == "Some CPU @ 2.60GHz"
    assert found["family_model_stepping"] == ["6", "143", "8"]
    assert found["flags"] == ["avx2", "avx512_bf16", "amx_tile"]
    assert found["is_virtual"]
    assert found["memory_bytes"] == 2**34
    assert "Some CPU @ 2.60GHz (family/model/stepping 6/143/8; avx2" in (
        machine.line(found))

  def test_unknown_system(self):
    found = machine.describe("", "")
    assert found["processor"] and found["memory_bytes"] is None
    assert machine.line(found)


class TestParsing:

  def test_batch_sizes(self):
    assert inference.batch_sizes(["32", "1", " 8", "8"]) == [1, 8, 32]

  @pytest.mark.parametrize("words", [[], ["0"], ["1", "x"], ["-1"], ["1.5"]])
  def test_wrong_batch_sizes(self, words):
    with pytest.raises(errors.UsageError, match="whole numbers from 1 up"):
      inference.batch_sizes(words)

  def test_contestants(self):
    table = contestants.INFERENCE
    assert contestants.chosen(table, []) == table
    chosen = contestants.chosen(table, ["timm", "main"])
    assert [c.name for c in chosen] == ["main", "timm"]
    with pytest.raises(errors.UsageError, match="nobody is called tim;"):
      contestants.chosen(table, ["tim"])

  @pytest.mark.parametrize("name, timm, keras", [
      ("regnety_200mf", "regnety_002", "RegNetY002"),
      ("regnety_1.6gf", "regnety_016", "RegNetY016"),
      ("regnety_32gf", "regnety_320", "RegNetY320"),
      ("regnetx_4.0gf", "regnetx_040", "RegNetX040")])
  def test_names_of_peers(self, name, timm, keras):
    assert variants.by_name(name).name == name
    assert preparation.timm_name(name) == timm
    assert preparation.keras_name(name) == keras

  @pytest.mark.parametrize("table, wanted", [
      (contestants.INFERENCE, targets.INFERENCE),
      (contestants.TRAINING, targets.TRAINING)])
  def test_targets_are_of_contestants(self, table, wanted):
    by_name = {c.name: c for c in table}
    assert len(by_name) == len(table)
    for target in wanted:
      assert by_name[target.ours].is_ours
      assert not by_name[target.theirs].is_ours
