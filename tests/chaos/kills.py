"""Who is killed, when and how: the acting coordinator, its follower, nodes; by SIGKILL, SIGSTOP and SIGTERM."""

from __future__ import annotations

import asyncio
import math
import random
import re
import signal
from collections import Counter

from schemas import streams
from schemas.codec import Decoder
from schemas.errors import FogError
from schemas.kv import Kv
from schemas.membership import Holder
from tests.chaos.load import folder_of
from tests.integration.stack import Stack
from tests.until import eventually

HOLDER_S = 60.0  # for a coordinator to take the lease, on a machine under load
NODE_EVERY = 6  # kills of coordinators to one of a node
_holder: Decoder[Holder] = Decoder(Holder)
_acting = re.compile(r" acting term=(\d+) coordinator=(\S+) took_ms=(\d+) (.*)")

# How the acting one goes, and how often in a hundred.
WAYS = {"killed": 65, "both killed": 5, "follower killed": 5, "stopped": 10, "handed over": 15}


class Kills:
    """Keeps two coordinators and three nodes running, and takes them away again. `counts` says how often, and how."""

    def __init__(self, fleet: Stack, rng: random.Random) -> None:
        self.fleet, self.rng = fleet, rng
        self.counts: Counter[str] = Counter()
        self.started = 0
        self.restarting: list[asyncio.Task[None]] = []
        self._leases = Kv(fleet.bus, fleet.store, streams.LEASES)
        self._frozen: set[str] = set()

    async def start(self) -> None:
        """Two coordinators, three nodes."""
        folder_of(self.fleet).mkdir()
        await self.fleet.coordinator(self._name())
        self._start()
        await asyncio.gather(*(self._node(f"n{i}") for i in range(3)))

    def _name(self) -> str:
        self.started += 1
        return f"c{self.started}"

    def _start(self) -> None:
        name = self._name()
        self.fleet.start(name, "coordinator", "--name", name)

    async def _node(self, name: str) -> None:
        self._start_node(name)
        await self.fleet.event("node.registered", name)

    def _start_node(self, name: str) -> None:
        more = ("--slots", "8", "--cores", "8", "--import", "tests.chaos.functions")
        self.fleet.start_node(name, *more, env={"CHAOS_FOLDER": str(folder_of(self.fleet))})

    # Coordinators

    async def holder(self) -> str:
        """The process that holds the lease; it has not been killed. Waits for one."""
        found = ""

        async def held() -> bool:
            nonlocal found
            try:
                entry = await self._leases.get(streams.LEASE_KEY)
            except FogError:
                return False
            found = _holder(entry.value).coordinator if entry else ""
            return found in self.fleet.processes and found not in self._frozen

        await eventually(held, HOLDER_S, f"a coordinator that acts; {self._logs()}")
        return found

    def _logs(self) -> str:
        alive = [name for name in self.fleet.processes if name[0] == "c"]
        return "\n".join(f"{name}: {self.fleet.log(name)[-1500:]}" for name in alive)

    async def strike(self) -> None:
        """Let somebody act, for a moment or a while, and take it away; from milliseconds after it took the lease on."""
        acting = await self.holder()
        short = self.rng.random() < 0.6
        wait_s = math.exp(self.rng.uniform(math.log(0.001), 0)) if short else self.rng.uniform(0.3, 3.0)
        await asyncio.sleep(wait_s)
        way = self.rng.choices(list(WAYS), list(WAYS.values()))[0]
        self.counts[way] += 1
        followers = [name for name in self.fleet.processes if name[0] == "c" and name != acting]
        match way:
            case "stopped":
                self._freeze(acting)
                return
            case "handed over":
                self._end(acting, signal.SIGTERM)
            case "follower killed":
                acting = followers[0] if followers else acting
                self._end(acting, signal.SIGKILL)
            case "both killed":
                for name in [acting, *followers]:
                    self._end(name, signal.SIGKILL)
                self._start()
            case _:
                self._end(acting, signal.SIGKILL)
        self._start()
        if sum(self.counts.values()) % NODE_EVERY == 0:
            self._strike_node()

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self.fleet.processes.pop(name)
        process.send_signal(how)
        if how is signal.SIGKILL:
            process.wait(60)
        else:
            self._later(self._gone(name, process))

    async def _gone(self, name: str, process: object) -> None:
        await eventually(lambda: process.poll() is not None, 60, f"{name} ends; {self.fleet.log(name)[-1000:]}")  # type: ignore[attr-defined]
        assert process.returncode == 0, f"{name}: {self.fleet.log(name)[-2000:]}"  # type: ignore[attr-defined]

    def _freeze(self, name: str) -> None:
        process, for_s = self.fleet.processes[name], self.rng.uniform(0.1, 6)
        process.send_signal(signal.SIGSTOP)
        self._frozen.add(name)

        async def thaw() -> None:
            await asyncio.sleep(for_s)
            process.send_signal(signal.SIGCONT)
            self._frozen.discard(name)

        self._later(thaw())

    def _later(self, work: object) -> None:
        self.restarting.append(asyncio.ensure_future(work))  # type: ignore[arg-type]

    # Nodes

    def _strike_node(self) -> None:
        """One of those that may die goes, and comes back at once or after a while."""
        name = self.rng.choice(["n1", "n2"])
        if name not in self.fleet.processes:
            return
        how = self.rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        self.counts["node killed" if how is signal.SIGKILL else "node stopped"] += 1
        process = self.fleet.processes.pop(name)
        process.send_signal(how)
        after_s = self.rng.choice([0.0, 2.0, 8.0])

        async def back() -> None:
            await eventually(lambda: process.poll() is not None, 60, f"{name} ends")
            await asyncio.sleep(after_s)
            self._start_node(name)

        self._later(back())

    async def settle(self) -> None:
        """Nobody is struck any more: wait until all are there that should be."""
        await asyncio.gather(*self.restarting)
        await self.holder()

    # What the logs say

    def takeovers(self) -> list[dict[str, int]]:
        """Of each takeover that was completed, how many ms it took in all, and in its parts."""
        found = []
        for number in range(1, self.started + 1):
            for match in _acting.finditer(self.fleet.log(f"c{number}")):
                parts = dict(pair.split("=") for pair in match[4].split())
                found.append({"took_ms": int(match[3]), **{name: int(value) for name, value in parts.items()}})
        return found

    def complaints(self) -> list[str]:
        """What a process logged as an error, or with a traceback."""
        odd = re.compile(r"^(?:\S+ error .*|Traceback.*)$", re.MULTILINE)
        names = [*(f"c{i}" for i in range(1, self.started + 1)), "n0", "n1", "n2"]
        return [f"{name}: {line}" for name in names for line in odd.findall(self.fleet.log(name))]
