"""Harvesting: what a device that works for others only while nobody needs it says of that (SPEC 6)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct


class HarvestState(StrEnum):
    """What a harvesting device does, or the first thing that keeps it from working."""

    IDLE = "idle"  # nothing stands against it: it begins in a moment
    HARVESTING = "harvesting"
    CHARGING_LOW = "charging_low"
    THERMAL_THROTTLE = "thermal_throttle"
    USER_ACTIVE = "user_active"
    NETWORK_METERED = "network_metered"
    OUTSIDE_WINDOW = "outside_window"
    COOLDOWN = "cooldown"
    DISABLED = "disabled"


IN_WORDS = {
    HarvestState.IDLE: "it begins in a moment",
    HarvestState.CHARGING_LOW: "it does not charge, or is low",
    HarvestState.THERMAL_THROTTLE: "it is too warm",
    HarvestState.USER_ACTIVE: "its user is there",
    HarvestState.NETWORK_METERED: "its network is not free",
    HarvestState.OUTSIDE_WINDOW: "outside its window",
    HarvestState.COOLDOWN: "it rests between two sessions",
    HarvestState.DISABLED: "it is switched off",
}


class HarvestReason(Struct, frozen=True, omit_defaults=True):
    """One thing that stands against harvesting now. `until`: when it can end at the earliest, in seconds since 1970; 0 where
    that is not a matter of time. `unknown`: it could not be read, and the owner has not said that nobody uses the device.
    """

    state: HarvestState
    text: Annotated[str, Meta(max_length=300)]
    until: float = 0.0
    unknown: bool = False


class HarvestReport(Struct, frozen=True, omit_defaults=True):
    """How it stands with one device. `resume_at`: the earliest moment at which it could work (again); 0: only its owner can
    change that, or it works. `useful_s` is what the current session has worked and not been suspended; `sessions` and
    `total_s` are since the daemon started. Times in seconds since 1970."""

    state: HarvestState
    reasons: tuple[HarvestReason, ...] = ()
    resume_at: float = 0.0
    session: str = ""
    session_since: float = 0.0
    suspended: bool = False
    useful_s: float = 0.0
    sessions: int = 0
    total_s: float = 0.0
    window: str = ""
    zone: str = ""
    headless: bool = False
    claims: int = 0  # claims on tokens that the broker has not taken yet
    note: str = ""


# What is asked and answered on ``api.harvest.<verb>``.


class HarvestRequest(Struct, frozen=True):
    """One device."""

    node: Annotated[str, Meta(max_length=63)]


class HarvestListRequest(Struct, frozen=True, omit_defaults=True):
    """A page of the devices that harvest, or have earned something; `page` counts from 0."""

    page: Annotated[int, Meta(ge=0)] = 0


class HarvestRow(Struct, frozen=True, omit_defaults=True):
    """One device: its state by its last beat ("" when it does not harvest), what it has earned, its score of SPEC 1.5.

    `away`: it is not heard of at the moment, so that its state is an old one. `paid_ms` is useful time that is paid.
    """

    node: str
    state: str = ""
    away: bool = False
    sessions: int = 0
    paid_ms: int = 0
    micro: int = 0
    score: float = 0.0


class HarvestReply(Struct, frozen=True, omit_defaults=True):
    """A page of devices by id; the rest is of the whole network: devices that harvest now, all sessions, useful time and
    micro-tokens so far, how many devices are in which state, and the sum of the scores of those that are here."""

    devices: tuple[HarvestRow, ...]
    total: int
    page: int
    active: int = 0
    sessions: int = 0
    paid_ms: int = 0
    micro: int = 0
    states: dict[str, int] = {}
    compute_score: float = 0.0


class HarvestInfo(Struct, frozen=True, omit_defaults=True):
    """One device in full: `report` is what it says itself, at this moment; without one `problem` says why there is none."""

    row: HarvestRow
    report: HarvestReport | None = None
    problem: str = ""
