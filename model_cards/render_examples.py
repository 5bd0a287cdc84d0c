"""Renders the example cards anew, after a template has changed.

    ./bazelw run //model_cards:render_examples -- model_cards/examples

The directory holds, of real exports, what a card is made of: manifest, report,
pictures and page of the evaluation, without the weights.
"""

import pathlib
from collections.abc import Iterator, Sequence

from hub_export import errors
from hub_export import export_dirs
from hub_export import program
from model_cards import forms
from model_cards import render


def cards(directory: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
  """Yields the path and the text of every card of the examples.

  Args:
    directory: Of the examples: <publisher>/<name>/<version>/ below it.

  Raises:
    HubExportError: if there is no example, or one is damaged.
  """
  found = sorted(directory.glob(f"*/*/*/{export_dirs.MANIFEST}"))
  if not found:
    raise errors.HubExportError(
        f"{directory} has no example; expected "
        f"<publisher>/<name>/<version>/{export_dirs.MANIFEST}")
  for path in found:
    export_dir = path.parents[1]
    manifest = export_dirs.read_manifest(export_dir)
    report = render.read_report(export_dir)
    links = render.evaluation_links(export_dir, report)
    family = manifest["family"]
    publisher = export_dir.parents[1]
    yield (export_dirs.card_path(export_dir),
           render.card_of(export_dir, manifest, report))
    yield (export_dir.with_name("README.md"),
           forms.hugging_face(manifest, report, links))
    yield (export_dir.with_name("kaggle.md"),
           forms.kaggle(manifest, report, links))
    yield (publisher / f"{publisher.name}.md",
           render.publisher_page(publisher.name))
    yield (publisher / "collections" / family / "1.md",
           render.collection_page([(manifest, report)], publisher.name))


def main(argv: Sequence[str]) -> None:
  for path, text in cards(program.user_path(argv[1])):
    export_dirs.write_file(path, text)
    print(program.shown_path(path))


if __name__ == "__main__":
  program.run(main, ("DIRECTORY",))
