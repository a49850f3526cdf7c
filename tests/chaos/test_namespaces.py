"""A node behind a real network of its own (a namespace and a veth pair), whose cable is pulled and put back.

The broker listens on loopback alone; a relay listens on this side of the pair. Needs root and `ip`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from schemas.target import Target
from tests.integration.stack import stack
from tests.proxy import Proxy
from tests.until import eventually

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="there is no `ip` (iproute2) here"),
]

HERE, THERE = "10.203.117.1", "10.203.117.2"
LONG_S = 90.0  # for what takes three beats on a quiet machine


def ip(*words: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Cable:
    """From here into the namespace `name`."""

    def __init__(self, name: str) -> None:
        self.name, self._near, self._far = name, f"{name}a", f"{name}b"

    def lay(self) -> None:
        """Make both; raises CalledProcessError where that is not allowed."""
        ip("netns", "add", self.name)
        ip("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self.name)
        ip("address", "add", f"{HERE}/30", "dev", self._near)
        ip("-n", self.name, "address", "add", f"{THERE}/30", "dev", self._far)
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "link", "set", self._far, "up")
        self.put_back()

    def pull(self) -> None:
        """Nothing goes through, and nobody is told."""
        ip("link", "set", self._near, "down")

    def put_back(self) -> None:
        """It goes through again."""
        ip("link", "set", self._near, "up")

    def remove(self) -> None:
        """The namespace, and with it the pair."""
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self._near], check=False, capture_output=True)


@contextmanager
def laid() -> Iterator[Cable]:
    """A cable, or the test is skipped with what stands against it."""
    cable = Cable(f"fog{os.getpid()}")
    try:
        cable.lay()
        yield cable
    except subprocess.CalledProcessError as refused:
        pytest.skip(f"no network namespace can be made: {refused.stderr.decode().strip()}")
    finally:
        cable.remove()


async def test_a_node_whose_cable_was_pulled_goes_on_and_delivers_when_it_is_back_and_one_result_counts(
    target: Target, tmp_path: Path
) -> None:
    """Of what runs elsewhere meanwhile the first stored result counts; what is for that node alone is not run again."""
    parts = urlsplit(target.url)
    outbox = tmp_path / "nodes" / "n1" / "outbox"
    with laid() as cable:
        relay = Proxy(parts.hostname or "", parts.port or 0, listen=HERE)
        try:
            async with stack(target, tmp_path) as s:
                await s.coordinator()
                s.within = ("ip", "netns", "exec", cable.name)
                await s.node("n1", "--nats", relay.target(target).url)
                s.within = ()
                movable = await s.submit("slow_on", ["n1"], 3.0)
                pinned = await s.submit("slow_on", ["n1"], 3.0, node="n1")
                for task in (movable, pinned):
                    await s.event("task.started", task)
                cable.pull()
                await s.node("n2")
                await eventually(lambda: len(list(outbox.glob("*.letter"))) == 2, LONG_S, "both ends are on its disk")
                assert not s.results, "nothing gets through"
                lost = await s.event("node.lost", "n1", timeout_s=LONG_S)
                assert "heartbeats" in lost["data"]["reason"]
                assert (await s.result(movable, LONG_S)).node == "n2"
                assert pinned not in s.results
                cable.put_back()
                result = await s.result(pinned, LONG_S)
                assert (result.node, result.attempts) == ("n1", 1), "what it did while it was cut off counts"
                await eventually(lambda: not list(outbox.glob("*.letter")), LONG_S, "nothing is kept any more")
                assert s.results[movable].node == "n2"
                assert not s.doubled
                await s.nothing_left(LONG_S)
        finally:
            relay.close()
