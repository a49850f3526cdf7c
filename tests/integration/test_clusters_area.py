"""The clusters' area on a real broker, with members that the tests play: what it keeps, and what it tells them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from coordinator.acting import Areas
from coordinator.areas import Term
from coordinator.clusters import LEADER, ClustersArea
from coordinator.core.nodeview import NodeView
from coordinator.inbound import Bad
from node.core.seats import Seats
from schemas import streams, subjects
from schemas.bus import Bus
from schemas.cluster import Leadership, Membership
from schemas.codec import Decoder, encode
from schemas.decision import DecisionReply, DecisionRequest, Poll, Proposal, ProposeRequest, Verdict
from schemas.device import DeviceCapabilities
from schemas.eventlog import EventLog
from schemas.jetstream import ensure_streams
from schemas.kv import Kv
from schemas.membership import NodeAnswer, NodeRecord, NodeState, Offer
from schemas.store import Store
from schemas.target import Target
from tests.until import eventually

T0 = 1_800_000_000.0

_membership: Decoder[Membership] = Decoder(Membership)
_poll: Decoder[Poll] = Decoder(Poll)


class Desk:
    """A broker, members of clusters, and areas as terms of coordinators make them. Time passes when a test says so."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.store, self.now = bus, Store(bus), T0
        self.events = EventLog(bus, self.store, "/fog/coordinator/c1")
        self.nodes: dict[str, NodeView] = {}
        self.seats: dict[str, Seats] = {}
        self.polls: list[Poll] = []
        self.deaf = 0  # so many polls are refused
        self.areas: list[Areas] = []

    async def area(self, number: int) -> ClustersArea:
        """Begun by its keeper, which begins it anew after a fault."""
        term = Term(
            self.bus, self.store, self.events, Bad(), lambda: self.now, number, f"c{number}", lambda: True, self.nodes,
            lambda event: None,
        )  # fmt: skip
        self.areas.append(Areas([ClustersArea], term))
        self.areas[-1].start()
        await eventually(lambda: self.present is not None)
        return cast(ClustersArea, self.present)

    @property
    def present(self) -> ClustersArea | None:
        """The last term's area; None while it is read."""
        return cast("ClustersArea | None", self.areas[-1]._keepers[0]._area)

    async def stop(self) -> None:
        await self.areas[-1].stop()

    async def node(self, name: str) -> None:
        """A node that is online, and believes what it is told."""
        view = self.nodes[name] = NodeView(
            NodeRecord(name, "", "s", 1, DeviceCapabilities(cpu_cores=2), Offer(labels={"room": name}), T0, T0), 0, 5.0
        )
        view.state = NodeState.ONLINE
        seats = self.seats[name] = Seats(name)

        def told(_subject: str, reply: str, data: bytes, _headers: bytes) -> None:
            error = seats.told(_membership(data))
            self.bus.publish(reply, encode(NodeAnswer(name, 1, not error, error)))

        def lead(_subject: str, reply: str, data: bytes, _headers: bytes) -> None:
            self.polls.append(_poll(data))
            error = "it has not heard yet that it leads" if len(self.polls) <= self.deaf else ""
            self.bus.publish(reply, encode(NodeAnswer(name, 1, not error, error)))

        await self.bus.subscribe(subjects.command(name, "cluster"), told)
        await self.bus.subscribe(subjects.command(name, "lead"), lead)

    def passes(self, seconds: float = 0.5) -> None:
        self.now += seconds
        self.areas[-1].tick(self.now)

    async def led(self, name: str = "c1") -> str:
        """The leader of that cluster, once all of its members believe the same as the coordinator."""
        found: list[str] = []

        def so() -> bool:
            self.passes(0.0)
            cluster = self.present and self.present.state.clusters.get(name)
            if not cluster or not cluster.leader:
                return False
            found.append(cluster.leader)
            seats = [self.seats[node].now.get(name) for node in cluster.members]
            return all(s and (s.leader, s.cluster_term) == (cluster.leader, cluster.term) for s in seats)

        await eventually(so, what=f"all know who leads {name}")
        return found[-1]

    async def ask(self, verb: str, request: Any) -> Any:
        assert self.present is not None
        return await self.present.endpoints()[f"cluster.{verb}"][1](request)


@pytest.fixture
async def desk(target: Target) -> AsyncIterator[Desk]:
    bus = await Bus.connect(target, name="clusters-test")
    await ensure_streams(bus)
    made = Desk(bus)
    for name in ("n1", "n2", "n3"):
        await made.node(name)
    yield made
    for areas in made.areas:
        await areas.stop()
    made.store.close()
    await bus.close()


async def test_a_leader_that_has_not_heard_yet_that_it_leads_is_asked_again(desk: Desk) -> None:
    await desk.area(1)
    await desk.led()
    desk.deaf = 1
    await desk.ask("propose", ProposeRequest("p1", "c1", "take version 2?", 60.0))

    def again() -> bool:
        desk.passes(0.0)
        return len(desk.polls) == 2

    await eventually(again, what="a second poll")


async def test_a_proposal_whose_writer_did_not_hear_that_it_is_kept_is_decided_all_the_same(desk: Desk) -> None:
    area = await desk.area(1)
    await desk.led()
    lost = Proposal("p1", "c1", "take version 2?", ("n1", "n2", "n3"), desk.now, desk.now + 10.0)
    await Kv(desk.bus, desk.store, streams.DECISIONS).create("p1", encode(lost))
    assert await desk.ask("propose", ProposeRequest("p1", "c1", "take version 2?", 10.0)) == lost
    reply: DecisionReply = await desk.ask("decision", DecisionRequest("p1"))
    assert reply.decision is None
    await eventually(lambda: [poll.proposal for poll in desk.polls] == [lost])
    desk.passes(20.0)
    await eventually(lambda: not area._decider._deciding.open and not area._decider.tasks)
    reply = await desk.ask("decision", DecisionRequest("p1"))
    assert reply.decision is not None and reply.decision.verdict is Verdict.EXPIRED


async def test_after_another_coordinators_write_the_area_begins_anew_and_its_members_follow_it(desk: Desk) -> None:
    """The write of one that was deposed may arrive after its successor has read everything."""
    area = await desk.area(1)
    before = await desk.led()
    await Kv(desk.bus, desk.store, streams.CLUSTERS).put("c1" + LEADER, encode(Leadership("n3", 0.1, "late", 0)))
    desk.nodes[before].state = NodeState.LOST
    desk.areas[-1].changed([before], desk.now)
    await eventually(lambda: area.fault is not None)
    desk.passes()
    await eventually(lambda: desk.present is not None)
    assert desk.present is not area
    assert await desk.led() not in ("", before)
