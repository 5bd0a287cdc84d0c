"""The peers of each family of modules, by the family's name in manifests."""

import functools

from hub_export import peer
from hub_export.regnet import peers as regnet_peers

_FAMILIES = {"regnet": regnet_peers.reported}


@functools.cache
def of(family: str) -> tuple[peer.Peer, ...]:
  """Returns what others reported for the family; none if it is unknown."""
  return _FAMILIES[family]() if family in _FAMILIES else ()
