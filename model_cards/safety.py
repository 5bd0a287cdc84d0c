"""What a card may not hold, whatever it says: what browsers would run or fetch.

Hubs show cards in pages of their own. So there is no HTML in them, links lead to
the web, and pictures are those that are published with the module.
"""

import html
import re
from collections.abc import Iterator

from model_cards import page

_HTML = re.compile(r"(?<!\\)<(?!https?://[^\s<>]+>)(?=[A-Za-z!/?])[^\s>]*")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*(?P<target>\S+)", re.MULTILINE)
_PICTURE = re.compile(r"(?<!\\)!\[[^\]]*\]\(\s*(?P<target>[^)\s]+)")
_SCHEMES = ("http", "https", "mailto")


def link_problems(text: str) -> list[str]:
  """Returns which links of a page lead to anything that a browser would run.

  Args:
    text: Without fenced code.
  """
  return [f"the link to {target[:80]!r} is none to the web; expected https:// "
          "or a file beside the card"
          for target in _targets(text)
          if (scheme := _scheme(target)) and scheme not in _SCHEMES]


def problems(text: str) -> list[str]:
  """Returns what HTML and which foreign pictures a card has.

  Args:
    text: From the first heading on, without fenced code.
  """
  text = page.INLINE_CODE.sub(" ", text)
  found = [f"{match[0][:80]!r} is HTML; expected Markdown alone. Write &lt; for "
           "the character itself." for match in _HTML.finditer(text)]
  pictures = [match["target"] for match in _PICTURE.finditer(text)]
  return found + [
      f"the picture {target[:80]!r} comes from elsewhere, where it may change; "
      "expected one that is published with the module" for target in pictures
      if _scheme(target) or target.lstrip("<").startswith("//")]


def _targets(text: str) -> Iterator[str]:
  text = page.INLINE_CODE.sub(" ", text)
  yield from page.links(text)
  for match in _REFERENCE.finditer(text):
    yield match["target"]


def _scheme(target: str) -> str | None:
  """Returns the scheme that a browser would see."""
  plain = re.sub(r"[\x00-\x20]", "", html.unescape(target)).lstrip("<")
  found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", plain)
  return found[1].lower() if found else None
