"""``python -m coordinator``, which ``fog coordinator`` runs: the coordinator of a fleet, until interrupted."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from math import inf
from pathlib import Path

from coordinator.relay_from import relay_from
from coordinator.service import Service
from schemas import home, logs, loop
from schemas.errors import FogError
from schemas.names import as_id, check_id
from schemas.usage import OWN_FAILURE, Parser


def parser() -> argparse.ArgumentParser:
    """The options of ``fog coordinator``."""
    parse = Parser(prog="fog coordinator", description="Run the coordinator of a fleet until interrupted.")
    parse.add_argument("--nats", metavar="URL", help="the broker; default: the one that `fog up` runs for this home")
    parse.add_argument(
        "--creds", type=Path, metavar="FILE", help="fog.creds of the broker's home, or a NATS .creds file"
    )
    parse.add_argument("--home", type=Path, metavar="DIR", help="the instance's folder (default: $FOG_HOME)")
    parse.add_argument("--name", help="this coordinator's id (default: from the host's name and the process)")
    parse.add_argument(
        "--replicas", type=int, default=1, help="copies of each stream; needs as many brokers (default 1)"
    )
    parse.add_argument(
        "--heartbeat-relay",
        type=relay_from,
        default=inf,
        metavar="off|on|N",
        help="nodes beat to their cluster's leader, which says all beats in one message: off (default), on, or in a fleet "
        "of N nodes or more; `fog cluster relay` says otherwise for one cluster",
    )
    parse.add_argument("--json-logs", action="store_true", help="one JSON object a line")
    parse.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parse


async def serve(args: argparse.Namespace) -> None:
    """Run the service; SIGINT and SIGTERM end it, also where a shell had SIGINT ignored."""
    name = check_id("name", args.name) if args.name else as_id(f"{socket.gethostname()}-{os.getpid()}")
    service = Service(home.resolve(args.nats, args.creds, args.home), name, args.replicas, args.heartbeat_relay)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, service.stop)
    await service.run()


def main() -> int:
    """Parse, run, and say an error once, in one line; the exit code is 125 for fogfleet's own failures."""
    args = parser().parse_args()
    logs.setup("coordinator", args.log_level, args.json_logs or None)
    try:
        loop.run(serve(args))
    except FogError as error:
        if args.json_logs or os.environ.get("FOG_LOG_JSON"):  # there, every line is an object
            log = logging.getLogger("fog.coordinator")
            log.error("stopped", extra=logs.fields(error=error.message, hint=error.hint))
        else:
            print(f"fog coordinator: {error}", file=sys.stderr)
        return OWN_FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main())
