"""``python -m tests.bench [--only NAME]… [--json FILE]``: measure, print a table, write ``build/bench.json``.

Exits 1 when a target is missed, 2 when a figure could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
import sys
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.figures import Figure, save, show
from tests.bench.processes import ROOT

# Where each figure is measured; imported only when asked for, so that one can be run without the parts of the others.
FIGURES = {
    "single_throughput_ratio": "tasks",
    "single_latency_ratio": "tasks",
    "map_throughput_ratio": "tasks",
    "heartbeat_cpu_share": "heartbeats",
    "heartbeat_relay_ratio": "heartbeats",
    "placement_growth_ratio": "placement",
    "cluster_change_ms": "clusters",
    "cluster_cache_ratio": "together",
    "leader_change_ms": "together",
    "node_memory_ratio": "idle",
    "handover_gap_ms": "handover",
    "coordinator_kill_gap_ms": "handover",
    "kill_recovery_ms": "recovery",
    "kill_recovery_p99_ms": "recovery",
    "kill_200_ms": "recovery",
    "freeze_recovery_beats": "recovery",
    "takeover_1000_ms": "takeover",
    "takeover_10000_ms": "takeover",
    "cpu_limit_error_points": "enforce",
    "suspend_ms": "harvest",
    "rollout_bytes_ratio": "rollouts",
    "rollout_seconds_ratio": "rollouts",
    "wide_link_copies": "peers",
}
# Minutes each: only when asked for.
LONG = {
    "battery_wakings_ratio": "transports",
    "million_coordinator_mb": "million",
    "heavy_coordinator_mb": "million",
    "reconnect_2000_s": "reconnect",
    "slow_watchers_ratio": "watchers",
    "takeover_100000_ms": "takeover",
}


def measure(name: str) -> Coroutine[Any, Any, Figure]:
    """The coroutine that measures this figure."""
    module = importlib.import_module(f"tests.bench.{(FIGURES | LONG)[name]}")
    measured: Coroutine[Any, Any, Figure] = getattr(module, name)()
    return measured


async def run(names: list[str], path: Path) -> int:
    """Measure one figure after the other; one that fails does not stop the rest."""
    found, failed = [], 0
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # so that nothing is left running
    for name in names:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        try:
            found.append(await measure(name))
            save(found[-1:], path)
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"{name} could not be measured", file=sys.stderr)
        await asyncio.sleep(0)
    show(found)
    return 2 if failed else 1 if not all(figure.good for figure in found) else 0


def main() -> int:
    """Parse the arguments and run."""
    known = [*FIGURES, *LONG]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=known, metavar="NAME", help=f"one of {', '.join(known)}")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json", metavar="FILE")
    arguments = parser.parse_args()
    return int(uvloop.run(run(arguments.only or list(FIGURES), arguments.json)))


if __name__ == "__main__":
    sys.exit(main())
