"""The network by which the device reaches the broker: its type from sysfs, and whether it is metered."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Mapping

from node.sensors.ask import Ask, find
from node.sensors.desktop import Desktop
from node.sensors.reading import Look, Reading, known, unknown
from node.sensors.routes import Address, interface
from node.sensors.tree import Tree
from schemas.device import NetworkType

_NET = "/sys/class/net"
_ETHERNET, _RAW_IP, _LOOPBACK = "1", "519", "772"  # ARPHRD_ numbers
_LOWER_MAX = 4
METERED_EVERY_S, METERED_KEEP_S = 60.0, 150.0
_WORDS = {"yes": True, "yes (guessed)": True, "no": False, "no (guessed)": False}


class Broker:
    """The broker's address. A name is resolved in the background: a resolver may take many seconds to give up."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.address: Address | None = None
        self._problem = ""
        self._thread: threading.Thread | None = None
        try:
            self.address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
        except ValueError:
            self._problem = f"the broker's name {host} is not resolved yet"

    def look(self, tree: Tree) -> Reading[str]:
        """The interface towards the broker, or towards the default route when no broker is known."""
        if not self.host:
            return interface(tree, None)
        if self.address is None:
            self._resolve()
            return unknown(self._problem)
        return interface(tree, self.address)

    @property
    def waiting(self) -> bool:
        """Whether the name is being resolved now."""
        return self._thread is not None and self._thread.is_alive()

    def _resolve(self) -> None:
        if not self.waiting:
            self._thread = threading.Thread(target=self._ask_resolver, name="resolve broker", daemon=True)
            self._thread.start()

    def _ask_resolver(self) -> None:
        try:
            found = socket.getaddrinfo(self.host, None, type=socket.SOCK_DGRAM)
            self.address = ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
        except (OSError, ValueError, UnicodeError) as problem:
            self._problem = f"the broker's name {self.host} could not be resolved: {problem}"


class Metered:
    """Whether an interface's traffic is paid for, by NetworkManager: on D-Bus, else by its program; its guess of *yes*
    counts as yes."""

    def __init__(self, env: Mapping[str, str], desktop: Desktop | None = None) -> None:
        self._env, self._desktop = env, desktop
        self._ask: Ask | None = None
        self._name = ""

    @property
    def waiting(self) -> bool:
        """Whether NetworkManager is being asked now."""
        return self._ask is not None and self._ask.waiting

    def look(self, name: str, now: float) -> Reading[bool]:
        """The newest answer for this interface; never waits."""
        by_bus = self._desktop.metered(name, now) if self._desktop else unknown("")
        if by_bus.value is not None or (self._desktop and self._desktop.waiting and self._ask is None):
            return by_bus
        if name != self._name:
            self.close()
            self._name = name
        if self._ask is None:
            if not find("nmcli", self._env):
                return unknown("nmcli (NetworkManager) is not installed, and nothing else tells")
            argv = ("nmcli", "-t", "-f", "GENERAL.METERED", "device", "show", name)
            self._ask = Ask(argv, self._env, every_s=METERED_EVERY_S, keep_s=METERED_KEEP_S)
        return _metered(self._ask.answer(now))

    def close(self) -> None:
        """Stop asking."""
        if self._ask is not None:
            self._ask.close()
            self._ask = None


def network(tree: Tree, broker: Broker, metered: Metered, now: float) -> Look:
    """`network_type` and `network_metered` of the interface that leads to the broker."""
    name = broker.look(tree)
    if name.value is None:
        return dict.fromkeys(("network_type", "network_metered"), unknown(name.reason))
    if not _plain(name.value):
        return dict.fromkeys(("network_type", "network_metered"), unknown(f"{name.source} names no interface"))
    kind = network_type(tree, name.value)
    if kind.value is NetworkType.LOOPBACK:
        return {"network_type": kind, "network_metered": known(False, "traffic inside this machine")}
    return {"network_type": kind, "network_metered": metered.look(name.value, now)}


def network_type(tree: Tree, name: str, depth: int = 0) -> Reading[NetworkType]:
    """The type of an interface; a bridge, bond or VLAN has the type of what lies below it."""
    folder = f"{_NET}/{name}"
    if name == "lo":
        return known(NetworkType.LOOPBACK, name)
    entries = tree.names(folder)
    if entries.value is None:
        return unknown(entries.reason)
    link = tree.text(f"{folder}/type", 16).value
    marks = (tree.text(f"{folder}/uevent", 1024).value or "").splitlines()
    if link == _LOOPBACK:
        return known(NetworkType.LOOPBACK, folder)
    if "wireless" in entries.value or "phy80211" in entries.value or "DEVTYPE=wlan" in marks:
        return known(NetworkType.WIFI, folder)
    if "DEVTYPE=wwan" in marks or link == _RAW_IP or name.startswith(("wwan", "rmnet")):
        return known(NetworkType.CELLULAR, folder)
    below = [entry.removeprefix("lower_") for entry in entries.value if entry.startswith("lower_")]
    if below and depth < _LOWER_MAX:
        return network_type(tree, below[0], depth + 1)
    if link is None:
        return unknown(f"{folder}/type cannot be read")
    if link == _ETHERNET and "device" in entries.value:
        return known(NetworkType.ETHERNET, folder)
    return known(NetworkType.OTHER, f"{folder} (no hardware of its own)" if link == _ETHERNET else folder)


def _plain(name: str) -> bool:
    return 0 < len(name) <= 15 and "/" not in name and "\0" not in name and not name.startswith((".", "-"))


def _metered(said: Reading[str]) -> Reading[bool]:
    if said.value is None:
        return unknown(said.reason)
    word = said.value.rpartition(":")[2].strip()
    if word not in _WORDS:
        return unknown(f"NetworkManager does not know: {word or 'no answer'}")
    return known(_WORDS[word], f"nmcli: {word}")
