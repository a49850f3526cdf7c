"""Which network interface leads to an address: the kernel's own routing table, read from /proc/net.

Only the main table is looked at. A VPN with a policy table of its own is thereby seen through to the radio or cable
below it, which is what cost and quality depend on.
"""

from __future__ import annotations

import ipaddress
import re
import sys

from node.sensors.reading import Reading, known, unknown
from node.sensors.tree import Tree

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_ROUTE4, _ROUTE6, _TRIE = "/proc/net/route", "/proc/net/ipv6_route", "/proc/net/fib_trie"
_UP, _REJECT, _LOCAL = 0x1, 0x200, 0x80000000
_TABLE_MAX = 256 * 1024
_OWN = re.compile(r"\|-- ([0-9.]{7,15})\s+/32 host LOCAL")


def interface(tree: Tree, address: Address | None) -> Reading[str]:
    """The interface towards `address`; None: the one of the default route. Addresses of this machine lead to ``lo``."""
    if address is not None and (address.is_loopback or _own(tree, address)):
        return known("lo", f"{address} is this machine")
    six = isinstance(address, ipaddress.IPv6Address)
    routes = _routes6(tree) if six else _routes4(tree)
    if routes.value is None:
        return unknown(routes.reason)
    bits, wanted = (128 if six else 32), int(address or 0)
    best: tuple[int, int, str] | None = None
    for network, length, metric, name in routes.value:
        if address is None and length:
            continue
        if wanted >> (bits - length) == network >> (bits - length):
            best = min(filter(None, (best, (-length, metric, name))))
    if best is None:
        return unknown(f"no route to {address}" if address else "no default route")
    return known(best[2], routes.source)


_Routes = list[tuple[int, int, int, str]]  # network, prefix length, metric, interface


def _routes4(tree: Tree) -> Reading[_Routes]:
    read = tree.text(_ROUTE4, _TABLE_MAX)
    if read.value is None:
        return unknown(read.reason)
    found: _Routes = []
    for line in read.value.splitlines()[1:]:
        parts = line.split()
        try:
            flags, metric = int(parts[3], 16), int(parts[6])
            network, mask = (_host_order(parts[column]) for column in (1, 7))
        except (ValueError, IndexError):
            continue
        if flags & _UP and not flags & _REJECT:
            found.append((network, mask.bit_count(), metric, parts[0]))
    return known(found, _ROUTE4)


def _routes6(tree: Tree) -> Reading[_Routes]:
    read = tree.text(_ROUTE6, _TABLE_MAX)
    if read.value is None:
        return unknown(read.reason)
    found: _Routes = []
    for line in read.value.splitlines():
        parts = line.split()
        try:
            network, length, metric, flags = (int(parts[column], 16) for column in (0, 1, 5, 8))
        except (ValueError, IndexError):
            continue
        if flags & _UP and not flags & _REJECT and 0 <= network < 2**128 and length <= 128 and len(parts) > 9:
            found.append((network, length, metric, "lo" if flags & _LOCAL else parts[9]))
    return known(found, _ROUTE6)


def _host_order(text: str) -> int:
    """The kernel prints an IPv4 address as the number it is in this machine's byte order."""
    return int.from_bytes(int(text, 16).to_bytes(4, sys.byteorder), "big") if len(text) == 8 else int("", 16)


def _own(tree: Tree, address: Address) -> bool:
    if address.version == 6:
        return False  # its own addresses are in the routing table
    return str(address) in _OWN.findall(tree.text(_TRIE, _TABLE_MAX).value or "")
