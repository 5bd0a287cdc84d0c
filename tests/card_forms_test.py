"""Tests of the cards for the Hugging Face Hub and for Kaggle Models."""

import re

import pytest
import yaml

from hub_export import errors
from model_cards import forms
from model_cards import front_matter
from model_cards import validate
from tests import card_validation_test
from tests import model_cards_test

# By hand, from the figures in model_cards_test.manifest and report.
FRONT_MATTER = """\
---
license: apache-2.0
pipeline_tag: image-classification
tags:
- tensorflow
- tensorflow-hub
- saved-model
- regnety
- regnet
datasets:
- imagenet-1k
metrics:
- accuracy
model-index:
- name: regnety600mf_classification
  results:
  - task:
      type: image-classification
      name: Image classification
    dataset:
      name: ImageNet-1k (ILSVRC 2012)
      type: imagenet-1k
      split: validation
      args:
        tfds: imagenet2012:5.1.0
        num_examples: 50000
    metrics:
    - type: accuracy
      value: 73.47
      name: Top-1 accuracy, percent
    - type: accuracy
      value: 91.53
      name: Top-5 accuracy, percent
---

# RegNetY 600MF, an image classifier
"""

# The headings of the model card that Kaggle asks its publishers to fill in.
KAGGLE_HEADINGS = [
    "# Model Summary", "## Usage", "## System",
    "## Implementation requirements", "# Model Characteristics",
    "## Model initialization", "## Model stats", "## Other details",
    "# Data Overview", "## Training data", "## Demographic groups",
    "## Evaluation data", "# Evaluation Results", "## Summary",
    "## Subgroup evaluation results", "## Fairness", "## Usage limitations",
    "## Ethics", "## References"]

FORMS = [forms.hugging_face, forms.kaggle]


def made(form, kind="classifier", is_demo=False):
  """Returns a card with figures and pictures, its manifest and report."""
  m = model_cards_test.manifest(kind, is_demo=is_demo)
  r = model_cards_test.with_figures(m)
  return form(m, r, model_cards_test.links(m)), m, r


def test_kaggle_says_float32_of_what_is_float32_alone():
  m = model_cards_test.manifest()
  assert "`float32` throughout" in forms.kaggle(m, None)
  m |= {"form": "serving", "precision": "bf16",
        "handle": m["handle"].replace("/4", "_serving_bf16/4"),
        "loss": {"outputs": 0.1, "top1_points": 0.5}}
  card = forms.kaggle(m, None)
  assert "throughout" not in card and "Precision: `bf16`" in card
  assert validate.problems(card, m) == []


class TestHuggingFace:

  def test_begins_as_written_by_hand(self):
    card, _, _ = made(forms.hugging_face)
    assert card.startswith(FRONT_MATTER)

  def test_is_read_by_the_hubs_own_client(self):
    import huggingface_hub  # pylint: disable=g-import-not-at-top
    card, _, _ = made(forms.hugging_face, "feature_extractor")
    data = huggingface_hub.ModelCard(card).data
    assert data.model_name == "regnety600mf_feature_extractor"
    assert data.pipeline_tag == "image-feature-extraction"
    assert [(r.metric_name, r.metric_value, r.dataset_split)
            for r in data.eval_results] == [
                ("Top-1 accuracy, percent", 73.47, "validation"),
                ("Top-5 accuracy, percent", 91.53, "validation")]

  def test_without_a_measurement_there_is_no_model_index(self):
    m = model_cards_test.manifest()
    for r in (None, model_cards_test.report(m, "incomplete")):
      card = forms.hugging_face(m, r)
      assert "model-index" not in card and "\nmetrics:" not in card
      assert validate.problems(card, m, r) == []

  def test_another_data_set_is_not_called_the_models(self):
    m = model_cards_test.manifest()
    r = model_cards_test.report(m)
    r["dataset"]["name"] = "imagenet_v2/topimages"
    dataset = front_matter.metadata(m, r)["model-index"][0]["results"][0][
        "dataset"]
    assert dataset["name"] == dataset["type"] == "imagenet_v2/topimages"

  def test_demo_is_tagged(self):
    card, m, r = made(forms.hugging_face, is_demo=True)
    assert "\n- demo\n" in card and "datasets:" not in card
    assert validate.problems(card, m, r) == []
    assert any(f.startswith("tags in the front matter lack demo")
               for f in validate.problems(card.replace("\n- demo\n", "\n"),
                                          m, r))

  def test_licences_of_other_names(self):
    m = model_cards_test.manifest()
    m["licence"] = {"id": "SEER", "text": "Terms of its own."}
    card = forms.hugging_face(m, None)
    assert card.startswith("---\nlicense: other\nlicense_name: seer\n")
    assert validate.problems(card, m) == []
    assert validate.problems(
        card.replace("license: other\nlicense_name: seer", "license: mit"), m)

  def test_hostile_titles_stay_in_their_field(self):
    m = model_cards_test.manifest()
    m["dataset"]["title"] = 'x"\n---\nlicense: mit\n- !!python/object: y'
    r = model_cards_test.report(m)
    block, _ = front_matter.split(forms.hugging_face(m, r))
    data = yaml.safe_load(block)
    assert data["license"] == "apache-2.0"
    assert data["model-index"][0]["results"][0]["dataset"]["name"] == (
        m["dataset"]["title"])

  @pytest.mark.parametrize("old,new,problem", [
      ("license: apache-2.0", "license: mit", "license in the front matter"),
      ("license: apache-2.0\n", "", "no license in the front matter"),
      ("value: 73.47", "value: 91.53", "model-index in the front matter"),
      ("value: 73.47", "value: 73.52", "model-index in the front matter"),
      ("num_examples: 50000", "num_examples: 10000", "model-index"),
      ("split: validation", "split: test", "model-index"),
      ("- imagenet-1k\nmetrics", "- imagenet-21k\nmetrics", "datasets in"),
      ("pipeline_tag: image-classification", "pipeline_tag: other",
       "pipeline_tag in the front matter"),
      ("license: apache-2.0", "license: [", "the front matter is no YAML"),
      ("license: apache-2.0\n", "license: apache-2.0\nlicense_name: x\n",
       "license_name in the front matter is 'x'; manifest and report say "
       "nothing of it")])
  def test_altered_front_matter_is_found(self, old, new, problem):
    card, m, r = made(forms.hugging_face)
    altered = card.replace(old, new, 1)
    assert altered != card
    assert any(f.startswith(problem) for f in validate.problems(altered, m, r))

  def test_front_matter_that_is_no_record(self):
    assert validate.problems("---\n- 1\n---\n\n# x\n")[0].startswith(
        "the front matter is '- 1'")

  def test_a_publishers_own_tags_and_fields_may_be_there(self):
    card, m, r = made(forms.hugging_face)
    card = card.replace("- regnet\n", "- regnet\n- mine\n", 1).replace(
        "---\n", "---\nlanguage: en\n", 1)
    assert validate.problems(card, m, r) == []

  def test_snippets_download_from_the_repository(self):
    m = model_cards_test.manifest()
    card = forms.hugging_face(m, None, (), "my-lab/regnet_600")
    assert 'huggingface_hub.snapshot_download("my-lab/regnet_600")' in card
    assert '    "4")\n' in card and "PATH/" not in card


class TestKaggle:

  def test_has_the_headings_of_kaggles_own_card(self):
    card, _, _ = made(forms.kaggle)
    plain = re.sub(r"(?s)```.*?```", "", card)
    assert re.findall(r"(?m)^##? .*", plain.replace("\n### ", "\n")) == (
        KAGGLE_HEADINGS)

  @pytest.mark.parametrize("heading", KAGGLE_HEADINGS[1:-1])
  def test_missing_headings_are_found(self, heading):
    card, m, r = made(forms.kaggle)
    title = heading.lstrip("# ")
    found = validate.problems(
        card.replace(f"\n{heading}\n", "\n", 1), m, r)
    assert any(f.startswith(f"no section {title!r}") for f in found)

  def test_snippets_download_from_the_variation(self):
    card = forms.kaggle(model_cards_test.manifest(), None, (),
                        "lab/regnet/tensorFlow2/y-600mf/4")
    assert 'model_download("lab/regnet/tensorFlow2/y-600mf/4")' in card


class TestBoth:

  @pytest.mark.parametrize("form", FORMS)
  @pytest.mark.parametrize("kind", ["classifier", "feature_extractor"])
  @pytest.mark.parametrize("is_demo", [True, False])
  def test_is_sound_and_has_every_figure(self, form, kind, is_demo):
    card, m, r = made(form, kind, is_demo)
    assert validate.problems(card, m, r) == []
    for part in (model_cards_test.METRICS, model_cards_test.FIGURES,
                 model_cards_test.WORST):
      assert part in card

  @pytest.mark.parametrize("form", FORMS)
  def test_every_altered_number_is_found(self, form):
    card, m, r = made(form)
    tampered = list(card_validation_test.altered(card))
    assert len(tampered) > 150
    assert [what for what, text in tampered
            if not validate.problems(text, m, r)] == []

  @pytest.mark.parametrize("form", FORMS)
  def test_python_examples_compile(self, form):
    for kind in ("classifier", "feature_extractor"):
      blocks = made(form, kind)[0].split("```python\n")
      assert len(blocks) == 5
      for block in blocks[1:]:
        compile(block.split("```")[0], "card", "exec")

  @pytest.mark.parametrize("form", FORMS)
  def test_another_modules_card_is_found(self, form):
    card, m, r = made(form)
    m["handle"] = r["handle"] = "local/other/4"
    assert any("does not name 'local/other/4'" in f
               for f in validate.problems(card, m, r))

  @pytest.mark.parametrize("form", FORMS)
  def test_report_of_another_module_is_refused(self, form):
    other = model_cards_test.manifest("feature_extractor")
    with pytest.raises(errors.HubExportError, match="feature_extractor/4"):
      form(model_cards_test.manifest(), model_cards_test.report(other))

  @pytest.mark.parametrize("form,name", [
      (forms.hugging_face, "repo"), (forms.hugging_face, 'a/b"); x("'),
      (forms.kaggle, "owner/model"), (forms.kaggle, "a/b/c/d/new")])
  def test_names_that_are_none(self, form, name):
    with pytest.raises(errors.HubExportError, match="is no name to publish"):
      form(model_cards_test.manifest(), None, (), name)
