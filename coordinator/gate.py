"""A rollout's gate that a cluster opens: the question is put to the vote of its members, under the rollout's own id."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from msgspec import Struct

from coordinator.areas import Term
from coordinator.core.rollouts.actions import Ask
from schemas import subjects
from schemas.codec import Decoder, encode
from schemas.decision import Decision, DecisionReply, DecisionRequest, Proposal, ProposeRequest, Verdict
from schemas.errors import FogError
from schemas.logs import fields

log = logging.getLogger("fog.rollouts")

DECIDE_S = 30.0  # the members have for their decision
AGAIN_S = 2.0  # between two tries to ask

_proposal = Decoder(Proposal)
_reply = Decoder(DecisionReply)


async def vote(term: Term, ask: Ask, waits: Callable[[], bool]) -> tuple[bool, str] | None:
    """Whether the majority agrees, and the votes in words. None: no decision, or nothing waits for one any more."""
    decided: Decision | None = None
    while decided is None and waits() and term.may():
        try:
            _proposal(await _ask(term, "propose", ProposeRequest(ask.rollout, ask.cluster, ask.text, DECIDE_S)))
            decided = _reply(await _ask(term, "decision", DecisionRequest(ask.rollout, 1.0))).decision
        except FogError as error:
            log.warning("a cluster cannot be asked", extra=fields(cluster=ask.cluster, error=error.message))
            await asyncio.sleep(AGAIN_S)
    if decided is None:
        return None
    if decided.verdict is Verdict.EXPIRED:
        log.warning("a cluster came to no decision: promote opens the gate", extra=fields(rollout=ask.rollout))
        return None
    votes = f"{len(decided.yes)} yes, {len(decided.no)} no, {len(decided.silent)} silent"
    return decided.verdict is Verdict.ACCEPTED, f"{ask.cluster} decided: {votes}"


async def _ask(term: Term, verb: str, request: Struct) -> bytes:
    """As any client does: areas know nothing of each other. (A refusal has not the form of a reply, and is no answer.)"""
    return await term.bus.request(subjects.api("cluster", verb), encode(request), AGAIN_S)
