"""A *home*: the folder that names one instance of fogfleet on a machine, and what lies where in it.

instance.json   the `fog up` that runs now: where its broker listens, its processes
up.lock         held by that `fog up`
fog.creds       address and key of the broker (`schemas.creds`)
broker/         the embedded broker's configuration, log and store
nodes/<id>/     one local node's key, lock and state
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from schemas.creds import Creds, is_standard, read_creds
from schemas.errors import BadInput, Unreachable
from schemas.files import write_private
from schemas.procs import start_mark
from schemas.target import Target

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class Home:
    """The folder `root` and the places in it. Nothing is created by asking."""

    root: Path

    @classmethod
    def find(cls, given: Path | None = None) -> Home:
        """The home that was `given`, else that of FOG_HOME, else the one in the platform's user data folder."""
        chosen = str(given) if given else os.environ.get("FOG_HOME", "")
        return cls(Path(chosen).expanduser().absolute() if chosen else _user_data() / "fogfleet")

    @property
    def instance(self) -> Path:
        """The record of the running instance."""
        return self.root / "instance.json"

    @property
    def lock(self) -> Path:
        """Held by the running `fog up`."""
        return self.root / "up.lock"

    @property
    def creds(self) -> Path:
        """Address and key of this home's broker."""
        return self.root / "fog.creds"

    @property
    def broker(self) -> Path:
        """The embedded broker's folder."""
        return self.root / "broker"

    def node(self, node: str) -> Path:
        """The folder of one local node."""
        return self.root / "nodes" / node


def _user_data() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    given = os.environ.get("XDG_DATA_HOME", "")  # the XDG rule: a relative path there is ignored
    return Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "share"


class Instance(Struct, frozen=True):
    """A running `fog up`: its broker's `url` and `port`, its `pid`, its children's `pids` by name, `started` (1970 s).

    `mark` tells its process from a later one that got the same pid.
    """

    url: str
    port: int
    pid: int
    mark: str
    started: float
    pids: dict[str, int] = {}

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        return bool(self.mark) and start_mark(self.pid) == self.mark


def write_instance(home: Home, instance: Instance) -> None:
    """Say who runs in `home`."""
    write_private(home.instance, msgspec.json.format(msgspec.json.encode(instance)))


def read_instance(home: Home) -> Instance | None:
    """Who runs in `home` now; None when nobody does, also where a killed one left its record."""
    try:
        instance = msgspec.json.decode(home.instance.read_bytes(), type=Instance)
    except (OSError, msgspec.DecodeError):
        return None
    return instance if instance.alive else None


def resolve(nats: str | None = None, creds: Path | None = None, home: Path | None = None) -> Target:
    """Where the broker is, from what the user gave: `nats` first, then the address in `creds`, then who runs in `home`.

    `creds` is a `fog.creds` or a standard NATS .creds file (which names no address, so it needs `nats`). Without it,
    an address that is that of the home's own `fog.creds` is opened by its key.
    Raises BadInput for a file or address of the wrong form, Unreachable when nothing says where a broker is.
    """
    place = Home.find(home)
    if creds is not None:
        return _by_creds(nats, creds)
    if nats:
        url = _checked(nats)
        own = _own_creds(place)
        return Target(url, seed=own.seed if own and _same_place(own.nats, url) else "")
    return _by_home(place)


def _by_creds(nats: str | None, path: Path) -> Target:
    if is_standard(path):
        if not nats:
            raise BadInput("creds", f"{path} does not say where the broker is", hint="add --nats nats://HOST:PORT")
        return Target(_checked(nats), creds_file=str(path))
    creds = read_creds(path)
    return Target(_checked(nats or creds.nats), seed=creds.seed)


def _by_home(place: Home) -> Target:
    own = _own_creds(place)
    instance = read_instance(place)
    if instance is not None:
        return Target(instance.url, seed=own.seed if own else "")
    if own and not place.broker.exists():  # a fog.creds that was copied here from the machine that runs the broker
        return Target(own.nats, seed=own.seed)
    raise Unreachable(
        f"no fogfleet runs in {place.root}",
        hint="start one with `fog up`, or say where one is: --nats nats://HOST:PORT, or --creds FILE",
    )


def _own_creds(place: Home) -> Creds | None:
    return read_creds(place.creds) if place.creds.exists() else None


def _checked(url: str) -> str:
    """One address, or the addresses of a cluster's servers with commas between."""
    return ",".join(_one_checked(one.strip()) for one in url.split(","))


def _one_checked(url: str) -> str:
    text = url if "://" in url else f"nats://{url}"
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"nats", "tls", "ws", "wss"} and parts.hostname and (parts.port or True)
    except ValueError:
        good = False
    if not good:
        raise BadInput(
            "nats", f"{url!r:.80} is not an address", hint="write nats://HOST:PORT, of several servers with commas"
        )
    return text


def _same_place(one: str, other: str) -> bool:
    """Whether every address of `other` is one of `one`'s: a key goes nowhere else."""
    return all(any(_same_server(ours, theirs) for ours in one.split(",")) for theirs in other.split(","))


def _same_server(one: str, other: str) -> bool:
    a, b = urlsplit(one), urlsplit(other)
    hosts = {a.hostname, b.hostname}
    return (a.port or 4222) == (b.port or 4222) and (len(hosts) == 1 or hosts <= _LOOPBACK)
