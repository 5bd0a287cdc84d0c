"""Tests of the program that checks cards, on files."""

import subprocess
import sys

import pytest

from hub_export import errors
from hub_export import program
from model_cards import forms
from model_cards import render
from model_cards import validate
from tests import model_cards_test
from tests import tiny_export


def run(capsys, *paths):
  """Runs the program's main; returns its status and what it printed."""
  status = validate.main(["validate", *map(str, paths)])
  return status, capsys.readouterr().out


@pytest.fixture
def export_dir(tmp_path):
  made = tiny_export.make(tmp_path)
  tiny_export.write_attachments(made)
  return made


def test_a_sound_card_beside_its_module(export_dir, capsys):
  card = tiny_export.card_path(export_dir)
  status, out = run(capsys, card)
  assert status == 0
  assert out.rstrip().endswith(
      "1.md: sound (numbers traced to local/tiny_classification/1)")


def test_an_unsound_card_lists_all_that_is_wrong(export_dir, capsys):
  card = tiny_export.card_path(export_dir)
  text = card.read_text()
  card.write_text(text.replace("97.50 %", "97.60 %", 1).replace(
      "task: image-classification", "task: none"))
  status, out = run(capsys, card)
  assert status == 1
  assert "unsound" in out
  assert "  task is 'none'; expected one of" in out
  assert "  row 'Top-1, measured' says 97.6, " in out


def test_a_directory_is_searched(export_dir, capsys, tmp_path):
  render.write_cards(export_dir)
  status, out = run(capsys, tmp_path)
  assert status == 0
  assert out.count(": sound") == 3  # Card, collection, publisher.
  assert "form only: no module lies beside it" in out


def test_cards_elsewhere_are_checked_by_their_form(tmp_path, capsys):
  card = tmp_path / "mine.md"
  card.write_text("# Publisher me\nThat is me.\n")
  assert run(capsys, card)[0] == 0
  card.write_text("# Publisher Me\nThat is me.\n")
  assert run(capsys, card)[0] == 1


@pytest.mark.parametrize("form", [forms.hugging_face, forms.kaggle])
def test_a_readme_is_held_against_the_module_beside_it(export_dir, form):
  manifest = tiny_export.manifest()
  report = render.read_report(export_dir)
  readme = export_dir.with_name("README.md")
  text = form(manifest, report, render.evaluation_links(export_dir, report))
  readme.write_text(text)
  assert validate.file_problems(readme) == (
      [], "numbers traced to local/tiny_classification/1")
  readme.write_text(text.replace("4,096", "4,097"))
  assert any("'Parameters, trainable'" in f
             for f in validate.file_problems(readme)[0])


def lite(tmp_path):
  """Writes the page of a conversion beside its file; returns its path."""
  tiny_export.make(tmp_path)
  page = tmp_path / "local/tiny_classification/lite/2.md"
  page.parent.mkdir()
  page.with_suffix(".tflite").write_bytes(b"TFL3" * 100)
  # By sha256sum.
  page.write_text(render.lite_page(tiny_export.manifest(), {
      "version": 2, "bytes": 400, "quantisation": "none", "sha256":
      "5e0cba53727c88c1b608b51450c70bc70eacad5631c60551d53b9a70196b3bdc"}))
  return page


def test_a_lite_page_is_held_against_its_file(tmp_path):
  page = lite(tmp_path)
  text = page.read_text()
  assert text.startswith("# Lite local/tiny_classification/2\n")
  found, against = validate.file_problems(page)
  assert against == "numbers traced to local/tiny_classification/1"
  assert found == []
  for old, new in (("| 400 ", "| 401 "), ("5e0cba53", "00000001"),
                   ("4,096", "4,097"), ("[batch, 2]", "[batch, 3]"),
                   ("parent-model: local/tiny_classification/1",
                    "parent-model: local/other/1"),
                   ("lite/2.tflite", "lite/2.tar.gz")):
    page.write_text(text.replace(old, new))
    assert page.read_text() != text
    assert validate.file_problems(page)[0], old
  page.write_text(text)
  page.with_suffix(".tflite").unlink()
  assert "expected the converted model beside its page" in (
      validate.file_problems(page)[0][0])


def test_a_report_of_another_module_is_told(export_dir):
  tiny_export.write_report(export_dir, handle="local/other/1")
  found, _ = validate.file_problems(tiny_export.card_path(export_dir))
  assert any("is that of 'local/other/1'; expected that of "
             "'local/tiny_classification/1'" in f for f in found)


def test_what_is_not_there_or_no_page(tmp_path, export_dir):
  with pytest.raises(errors.UsageError, match="is no page"):
    validate.main(["validate", str(tmp_path / "nothing.md")])
  (tmp_path / "empty").mkdir()
  with pytest.raises(errors.UsageError, match="has none below it"):
    validate.main(["validate", str(tmp_path / "empty")])
  card = tiny_export.card_path(export_dir)
  card.write_bytes(b"\xff\xfe")
  with pytest.raises(errors.HubExportError, match="cannot be read"):
    validate.main(["validate", str(card)])


@pytest.mark.parametrize("arguments,status,text", [
    ((), 2, "FILE... is missing"), (("a.md", "b.md"), 2, "a.md is no page")])
def test_wrong_usage(tmp_path, arguments, status, text):
  done = subprocess.run(
      [sys.executable, "-m", "model_cards.validate", *arguments],
      cwd=tmp_path, env=program.child_environment(), capture_output=True,
      text=True, timeout=120, check=False)
  assert done.returncode == status
  assert text in done.stderr and "Traceback" not in done.stderr


def test_several_files(export_dir, capsys, tmp_path):
  other = tmp_path / "other.md"
  other.write_text("# Module a/b\n")
  status, out = run(capsys, tiny_export.card_path(export_dir), other)
  assert status == 1
  assert "1.md: sound" in out and "other.md: unsound" in out


class TestSections:

  @pytest.mark.parametrize("heading,what", [
      ("How to use", "how to use it"), ("Training data", "training data"),
      ("Metrics", "metrics"), ("Limits and biases", "limits"),
      ("Licence", "licence"), ("Provenance", "provenance"),
      ("How to verify", "how to verify it"),
      ("Intended use", "intended use"), ("Evaluation", "evaluation data")])
  def test_missing_sections_are_found(self, heading, what):
    m = model_cards_test.manifest()
    r = model_cards_test.report(m)
    card = render.module_card(m, r)
    found = validate.problems(
        card.replace(f"\n## {heading}\n", "\n## Other things\n"), m, r)
    assert [f.split(";")[0] for f in found] == [f"no section on {what}"]

  def test_empty_sections_are_found(self):
    m = model_cards_test.manifest()
    card = render.module_card(m, None)
    use = m["card"]["intended_use"]
    start, end = card.index("## Training data"), card.index("## Evaluation")
    assert use in card
    emptied = card[:start] + "## Training data\n\n" + card[end:]
    assert any(f.startswith("section 'Training data' is empty")
               for f in validate.problems(emptied, m))

  @pytest.mark.parametrize("old,new", [
      ("mean confidence 70.84 %", "mean confidence 3.14 %"),
      ("calibration error 3.14 %", "calibration error 70.84 %"),
      ("top-1 73.47 %", "top-1 91.53 %"),
      ("1b7c" * 16, "9d03" * 16),
      ("local/regnety600mf_classification/4\",",
       "local/regnety600mf_classification/3\","),
      ("float32 [batch, 1000]", "float32 [batch, 1001]")])
  def test_known_figures_in_the_wrong_place_are_found(self, old, new):
    m = model_cards_test.manifest()
    r = model_cards_test.with_figures(m)
    card = render.module_card(m, r, model_cards_test.links(m))
    assert validate.problems(card, m, r) == []
    altered = card.replace(old, new, 1)
    assert altered != card
    assert validate.problems(altered, m, r)
