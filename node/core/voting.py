"""How this node votes: by its owner's policy. A vote stands: asked again, by another leader too, it is the same."""

from __future__ import annotations

from enum import StrEnum

from schemas.decision import Vote
from schemas.device import HOT, DeviceState

KEPT = 500  # votes that are remembered
BATTERY_MIN = 20.0


class VotePolicy(StrEnum):
    """What the owner said (``vote`` in the configuration)."""

    HEALTHY = "healthy"  # yes, unless the device has troubles of its own
    YES = "yes"
    NO = "no"


class Votes:
    """The votes that were given."""

    def __init__(self, policy: VotePolicy) -> None:
        self._policy = policy
        self._given: dict[str, Vote] = {}

    def on(self, proposal: str, closed_to: str, state: DeviceState) -> Vote:
        """The vote on a proposal. `closed_to`: why no new work is wanted here."""
        given = self._given.get(proposal)
        if given is None:
            given = self._given[proposal] = self._vote(closed_to, state)
            while len(self._given) > KEPT:
                del self._given[next(iter(self._given))]
        return given

    def _vote(self, closed_to: str, state: DeviceState) -> Vote:
        if self._policy is not VotePolicy.HEALTHY:
            return Vote(self._policy is VotePolicy.YES, "its owner's policy")
        against = closed_to or trouble(state)
        return Vote(not against, against or "healthy")


def trouble(state: DeviceState) -> str:
    """What ails the device just now; "" for nothing. The unknown is no trouble: who wants it to be says ``no``."""
    if state.thermal_state in HOT:
        return f"it is {state.thermal_state.value}"
    percent = state.battery_percent
    if (
        isinstance(percent, float | int)
        and percent < BATTERY_MIN
        and state.is_charging is not True
        and state.mains is not True
    ):
        return f"battery at {percent:.0f} % and not charging"
    return ""
