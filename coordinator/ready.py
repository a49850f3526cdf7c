"""``python -m coordinator.ready --home DIR [NODE…]``: returns once the coordinator answers and these nodes are online.

`fog up` runs it as a process of its own before it says how to go on, and so stays free of everything that NATS needs.
Exit codes: 0 ready, 1 not within `WAIT_S`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path

from schemas import subjects
from schemas.api import ListRequest, NodesReply
from schemas.bus import Bus
from schemas.codec import Decoder, encode
from schemas.errors import FogError
from schemas.home import resolve
from schemas.membership import NodeState
from schemas.procs import die_with_parent

WAIT_S = 8.0
AGAIN_S = 0.05

_nodes: Decoder[NodesReply] = Decoder(NodesReply)


async def ready(home: Path, names: set[str]) -> None:
    """Return once all `names` are online."""
    bus = await Bus.connect(resolve(home=home), name="up-ready")
    try:
        while not await _online(bus, names):  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(AGAIN_S)
    finally:
        await bus.close()


async def _online(bus: Bus, missing: set[str]) -> bool:
    page = 0
    with contextlib.suppress(FogError):  # no coordinator yet, or one that is still reading the streams
        while True:
            request = encode(ListRequest(page=page, state=NodeState.ONLINE))
            reply = _nodes(await bus.request(subjects.api("node", "list"), request))
            missing = missing - {row.node for row in reply.nodes}
            page += 1
            if not missing or page * ListRequest().size >= reply.total:
                return not missing
    return False


def main() -> int:
    """Wait; quietly, since whoever waits for us says the rest."""
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("nodes", nargs="*")
    args = parser.parse_args()
    try:
        asyncio.run(asyncio.wait_for(ready(args.home, set(args.nodes)), WAIT_S))
    except (TimeoutError, FogError, KeyboardInterrupt):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
