"""What an idle node costs: memory and CPU of its processes, beside a bare Python that holds a nats-py connection."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE

from tests.bench.figures import Figure
from tests.bench.processes import ROOT, cpu_seconds, environment, pss_mib, rss_mib, tree
from tests.bench.stack import Stack

FRESH_S = 5.0  # its runner is still warm then
SETTLE_S = 75.0  # a node lets a runner go that was idle for a minute: this is what an idle node is
WINDOW_S = 60.0
BARE = """
import asyncio, sys, nats
async def main():
    options = {"nkeys_seed_str": sys.argv[2]} if sys.argv[2] else {}
    nc = await nats.connect(sys.argv[1], name="bare", **options)
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def node_memory_ratio() -> Figure:
    """Resident memory of an idle node's process tree against the bare process; both idle for the same minute."""
    async with Stack(1) as stack:
        argv = (sys.executable, "-c", BARE, stack.target.url, stack.target.seed)
        bare = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, env=environment(), stdout=PIPE)
        try:
            assert bare.stdout is not None
            await bare.stdout.readline()
            await asyncio.sleep(FRESH_S)
            daemon = stack.pid("bench-0")
            warm_mib = rss_mib(tree(daemon))
            await asyncio.sleep(SETTLE_S)
            ours, theirs = tree(daemon), [bare.pid]
            before, began = (cpu_seconds(ours), cpu_seconds(theirs)), time.monotonic()
            await asyncio.sleep(WINDOW_S)
            took = time.monotonic() - began
            after = (cpu_seconds(ours), cpu_seconds(theirs))
            ours_mib, bare_mib = rss_mib(ours), rss_mib(theirs)
            detail = {
                "node_rss_mib": round(ours_mib, 1),
                "node_processes": len(ours),
                "node_rss_with_warm_runner_mib": round(warm_mib, 1),
                "bare_rss_mib": round(bare_mib, 1),
                "pss_ratio": round(pss_mib(ours) / pss_mib(theirs), 3),
                "node_cpu_s_per_hour": round((after[0] - before[0]) / took * 3600, 2),
                "bare_cpu_s_per_hour": round((after[1] - before[1]) / took * 3600, 2),
            }
        finally:
            bare.kill()
            await bare.wait()
    what = "a bare Python process with a nats-py connection; resident memory of the whole process tree"
    return Figure(
        "node_memory_ratio", round(ours_mib / bare_mib, 3), "of the bare one's", 1.5, what, at_most=True, detail=detail
    )
