"""When this device serves chunks to its peers: not at its owner's cost. Pure."""

from __future__ import annotations

from schemas.advice import Advice, PowerMode
from schemas.device import HOT, DeviceState, NetworkType


def why_not_serve(advice: Advice, state: DeviceState, refuses: str) -> str:
    """Why it serves nobody now, "" when it does. `refuses`: why it takes no work, as it is drained, asleep or in use.

    A network that is not known to cost anything is no reason: those who ask are behind the same gateway.
    """
    if refuses:
        return refuses
    if advice.power_mode in (PowerMode.POWER_SAVE, PowerMode.CRITICAL):
        return f"its power mode is {advice.power_mode}"
    if advice.thermal_state in HOT:
        return f"it is {advice.thermal_state}"
    if state.network_metered is True or state.network_type is NetworkType.CELLULAR:
        return "its network is metered"
    return ""


def why_too_far(mine: str, theirs: str) -> str:
    """Why a peer behind that gateway gets nothing from this device, "" when it does: what goes between them must not cross the
    wide link. An unknown gateway is no reason; the address that is served at decides who reaches it."""
    return "it is behind another gateway" if mine and theirs and mine != theirs else ""
