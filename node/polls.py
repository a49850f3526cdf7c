"""A leader's polls: ask every member, again where nobody answered, until the votes decide it or its time is over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from node.context import Context
from node.core.seats import Seats
from schemas import subjects
from schemas.codec import Decoder, encode
from schemas.decision import Poll, Proposal, Tally, Vote, VoteRequest, verdict_of
from schemas.errors import FogError
from schemas.logs import fields
from schemas.ticks import ticks

log = logging.getLogger("fog.node.clusters")

VOTE_S = 1.0  # for one answer
AGAIN_S = 0.25
LATER_S = 0.25
TELL_S = 60.0  # a tally that nobody took for so long is given up: a coordinator that comes then asks anew, or closes it
POLLS_MAX = 100

_vote: Decoder[Vote] = Decoder(Vote)


class Polls:
    """Those that this node leads. `vote` is its own."""

    def __init__(self, context: Context, seats: Seats, vote: Callable[[str], Vote]) -> None:
        self._context, self._seats, self._vote = context, seats, vote
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, poll: Poll) -> str:
        """Lead this proposal; returns why not, or "". The same one again goes on as it is."""
        proposal = poll.proposal
        term = self._seats.leads(proposal.cluster)
        if term != poll.cluster_term:
            return f"{self._context.node} does not lead {proposal.cluster} under term {poll.cluster_term}"
        key = f"{proposal.id}.{term}"
        if key in self._tasks:
            return ""
        if len(self._tasks) >= POLLS_MAX:
            return f"{POLLS_MAX} proposals are under way"
        # What is left of its time, by the wall clock once: afterwards only the monotonic one counts.
        ends_at = ticks() + min(
            proposal.deadline_at - proposal.proposed_at, max(0.0, proposal.deadline_at - time.time())
        )
        task = self._tasks[key] = asyncio.get_running_loop().create_task(self._lead(proposal, term, ends_at))
        task.add_done_callback(lambda _: self._tasks.pop(key, None))
        return ""

    def stop(self) -> None:
        """Lead no more: another leader is given what is open."""
        for task in self._tasks.values():
            task.cancel()

    async def _lead(self, proposal: Proposal, term: int, ends_at: float) -> None:
        votes: dict[str, Vote] = {}
        asking = {asyncio.create_task(self._ask(node, proposal, term, votes, ends_at)) for node in proposal.voters}
        try:
            while asking and ticks() < ends_at and verdict_of(proposal, votes) is None:
                left_s = max(0.0, ends_at - ticks())
                _, asking = await asyncio.wait(asking, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in asking:
                one.cancel()
        if verdict_of(proposal, votes) is None:
            await asyncio.sleep(LATER_S)  # its time is over by the coordinator's clock, too
        await self._tell(proposal, term, votes)

    async def _ask(self, node: str, proposal: Proposal, term: int, votes: dict[str, Vote], ends_at: float) -> None:
        if node == self._context.node:
            votes[node] = self._vote(proposal.id)
            return
        subject = subjects.peer(proposal.cluster, node, "vote")
        request = encode(VoteRequest(self._context.node, term, proposal))
        while ticks() < ends_at:
            try:
                vote = _vote(await self._context.bus.request(subject, request, VOTE_S))
                if not vote.error:
                    votes[node] = vote
                    return
                log.info("a member does not vote", extra=fields(node=node, error=vote.error))
            except FogError:
                pass
            await asyncio.sleep(AGAIN_S)

    async def _tell(self, proposal: Proposal, term: int, votes: dict[str, Vote]) -> None:
        """Until the coordinator has answered, whatever it says; it records what it counts."""
        gives_up_at = ticks() + TELL_S
        tally = Tally(proposal.id, proposal.cluster, self._context.node, term, votes)
        while self._seats.leads(proposal.cluster) == term and ticks() < gives_up_at:
            try:
                await self._context.bus.request(subjects.api("cluster", "tally"), encode(tally), VOTE_S)
                return
            except FogError:
                await asyncio.sleep(AGAIN_S)
