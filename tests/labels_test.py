"""The class lists beside hub_export/labels, against what is known of them."""

import pytest

from hub_export import labels


class TestImageNet12k:

  def test_one_name_for_each_output(self):
    """The two timm checkpoints trained on it have 11821 outputs."""
    synsets = labels.synsets("imagenet12k")
    names = labels.names("imagenet12k")
    assert len(synsets) == len(names) == 11821
    assert list(synsets) == sorted(set(synsets))
    assert len({name.lower() for name in names}) == 11821
    assert all(name == name.strip() and name for name in names)

  # WordNet's first lemmas; the ids from its noun index.
  @pytest.mark.parametrize("synset, name", [
      ("n00007846", "person"), ("n01440764", "tench"), ("n02084071", "dog"),
      ("n02012849", "crane (n02012849)"), ("n03126707", "crane (n03126707)")])
  def test_anchors(self, synset, name):
    index = labels.synsets("imagenet12k").index(synset)
    assert labels.names("imagenet12k")[index] == name

  def test_ends(self):
    synsets = labels.synsets("imagenet12k")
    assert (synsets[0], synsets[-1]) == ("n00005787", "n15102894")

  def test_lacks_seven_of_imagenet_1k(self):
    """Counted in timm's two lists, outside this program."""
    lacking = set(labels.synsets("imagenet2012")) - set(
        labels.synsets("imagenet12k"))
    assert lacking == {"n02085782", "n02089078", "n02089867", "n02091635",
                       "n02112706", "n02113978", "n04399382"}

  def test_known(self):
    assert labels.known("imagenet12k") and not labels.known("imagenet22k")
