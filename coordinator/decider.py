"""Proposals of clusters: kept, given to their leaders, and their outcomes recorded, each once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from msgspec import Struct

from coordinator.areas import Endpoints, Term
from coordinator.core.clusters.deciding import Deciding
from coordinator.core.clusters.state import Clusters
from coordinator.refusal import Refusal
from schemas import streams, subjects
from schemas.codec import Decoder, encode
from schemas.decision import Decision, DecisionReply, DecisionRequest, Poll, Proposal, ProposeRequest, Tally
from schemas.errors import BadInput, Conflict, FogError
from schemas.event import DecisionEvent
from schemas.kv import Kv
from schemas.logs import fields
from schemas.membership import NodeAnswer

log = logging.getLogger("fog.clusters")

OUTCOME = ".outcome"
ASK_S = 2.0  # for a leader to say that it leads
TELL_AGAIN_S = 120.0  # an outcome this young may not have been told by the coordinator that recorded it
RECENT = 1_000  # outcomes that are kept in memory

_proposal: Decoder[Proposal] = Decoder(Proposal)
_decision: Decoder[Decision] = Decoder(Decision)
_answer: Decoder[NodeAnswer] = Decoder(NodeAnswer)


class Decider:
    """One term's. `tasks` is what is under way."""

    def __init__(self, term: Term, state: Clusters) -> None:
        self._term = term
        self._deciding = Deciding(state)
        self._kv = Kv(term.bus, term.store, streams.DECISIONS)
        self._proposals: dict[str, Proposal] = {}  # those that were decided lately, too
        self._outcomes: dict[str, Decision] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def endpoints(self) -> Endpoints:
        """What clients and leaders ask."""
        return {
            "cluster.propose": (ProposeRequest, self._propose),
            "cluster.decision": (DecisionRequest, self._asked),
            "cluster.tally": (Tally, self._tally),
        }

    async def start(self) -> None:
        """Read what is kept: the open ones go on."""
        entries = await self._kv.all()
        now = self._term.clock()
        for key, entry in entries.items():
            try:
                if key.endswith(OUTCOME):
                    outcome = _decision(entry.value)
                    if now - outcome.decided_at < TELL_AGAIN_S:
                        self._outcomes[outcome.proposal] = outcome
                        self._say(outcome)
                else:
                    proposal = _proposal(entry.value)
                    if key + OUTCOME not in entries:
                        self._proposals[key] = self._deciding.open[key] = proposal
            except BadInput as error:
                self._term.bad.add("decision", key, str(error))

    def look(self) -> None:
        """Give open proposals to leaders that were not asked yet. Call when leaders may have changed."""
        if not self._term.may():
            return
        for proposal, leader, cluster_term in self._deciding.to_ask():
            self._spawn(self._ask(proposal, leader, cluster_term))

    def tick(self, now: float) -> None:
        """What had no outcome in its time expires."""
        self.look()
        for outcome in self._deciding.expired(now):
            self._deciding.close(outcome.proposal)
            self._spawn(self._expire(outcome))

    async def _ask(self, proposal: Proposal, leader: str, cluster_term: int) -> None:
        poll = Poll(self._term.number, cluster_term, proposal)
        try:
            answer = _answer(await self._term.bus.request(subjects.command(leader, "lead"), encode(poll), ASK_S))
            error = answer.error
        except FogError as failed:
            error = failed.message
        if error:  # it is not there, or has not heard yet that it leads
            log.info("a leader does not lead a proposal", extra=fields(leader=leader, error=error))
            await asyncio.sleep(ASK_S / 4)
            self._deciding.asked.pop(proposal.id, None)  # the next look asks again

    async def _expire(self, outcome: Decision) -> None:
        try:
            await self._record(outcome)
        except FogError as error:
            log.warning("an outcome is not recorded yet", extra=fields(proposal=outcome.proposal, error=error.message))
            self._deciding.open[outcome.proposal] = self._proposals[outcome.proposal]

    async def _record(self, outcome: Decision) -> Decision:
        """Write it, if it is the first; returns the one that counts."""
        key = outcome.proposal + OUTCOME
        try:
            if not self._term.may():
                raise Conflict("this term is over")
            await self._kv.create(key, encode(outcome))
        except Conflict:
            entry = await self._kv.get(key)
            if entry is None:
                raise
            outcome = _decision(entry.value)
        self._deciding.close(outcome.proposal)
        self._outcomes[outcome.proposal] = outcome
        while len(self._outcomes) > RECENT:
            old = next(iter(self._outcomes))
            del self._outcomes[old]
            self._proposals.pop(old, None)
        self._say(outcome)
        if (waiting := self._waiting.pop(outcome.proposal, None)) is not None:
            waiting.set_result(None)
        return outcome

    def _say(self, outcome: Decision) -> None:
        data = DecisionEvent(
            outcome.cluster, outcome.proposal, "", outcome.verdict.value, outcome.yes, outcome.no, outcome.silent, outcome.term
        )  # fmt: skip
        key = f"{outcome.proposal}.decided"
        self._term.events.emit("cluster.decided", outcome.cluster, key, data, outcome.decided_at)

    # Answering.

    async def _propose(self, ask: ProposeRequest) -> Struct:
        known = await self._find(ask.proposal)
        if known is not None:
            return known
        try:
            proposal = self._deciding.propose(ask, self._term.clock())
        except BadInput as error:
            raise Refusal("bad-request", error.problem, error.hint, error.field) from None
        try:
            await self._kv.create(proposal.id, encode(proposal))
        except Conflict:
            return await self._find(ask.proposal) or proposal
        self._open(proposal)
        return proposal

    def _open(self, proposal: Proposal) -> None:
        """It is kept: say so, and give it to its leader."""
        self._proposals[proposal.id] = self._deciding.open[proposal.id] = proposal
        data = DecisionEvent(proposal.cluster, proposal.id, proposal.text)
        key = f"{proposal.id}.proposed"
        self._term.events.emit("cluster.proposed", proposal.cluster, key, data, proposal.proposed_at)
        self.look()

    async def _find(self, name: str) -> Proposal | None:
        found = self._proposals.get(name)
        if found is None and (entry := await self._kv.get(name)) is not None:
            found = _proposal(entry.value)
        return found

    async def _asked(self, ask: DecisionRequest) -> Struct:
        proposal = await self._find(ask.proposal)
        if proposal is None:
            raise Refusal("unknown-proposal", f"there is no proposal {ask.proposal}", "", "proposal")
        outcome = None
        if ask.proposal not in self._deciding.open:
            outcome = await self._recorded(ask.proposal)
            if outcome is None:  # it is kept, but who kept it did not hear so
                self._open(proposal)
        if outcome is None and ask.wait_s:
            loop = asyncio.get_running_loop()
            waiting = self._waiting.setdefault(ask.proposal, loop.create_future())
            await asyncio.wait((waiting,), timeout=ask.wait_s)
            outcome = self._outcomes.get(ask.proposal)
        return DecisionReply(proposal, outcome)

    async def _recorded(self, proposal: str) -> Decision | None:
        if proposal not in self._outcomes and (entry := await self._kv.get(proposal + OUTCOME)) is not None:
            return _decision(entry.value)
        return self._outcomes.get(proposal)

    async def _tally(self, tally: Tally) -> Struct:
        if (known := self._outcomes.get(tally.proposal)) is not None:
            return known
        try:
            outcome = self._deciding.judge(tally, self._term.clock())
        except BadInput as error:
            raise Refusal("refused", error.problem, error.hint, error.field) from None
        return await self._record(outcome)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a decision failed", exc_info=error)
