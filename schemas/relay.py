"""Heartbeats by way of a cluster's leader: members beat to it, and it says them all to the coordinator in one *digest*.

| subject | request | reply |
|---|---|---|
| ``peer.<cluster>.<leader>.beat`` | `MemberBeat` | `BeatAck`, once the coordinator has answered the digest |
| ``digest.<leader>`` | `Digest` | `DigestAck` |

A beat that is not acknowledged in time is said again by its member itself, on ``heartbeat.<node>`` and in full. So a beat may
come twice: of one boot only a higher `seq` counts.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from schemas import limits
from schemas.device import DeviceState
from schemas.membership import Heartbeat
from schemas.names import Id


class Still(Struct, frozen=True, array_like=True):
    """A beat of a node that holds nothing, and of which nothing but its readings changed since the beat before:
    ``[node, boot, seq, sent_at, next_due_s, seen_seq, state, age_s]``, each as in `Heartbeat`; `age_s` as in `Aged`."""

    node: Id
    boot: Annotated[int, Meta(ge=1)]
    seq: Annotated[int, Meta(ge=0)]
    sent_at: float
    next_due_s: Annotated[float, Meta(gt=0, le=limits.SLEEP_MAX_S)] = limits.HEARTBEAT_S
    seen_seq: Annotated[int, Meta(ge=0)] = 0
    state: DeviceState = DeviceState()
    age_s: Annotated[float, Meta(ge=0)] = 0.0


class Aged(Struct, frozen=True, array_like=True):
    """``[age_s, beat]``: the leader heard that beat `age_s` before it sent the digest."""

    age_s: Annotated[float, Meta(ge=0)]
    beat: Heartbeat


class MemberBeat(Struct, frozen=True, omit_defaults=True):
    """A member's beat, to its leader: `still` where that says it all, else the whole `beat`. Refused under another
    `cluster_term` than the leader's own."""

    cluster_term: int
    still: Still | None = None
    beat: Heartbeat | None = None


class BeatAck(Struct, frozen=True, omit_defaults=True):
    """The coordinator has the beat; the leader's next digest goes out in `next_s` (0: it does not say). With an `error` the
    leader does not pass beats on."""

    next_s: Annotated[float, Meta(ge=0)] = 0.0
    error: str = ""


class Digest(Struct, frozen=True, omit_defaults=True):
    """What a leader heard of its cluster since its last digest, itself included. It counts while that node leads the cluster
    under that term, and only of its members."""

    cluster: Id
    cluster_term: int
    stills: Annotated[tuple[Still, ...], Meta(max_length=limits.CLUSTER_MADE_MAX)] = ()
    beats: Annotated[tuple[Aged, ...], Meta(max_length=limits.CLUSTER_MADE_MAX)] = ()


class DigestAck(Struct, frozen=True, omit_defaults=True):
    """The coordinator of `term` took in the digest, but for the beats of the nodes in `not_taken`: those are to speak for
    themselves. With an `error` it took in nothing."""

    term: int
    not_taken: tuple[str, ...] = ()
    error: str = ""
