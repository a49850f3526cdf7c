"""What the node is told: flags over environment (``FOG_NODE_*``) over the configuration file over what is discovered."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import fields

from node.core.ceilings import Ceilings
from node.core.voting import VotePolicy
from node.terms import HarvestSettings
from schemas import limits
from schemas.codec import convert
from schemas.errors import BadInput
from schemas.names import as_id, check_id
from schemas.usage import Parser

ENV = "FOG_NODE_"
DEVICE_ENV = "FOG_NODE_DEVICE_"
KINDS_TO_ALLOW = ("command", "app")  # app: services that rollouts bring


class Settings(Struct, frozen=True, forbid_unknown_fields=True, rename={"imports": "import"}):
    """A node's settings; the names are those of the configuration file. None and empty: not said.

    `leave_grace_s`: how long running work may go on when the node is stopped. `look_again_s`: what the device is, is read
    again this often. `sleep_s`: the sleep that SIGUSR1 announces. `cache_mb` is memory for the clusters' caches, `vote` how
    it votes in them, `share` the address at which peers get chunks of apps from here (``HOST``, ``HOST:PORT``, ``auto``).
    `device` overrides signals by field name. `limits` are ceilings on what running work uses, `harvest` the terms on which
    the device works only while nobody needs it. `sysroot` is a folder that stands for ``/`` where signals are read from:
    the device is played by files of the form of the real ones.
    """

    name: str = ""
    nats: str = ""
    creds: str = ""
    home: str = ""
    labels: Annotated[dict[str, str], Meta(max_length=limits.LABELS_MAX)] = {}
    imports: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    cores: Annotated[float, Meta(gt=0, le=4096)] | None = None
    memory_mb: Annotated[int, Meta(ge=0)] | None = None
    slots: Annotated[int, Meta(ge=1, le=limits.NODE_QUEUE_MAX)] | None = None
    cache_mb: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    vote: VotePolicy = VotePolicy.HEALTHY
    share: Annotated[str, Meta(max_length=100)] = ""
    leave_grace_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    look_again_s: Annotated[float, Meta(ge=0.1, le=86_400)] = 600.0
    sleep_s: Annotated[float, Meta(gt=0, le=limits.SLEEP_MAX_S)] = 3600.0
    log_level: str = ""
    sysroot: str = ""
    device: dict[str, Any] = {}
    limits: Ceilings = Ceilings()
    harvest: HarvestSettings = HarvestSettings()


def parser() -> argparse.ArgumentParser:
    """The command line of ``fog node``."""
    p = Parser(prog="fog node", description="Offer this device to a fleet, until interrupted.", allow_abbrev=False)
    p.add_argument("--name", help="the node's id in the fleet (default: the host's name)")
    p.add_argument("--nats", metavar="URL", help="the broker's address (default: the instance that runs in the home)")
    p.add_argument("--creds", metavar="FILE", help="a fog.creds, or a NATS .creds file")
    p.add_argument("--home", metavar="DIR", help="where this node's key and state lie (default: FOG_HOME)")
    p.add_argument("--label", dest="labels", metavar="K=V", action="append", help="a label that tasks can ask for")
    p.add_argument("--import", dest="imports", metavar="MODULE", action="append", help="offer this module's functions")
    p.add_argument("--allow", choices=KINDS_TO_ALLOW, action="append", help="also run this kind of task")
    p.add_argument("--config", metavar="FILE", help="a TOML file with these settings by name")
    p.add_argument("--cores", metavar="N", help="cores that tasks may hold together (default: all)")
    p.add_argument("--memory-mb", metavar="N", help="memory that tasks may hold together (default: half of it)")
    p.add_argument("--slots", metavar="N", help="tasks that may run at a time (default: one a core)")
    p.add_argument("--cache-mb", metavar="N", help="memory for the cache that its cluster shares (default: none)")
    p.add_argument(
        "--vote", choices=[v.value for v in VotePolicy], help="on what its cluster is asked (default: healthy)"
    )
    p.add_argument(
        "--share", metavar="ADDRESS[:PORT]",
        help="let members of its cluster get apps from this device, at this address of it, or auto (default: no)",
    )  # fmt: skip
    p.add_argument("--leave-grace-s", metavar="S", help="how long running work may go on when the node is stopped")
    p.add_argument(
        "--sleep-s", metavar="S", help="the sleep that SIGUSR1 announces; SIGUSR2 ends it (default: an hour)"
    )
    p.add_argument("--device", metavar="FIELD=VALUE", action="append", help="say what a signal of the device is")
    p.add_argument(
        "--limit", dest="limits", metavar="NAME=VALUE", action="append",
        help="the most that running work may use: cpu_percent (of all cores together), memory_mb, bandwidth_mbps",
    )  # fmt: skip
    p.add_argument(
        "--harvest", dest="harvest", action="append_const", const="enabled=true",
        help="work only while nobody needs this device: charging, cool, unused, on a free network, at night",
    )  # fmt: skip
    p.add_argument(
        "--headless", dest="harvest", action="append_const", const="headless=true",
        help="with --harvest: nobody uses this device, so what cannot be read does not stand against it",
    )  # fmt: skip
    p.add_argument(
        "--window", dest="harvest", metavar="HH:MM-HH:MM", action="append", type=lambda text: f"window={text}",
        help="with --harvest: only then (default 22:00-07:00), or always",
    )  # fmt: skip
    p.add_argument(
        "--zone", dest="harvest", metavar="NAME", action="append", type=lambda text: f"zone={text}",
        help="with --harvest: the window is by this time zone (default: the device's own)",
    )  # fmt: skip
    p.add_argument("--sysroot", metavar="DIR", help="for tests: read the device's signals from below this folder")
    p.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    p.add_argument("--show", action="store_true", help="print what this device is, and stop")
    p.add_argument("--advise", action="store_true", help="print what this device should do now, and stop")
    p.add_argument("--json", action="store_true", help="with --show or --advise: as JSON")
    return p


def settings(given: argparse.Namespace, env: Mapping[str, str] = os.environ) -> Settings:
    """All sources put together. Raises BadInput that names the setting."""
    table: dict[str, Any] = {}
    path = given.config or env.get(f"{ENV}CONFIG", "")
    if path:
        table.update(_file(Path(path)))
    table.update(_environment(env, table.get("device")))
    for name in (field.encode_name for field in fields(Settings)):
        value = getattr(given, "imports" if name == "import" else name, None)
        if value is not None:
            table[name] = _parsed(name, value, table.get(name))
    found = convert(table, Settings)
    for kind in found.allow:
        if kind not in KINDS_TO_ALLOW:
            raise BadInput("allow", f"{kind!r:.40} is none of {', '.join(KINDS_TO_ALLOW)}")
    if found.share:
        read_share(found.share)
    return found


def node_name(given: Settings) -> str:
    """The node's id: the one given, else made from the host's name."""
    return check_id("name", given.name) if given.name else as_id(socket.gethostname(), "node")


def read_share(where: str) -> tuple[str, int]:
    """Host and port (0: any) of ``ADDRESS[:PORT]``; ``auto`` stands for a host. Raises BadInput."""
    host, _, port = where.rpartition(":") if where.count(":") == 1 or "]:" in where else (where, "", "0")
    host = host.strip("[]")
    if not port.isdecimal() or int(port) > 65_535:
        raise BadInput("share", f"{where!r:.80} is not ADDRESS, ADDRESS:PORT or auto")
    if host in ("", "*", "0.0.0.0", "::"):
        raise BadInput("share", "peers are told one address", hint="name the one that they reach, or say auto")
    return host, int(port)


def _file(path: Path) -> dict[str, Any]:
    import tomllib  # only those who have a file pay for it

    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadInput(str(path), error.strerror or str(error)) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(str(path), str(error)) from None
    known = {field.encode_name for field in fields(Settings)}
    unknown = sorted(set(table) - known)
    if unknown:
        raise BadInput(unknown[0], f"{path} has no such setting", hint=f"the settings are {', '.join(sorted(known))}")
    convert(
        {name: value for name, value in table.items() if name in ("labels", "device", "limits", "harvest")}, Settings
    )
    return table


def _environment(env: Mapping[str, str], device: Any) -> dict[str, Any]:
    table: dict[str, Any] = {}
    names = [field.encode_name for field in fields(Settings) if field.encode_name != "device"]
    known = {"CONFIG", *(name.upper() for name in names)}
    for said in env:
        if said.startswith(ENV) and not said.startswith(DEVICE_ENV) and said[len(ENV) :] not in known:
            raise BadInput(
                said, "there is no such setting", hint=f"they are {', '.join(ENV + n for n in sorted(known))}"
            )
    for name in names:
        value = env.get(f"{ENV}{name.upper()}", "")
        if value:
            several = [part for part in map(str.strip, value.split(",")) if part]
            table[name] = _parsed(name, several if name in _LISTS else value, None)
    signals = {name[len(DEVICE_ENV) :].lower(): text for name, text in env.items() if name.startswith(DEVICE_ENV)}
    if signals:
        table["device"] = {**(device or {}), **{name: _word(text) for name, text in signals.items()}}
    return table


_LISTS = ("labels", "import", "allow", "limits", "harvest")


def _parsed(name: str, value: Any, before: Any) -> Any:
    """A flag's or variable's text as the file would have it; pairs are added to those of the file."""
    if name in ("labels", "device", "limits", "harvest"):
        pairs = dict(_pair(name, text) for text in value)
        return {**(before or {}), **({k: _word(v) for k, v in pairs.items()} if name != "labels" else pairs)}
    if name in ("import", "allow"):
        return list(value)
    if name in ("cores", "leave_grace_s", "look_again_s", "memory_mb", "sleep_s", "slots", "cache_mb"):
        try:
            return int(value) if name in ("memory_mb", "slots", "cache_mb") else float(value)
        except ValueError:
            raise BadInput(name, f"{value!r:.40} is not a number") from None
    return value


def _pair(name: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadInput(name, f"{text!r:.80} is not NAME=VALUE")
    return key.strip(), value.strip()


def _word(text: str) -> Any:
    """A signal's value as text: true, false, a number, else the word itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
