"""``python -m node``: what ``fog node`` runs. Exit codes: 0 left in order, 125 refused or failed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from node.config import Settings, node_name, parser, settings
from schemas import logs
from schemas.errors import FogError
from schemas.logs import fields
from schemas.usage import OWN_FAILURE

if TYPE_CHECKING:
    from node.device import Device


def main(argv: list[str] | None = None) -> int:
    """Run the daemon; returns the exit code."""
    given = parser().parse_args(argv)
    try:
        told = settings(given)
        if given.show:
            return _show(told, given.json)
        if given.advise:
            return _advise(told, given.json)
        logs.setup("node", told.log_level)
        _run(told)
    except FogError as error:
        print(f"fog node: {error}", file=sys.stderr)
        return OWN_FAILURE
    except KeyboardInterrupt:
        return 130
    return 0


def _device(told: Settings, broker_host: str = "") -> Device:
    from node.device import Device

    device = Device(root=Path(told.sysroot or "/"), overrides=told.device, broker_host=broker_host)
    if told.sysroot:
        device.pretending.append(f"sysroot={told.sysroot}")
    return device


def _show(told: Settings, as_json: bool) -> int:
    from node import show
    from node.kept import Folder
    from node.terms import terms_of
    from schemas.home import Home

    device = _device(told)
    outbox = Folder(Home.find(Path(told.home) if told.home else None).node(node_name(told)) / "outbox")
    kept = show.Kept(len(outbox.waiting()), outbox.since(), outbox.size())
    print((show.as_json if as_json else show.show)(device, told.limits, kept, terms_of(told.harvest)))
    return 0


def _advise(told: Settings, as_json: bool) -> int:
    from node import advice
    from node.policy import PolicyFile
    from schemas.home import Home

    device = _device(told)
    folder = Home.find(Path(told.home) if told.home else None).node(node_name(told))
    found = advice.advice_now(device, told, PolicyFile(folder))
    print((advice.as_json if as_json else advice.as_text)(found, device.pretending))
    return 0


def _run(told: Settings) -> None:
    from node.daemon import Daemon
    from schemas.home import Home, resolve
    from schemas.lock import Lock
    from schemas.loop import run

    name = node_name(told)
    home = Path(told.home) if told.home else None
    folder = Home.find(home).node(name)
    lock = Lock(folder / "lock", f"node {name}")
    try:
        target = resolve(told.nats or None, Path(told.creds) if told.creds else None, home)
        host = urlsplit(target.url.split(",")[0]).hostname or ""

        def make_device() -> Device:
            return _device(told, host)

        if pretending := make_device().pretending:
            logging.getLogger("fog.node").warning(
                "PRETENDING: this device is played by the environment",
                extra=fields(node=name, played=",".join(pretending)),
            )

        async def work() -> None:
            await Daemon(name, told, target, folder, make_device).run()

        run(work())
    finally:
        lock.release()


if __name__ == "__main__":
    sys.exit(main())
