"""``python -m node``: what ``fog node`` runs. Exit codes: 0 left in order, 125 refused or failed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from urllib.parse import urlsplit

from node.config import Settings, node_name, parser, settings
from schemas import logs
from schemas.errors import FogError
from schemas.logs import fields
from schemas.usage import OWN_FAILURE


def main(argv: list[str] | None = None) -> int:
    """Run the daemon; returns the exit code."""
    given = parser().parse_args(argv)
    try:
        told = settings(given)
        if given.show:
            return _show(told, given.json)
        logs.setup("node", told.log_level)
        _run(told)
    except FogError as error:
        print(f"fog node: {error}", file=sys.stderr)
        return OWN_FAILURE
    except KeyboardInterrupt:
        return 130
    return 0


def _show(told: Settings, as_json: bool) -> int:
    from node import show
    from node.device import Device
    from node.kept import Folder
    from schemas.home import Home

    device = Device(overrides=told.device)
    outbox = Folder(Home.find(Path(told.home) if told.home else None).node(node_name(told)) / "outbox")
    kept = show.Kept(len(outbox.waiting()), outbox.since())
    print(show.as_json(device, told.limits, kept) if as_json else show.show(device, told.limits, kept))
    return 0


def _run(told: Settings) -> None:
    from node.daemon import Daemon
    from node.device import Device
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
            return Device(overrides=told.device, broker_host=host)

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
