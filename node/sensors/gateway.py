"""The gateway of the default route, as a mark: devices behind the same one are near each other.

Linux tells its address in /proc/net/route and its hardware address in /proc/net/arp. The mark is a hash of the latter, since
many homes have a 192.168.1.1. One that is *locally administered* was made up, perhaps by the same rule elsewhere: no mark.
"""

from __future__ import annotations

import hashlib
import re
import sys

from node.sensors.reading import Reading, known, unknown
from node.sensors.tree import Tree

ROUTE, ARP = "/proc/net/route", "/proc/net/arp"
UP_AND_GATEWAY = 0x3
LOCALLY_ADMINISTERED = 0x2
_TABLE_MAX = 256 * 1024
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


def gateway(tree: Tree) -> Reading[str]:
    """Eight hexadecimal digits, equal for devices behind the same gateway; unknown with the reason."""
    routes = tree.text(ROUTE, _TABLE_MAX)
    if routes.value is None:
        return unknown(routes.reason)
    address = _default(routes.value)
    if address is None:
        return unknown(f"no default route with a gateway in {ROUTE}")
    neighbours = tree.text(ARP, _TABLE_MAX)
    if neighbours.value is None:
        return unknown(neighbours.reason)
    hardware = _hardware(neighbours.value, *address)
    if hardware is None:
        return unknown(f"{ARP} does not tell the hardware address of the gateway")
    if int(hardware[:2], 16) & LOCALLY_ADMINISTERED:
        return unknown("the gateway's hardware address is made up (locally administered): others may have it as well")
    return known(hashlib.sha256(hardware.encode()).hexdigest()[:8], f"{ARP} (a hash)")


def _default(table: str) -> tuple[str, str] | None:
    """The address and the interface of the default route with the lowest metric."""
    found = []
    for line in table.splitlines()[1:]:
        parts = line.split()
        try:
            name, to, by, flags, metric = parts[0], parts[1], parts[2], int(parts[3], 16), int(parts[6])
            raw = int(by, 16).to_bytes(4, sys.byteorder)
        except (ValueError, IndexError, OverflowError):
            continue
        if int(to, 16) == 0 and flags & UP_AND_GATEWAY == UP_AND_GATEWAY:
            found.append((metric, ".".join(map(str, raw)), name))
    return min(found)[1:] if found else None


def _hardware(table: str, address: str, name: str) -> str | None:
    for line in table.splitlines()[1:]:
        parts = line.split()
        if len(parts) >= 6 and parts[0] == address and parts[5] == name and _MAC.fullmatch(parts[3].lower()):
            return parts[3].lower() if parts[3] != "00:00:00:00:00:00" else None
    return None
