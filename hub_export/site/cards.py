"""Model cards as HTML that is safe whatever the Markdown holds.

HTML in a card stands on the page as text, comments vanish, links go to the web
or to files beside the card, and nothing but those files is shown as a picture.
A text that would take long to parse stands there as it is.
"""

import dataclasses
import html
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence

import markdown_it
from markdown_it import token as token_lib
import markupsafe

MOST_CHARACTERS = 256 << 10
# Of those whose meaning depends on all that follows: the parser's time grows
# with the square of their number. Cards have a hundred or two.
_MOST_MARKS = 10_000
_MARKS = "[*_<&|`"
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_WEB = re.compile(r"(https?://|mailto:|#)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Heading:
  """A heading of a card."""
  id: str     # What "#..." leads to.
  text: str
  level: int  # 2 for "##".


@dataclasses.dataclass(frozen=True)
class Card:
  """A card as HTML, without its title."""
  body: markupsafe.Markup
  headings: tuple[Heading, ...]


def render(text: str, files: Collection[str],
           replacements: Mapping[str, str],
           pages: Mapping[str, str] | None = None) -> Card:
  """Returns a card's HTML.

  Args:
    text: Markdown. Beyond MOST_CHARACTERS it is cut off and not parsed, and
      with thousands of marks it is not parsed either.
    files: Relative links that the card may have, as they are written there.
    replacements: What to put in for placeholders in blocks of code, such as
      the address for "PATH_OR_URL". The text that explains them stays.
    pages: Other relative links that it may have, to where they lead here.
  """
  if (len(text) > MOST_CHARACTERS
      or sum(map(text.count, _MARKS)) > _MOST_MARKS):
    return Card(markupsafe.Markup(
        f"<pre>{html.escape(text[:MOST_CHARACTERS])}</pre>\n"), ())
  parser = _parser({**dict.fromkeys(files), **(pages or {})},
                   dict(replacements))
  tokens = _without_title(parser.parse(text))
  headings = _number_headings(tokens)
  return Card(markupsafe.Markup(
      parser.renderer.render(tokens, parser.options, {})), headings)


def _parser(links: dict[str, str | None], replacements: dict[str, str]
            ) -> markdown_it.MarkdownIt:
  # HTML is parsed, so that comments are known for what they are; the rules
  # below let none of it through.
  parser = markdown_it.MarkdownIt(
      "commonmark", {"html": True}).enable("table")

  def code(content: str) -> str:
    for placeholder, value in replacements.items():
      content = content.replace(placeholder, value)
    return html.escape(content)

  def html_as_text(self, tokens, i, options, env) -> str:
    return html.escape(_COMMENT.sub("", tokens[i].content).strip())

  def html_block(self, tokens, i, options, env) -> str:
    shown = html_as_text(self, tokens, i, options, env)
    return f"<p>{shown}</p>\n" if shown else ""

  def fence(self, tokens, i, options, env) -> str:
    words = tokens[i].info.split()
    language = f' data-language="{html.escape(words[0])}"' if words else ""
    return (f'<div class="code"><pre{language}><code>'
            f"{code(tokens[i].content)}</code></pre></div>\n")

  def link_open(self, tokens, i, options, env) -> str:
    href = str(tokens[i].attrGet("href") or "")
    if href in links:
      return f'<a href="{html.escape(links[href] or href)}">'
    if _WEB.match(href):
      return f'<a href="{html.escape(href)}" rel="noopener noreferrer">'
    return "<a>"

  def image(self, tokens, i, options, env) -> str:
    source = str(tokens[i].attrGet("src") or "")
    alt = html.escape(self.renderInlineAsText(
        tokens[i].children or [], options, env))
    if source not in links:
      return alt
    return (f'<a class="picture" href="{html.escape(source)}">'
            f'<img src="{html.escape(source)}" alt="{alt}"></a>')

  def cell_open(self, tokens, i, options, env) -> str:
    # The parser's own style attribute is one that the pages' policy forbids.
    is_number = "right" in str(tokens[i].attrGet("style") or "")
    return f"<{tokens[i].tag}{' class=number' if is_number else ''}>"

  parser.add_render_rule("html_inline", html_as_text)
  parser.add_render_rule("html_block", html_block)
  parser.add_render_rule("fence", fence)
  parser.add_render_rule("code_block", fence)
  parser.add_render_rule("link_open", link_open)
  parser.add_render_rule("image", image)
  parser.add_render_rule("th_open", cell_open)
  parser.add_render_rule("td_open", cell_open)
  # Wide tables scroll by themselves; whoever has no mouse can reach them.
  parser.add_render_rule("table_open", lambda *_: (
      '<div class="scroll" tabindex="0" role="group" aria-label="Table">'
      "<table>\n"))
  parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
  return parser


def _without_title(tokens: Sequence[token_lib.Token]
                   ) -> list[token_lib.Token]:
  """Returns the tokens without the first heading: the page has its own."""
  if (len(tokens) > 2 and tokens[0].type == "heading_open"
      and tokens[0].tag == "h1"):
    return list(tokens[3:])
  return list(tokens)


def _number_headings(tokens: Sequence[token_lib.Token]
                     ) -> tuple[Heading, ...]:
  """Gives each heading an id of its own; returns them."""
  found: list[Heading] = []
  taken: set[str] = set()
  numbers: dict[str, int] = {}  # The last one given, by id without number.
  for i, token in enumerate(tokens):
    if token.type != "heading_open":
      continue
    title = "".join(child.content for child in tokens[i + 1].children or ()
                    if child.type in ("text", "code_inline"))
    heading_id = base = f"card-{_slug(title)}"
    while heading_id in taken:
      numbers[base] = numbers.get(base, 1) + 1
      heading_id = f"{base}-{numbers[base]}"
    taken.add(heading_id)
    # A card has one h1, and so has the page.
    if token.tag == "h1":
      token.tag = tokens[i + 2].tag = "h2"
    token.attrs = {"id": heading_id}
    found.append(Heading(heading_id, title, int(token.tag[1])))
  return tuple(found)


def _slug(title: str) -> str:
  plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore")
  return re.sub(r"[^a-z0-9]+", "-", plain.decode().lower()).strip("-") or "x"
