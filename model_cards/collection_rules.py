"""Whether a collection's page says what its modules' manifests and reports do.

Numbers are read as on cards; see `facts`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hub_export import peer as peer_lib
from model_cards import facts as facts_lib
from model_cards import page

Entry = tuple[Mapping[str, Any], Mapping[str, Any] | None]

_ROW_LINK = re.compile(r"\[(?P<handle>[^\]]+)\]\([^)]+\)")


def problems(card: str, entries: Sequence[Entry],
             peers: Sequence[peer_lib.Peer]) -> list[str]:
  """Returns one message for each number or name that is not the modules'.

  Args:
    card: The page, in Markdown.
    entries: Manifest and report of every module that it links to.
    peers: What others reported for the family.
  """
  plain, _ = page.without_code(card)
  by_handle = {m["handle"]: (m, r) for m, r in entries}
  by_name = {p.name: p for p in peers}
  shared = [facts_lib.of(m, r) for m, r in entries]
  found = []
  listed = set()
  for line in plain.split("\n")[1:]:  # The first line's is the page's own.
    cells = page.cells(line)
    link = _ROW_LINK.match(cells[0]) if cells else None
    if link and link["handle"] in by_handle:
      listed.add(link["handle"])
      found += _module_problems(link["handle"], cells[1:],
                                *by_handle[link["handle"]])
    elif cells and cells[0].strip("'") in by_name:
      found += _peer_problems(by_name[cells[0].strip("'")], cells[1:])
    elif link:
      found.append(f"row {link['handle']!r} is of a module that the page does "
                   "not link to; expected the handle of the linked card")
    else:
      found += _line_problems(_ROW_LINK.sub(" ", line), shared)
  return found + [f"{handle} is linked to, but has no row with its figures"
                  for handle in by_handle if handle not in listed]


def _module_problems(handle: str, cells: Sequence[str], m: Mapping[str, Any],
                     r: Mapping[str, Any] | None) -> list[str]:
  top1 = ((r or {}).get("metrics") or {}).get("top1") or {}
  latency = (r or {}).get("latency") or {}
  reported = m["reported_accuracy"] or {}
  values = [m["parameters"]["trainable"], m["multiply_adds"]["count"],
            *(top1.get(key) for key in ("value", "low", "high")),
            reported.get("top1"), latency.get("median_ms")]
  found = _row_problems(handle, cells, facts_lib.of(m, r), values)
  kind = m["kind"].replace("_", " ")
  text = " ".join(cells)
  if kind not in text:
    found.append(f"row {handle!r} does not call it a {kind}")
  if m["is_demo"] != bool(re.search(r"\bdemo\b", text)):
    found.append(f"row {handle!r} is wrong on whether it is a demo; the "
                 f"manifest says {m['is_demo']}")
  return found


def _peer_problems(peer: peer_lib.Peer, cells: Sequence[str]) -> list[str]:
  rest = [cell.replace(peer.variant, "").replace(peer.figures_from, "")
          for cell in cells]
  seen = [facts_lib.normal(number) for cell in rest
          for number in re.findall(r"\d+(?:[.,]\d+)*", cell)]
  return _compared(peer.name, seen,
                   [peer.top1, peer.image_size_px, peer.multiply_adds])


def _row_problems(label: str, cells: Sequence[str], facts: facts_lib.Facts,
                  values: Sequence[Any]) -> list[str]:
  seen = [number for number, _ in facts.numbers(
      "| " + " | ".join(cells) + " |")]
  return _compared(label, seen, [v for v in values if v is not None])


def _compared(label: str, seen: Sequence[str],
              values: Sequence[Any]) -> list[str]:
  allowed = [form for value in values for form in facts_lib.row_forms(value)]
  if len(seen) == len(allowed) and all(
      number in forms for number, forms in zip(seen, allowed)):
    return []
  return [f"row {label!r} says {', '.join(seen) or 'no number'}; expected "
          f"{', '.join(str(value) for value in values)}"]


def _line_problems(line: str, shared: Sequence[facts_lib.Facts]) -> list[str]:
  """Returns which numbers of other lines no module has."""
  unknown = None
  for facts in shared:
    seen = {number for number, is_known in facts.numbers(line) if not is_known}
    unknown = seen if unknown is None else unknown & seen
  return [f"{number!r} in {page.squeeze(line)[:80]!r} is no value of any "
          "module's manifest or report; correct or remove it"
          for number in sorted(unknown or ())]
