"""What clients ask about policies and advice on ``api.policy.<verb>`` and ``api.node.advise``, and what is answered."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from schemas import limits
from schemas.advice import Advice
from schemas.names import Id
from schemas.transport import OutboxReport


class AdviceReply(Struct, frozen=True):
    """What a node should do now, by its own readings of now, and what it keeps for the broker (None: it does not tell)."""

    node: str
    advice: Advice
    outbox: OutboxReport | None = None


class PolicyRequest(Struct, frozen=True, omit_defaults=True):
    """Set some fields of a node's policy (by the names of `advice.QosPolicy`), or with `reset` take away all, first."""

    node: Id
    set: Annotated[dict[str, str], Meta(max_length=limits.LABELS_MAX)] = {}
    reset: bool = False


class PolicyReply(Struct, frozen=True, omit_defaults=True):
    """A node's policy. `in_force`: the node has said that it holds to it; else it will when it is back. `advice`: what
    followed from it there."""

    node: str
    policy: dict[str, str] = {}
    in_force: bool = False
    advice: Advice | None = None
