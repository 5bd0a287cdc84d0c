"""Tests of hub_export/site/cards.py: what a card may do to a page, or not."""

import re
import time

import pytest

from hub_export.site import cards

_CARD = """# Module local/tiny/1
A first paragraph.

<!-- asset-path: local/tiny/1.tar.gz -->
<!-- task: image-classification -->

## Overview

| Metric | Value |
| ------ | ----: |
| Top-1  | 97.5  |

![What it shows](1.evaluations/a.png)

[The page](1.evaluations/a.html) and [the web](https://example.org/?a=1&b=2).

```python
hub.load("PATH_OR_URL/local/tiny/1")
```

### Overview

Put in for `PATH_OR_URL`:
"""
_FILES = ("1.evaluations/a.png", "1.evaluations/a.html")


def _body(text: str, files=_FILES, replacements=None) -> str:
  return str(cards.render(text, files, replacements or {}).body)


def test_a_whole_card():
  card = cards.render(_CARD, _FILES, {"PATH_OR_URL": "http://h"})
  assert str(card.body) == (
      "<p>A first paragraph.</p>\n"
      '<h2 id="card-overview">Overview</h2>\n'
      '<div class="scroll" tabindex="0" role="group" aria-label="Table">'
      "<table>\n<thead>\n<tr>\n<th>Metric</th>\n<th class=number>Value</th>\n"
      "</tr>\n</thead>\n<tbody>\n<tr>\n<td>Top-1</td>\n"
      "<td class=number>97.5</td>\n</tr>\n</tbody>\n</table></div>\n"
      '<p><a class="picture" href="1.evaluations/a.png">'
      '<img src="1.evaluations/a.png" alt="What it shows">'
      "</a></p>\n"
      '<p><a href="1.evaluations/a.html">The page</a> and '
      '<a href="https://example.org/?a=1&amp;b=2" rel="noopener noreferrer">'
      "the web</a>.</p>\n"
      '<div class="code"><pre data-language="python"><code>'
      "hub.load(&quot;http://h/local/tiny/1&quot;)\n</code></pre></div>\n"
      '<h3 id="card-overview-2">Overview</h3>\n'
      "<p>Put in for <code>PATH_OR_URL</code>:</p>\n")
  assert card.headings == (cards.Heading("card-overview", "Overview", 2),
                           cards.Heading("card-overview-2", "Overview", 3))


@pytest.mark.parametrize("text", [
    "<script>alert(1)</script>", "a <img src=x onerror=alert(1)> b",
    "<!-- a --><script>alert(1)</script><!-- b -->",
    "<!-- a\n\n--> <iframe src=x>", "<!-- open <b>", "<style>p{}</style>",
    "<!-<!-- -->-><b>", "- <svg onload=alert(1)>",
    "| <b> |\n| --- |\n| <i onclick=x> |", "<p\n onclick=alert(1)>",
    "<!-- --!><b>", "![<b>](1.evaluations/a.png)", "# A\n\n## <b>x</b>"])
def test_html_stands_there_as_text(text):
  body = _body(text)
  tags = set(re.findall(r"<(/?[a-z0-9]+|!)", body))
  assert tags <= {"p", "/p", "ul", "/ul", "li", "/li", "div", "/div", "table",
                  "/table", "thead", "/thead", "tbody", "/tbody", "tr", "/tr",
                  "th", "/th", "td", "/td", "a", "/a", "img", "h2", "/h2"}
  assert "&lt;" in body
  assert not re.search(r"<[^>]*\bon\w+=", body)


def test_comments_are_not_shown():
  assert _body("<!-- one -->\n<!-- two -->\n\ntext <!-- three --> on") == (
      "<p>text  on</p>\n")


@pytest.mark.parametrize("address", [
    "javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x",
    "//example.org/x", "/etc/passwd", "../../x", "2.evaluations/a.png",
    "1.evaluations/../a.png", "file:///etc/passwd", "vbscript:x"])
def test_links_lead_to_the_web_or_to_files_beside(address):
  body = _body(f"[text]({address}) <{address}> ![alt]({address})")
  assert "href" not in body and "src" not in body
  assert "text" in body and "alt" in body


def test_pictures_come_from_beside_the_card_alone():
  assert _body("![alt](https://example.org/a.png)") == "<p>alt</p>\n"


def test_attributes_cannot_be_left():
  assert _body('![a"b](x.png)', files=("x.png",)) == (
      '<p><a class="picture" href="x.png">'
      '<img src="x.png" alt="a&quot;b"></a></p>\n')
  assert _body('[c](https://h/"d)') == (
      '<p><a href="https://h/%22d" rel="noopener noreferrer">c</a></p>\n')
  assert _body('```a"b\nx\n```') == (
      '<div class="code"><pre data-language="a&quot;b"><code>x\n'
      "</code></pre></div>\n")


@pytest.mark.parametrize("text", [
    "[" * 50_000, "*a **a " * 20_000, "![" * 30_000, "a" * 300_000,
    "|a" * 8000 + "\n" + "|-" * 8000 + "\n" + "|x\n" * 8000])
def test_what_would_take_long_to_parse_is_shown_as_it_is(text):
  start = time.process_time()
  assert _body(f"<b>{text}") == (
      f"<pre>&lt;b&gt;{text[:cards.MOST_CHARACTERS - 3]}</pre>\n")
  assert time.process_time() - start < 1


def test_many_headings_of_one_name():
  start = time.process_time()
  headings = cards.render("# a\n" * 10_000, (), {}).headings
  assert headings[-1].id == "card-a-9999"  # The first is the page's title.
  assert len({heading.id for heading in headings}) == 9_999
  assert time.process_time() - start < 5


def test_an_empty_card_and_one_without_a_title():
  assert _body("") == ""
  assert _body("## A") == '<h2 id="card-a">A</h2>\n'
  # One h1 for the page.
  assert _body("text\n\n# B") == '<p>text</p>\n<h2 id="card-b">B</h2>\n'
