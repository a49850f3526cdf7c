"""What this device should do now, always known: its readings, its policy, and the advice made of them.

Readings are looked at with every heartbeat, and every `LOOK_S` while work runs, so that what runs feels a change within a
second. A device that rests is woken by nothing here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from msgspec import structs

from node.core.advice import advise
from node.core.advice.profile import profile_of
from node.core.advice.steady import again, is_steady
from node.core.desk import Desk
from node.core.transport import Way, way_of
from node.device import Device
from node.policy import PolicyFile
from schemas.advice import Advice, Carried, Profile, policy_of
from schemas.device import DeviceCapabilities, DeviceState
from schemas.logs import fields
from schemas.membership import Offer
from schemas.ticks import ticks

log = logging.getLogger("fog.node.advice")

LOOK_S = 0.5
MEMORY_STEP = 0.1  # a limit on memory that moves by less than this share is no change: free memory is never still


class Adviser:
    """`advice`, `state` and `way` (how messages can go) are the newest. `on_advice` hear each advice that asks for
    something else than the one before, the first one too once `begin` is called. `held_mb` tells what work for the fleet holds
    of the memory.
    """

    def __init__(
        self, device: Device, capabilities: DeviceCapabilities, offer: Offer, desk: Desk, policy: PolicyFile
    ) -> None:
        self._device, self._desk, self._kept = device, desk, policy
        self.capabilities, self.offer = capabilities, offer
        self.held_mb: Callable[[], int] = lambda: 0
        self.on_advice: list[Callable[[Advice], None]] = []
        self.policy = policy.read()
        self._policy = policy_of(self.policy)
        self._told: Advice | None = None
        self._steady: Profile | None = None  # the readings of which `advice` is, if it stays so while they do
        self._seen: tuple[DeviceCapabilities, DeviceState, Offer, int] | None = None  # what it was made of last
        self._held_at = 0.0  # when `advice` was last found to hold still, by `ticks`
        self._due: asyncio.TimerHandle | None = None
        self.state: DeviceState = device.state(time.time())
        self.way: Way
        self.advice = self._work_out(None)

    @property
    def battery_min(self) -> float:
        """Percent under which the policy wants no new work; 0 where it says nothing."""
        return self._policy.battery_save_threshold or 0.0

    def begin(self) -> None:
        """Tell those who listen what holds now; from here on they hear of changes."""
        self._tell()

    def look(self) -> DeviceState:
        """Read the device now, and tell if something else is to be done."""
        self.state = self._device.state(time.time())
        before, self.advice = self.advice, self._work_out(self.advice)
        if self.advice is not before and self._told is not None and differs(self._told, self.advice):
            self._tell()
        return self.state

    def set_policy(self, pairs: dict[str, str]) -> None:
        """An operator's policy, from now on. BadInput names a wrong field, OSError tells that it cannot be kept; nothing is
        changed then."""
        policy = policy_of(pairs)
        self._kept.write(pairs)
        self._policy, self.policy = policy, dict(pairs)
        log.info("policy set", extra=fields(policy=" ".join(f"{k}={v}" for k, v in pairs.items()) or "none"))
        self.advice = self._work_out(None)  # what an operator says has no dwell
        self._tell()

    def working(self) -> None:
        """Something was just begun: look often until nothing is held any more."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(LOOK_S, self._look_while_working)

    def stop(self) -> None:
        """Look no more by itself."""
        if self._due is not None:
            self._due.cancel()

    def _look_while_working(self) -> None:
        self._due = None
        if not self._desk.lanes.open:
            return
        try:
            self.look()
        except Exception:  # a reader's fault must not end the looking
            log.exception("the device could not be looked at")
        self.working()

    def _work_out(self, before: Advice | None) -> Advice:
        """The advice of now: `before` itself where it holds still, as it does at most looks."""
        seen, now = (self.capabilities, self.state, self.offer, self.held_mb()), ticks()
        same = seen == self._seen
        self._seen = seen
        if before is not None and self._steady is not None and (same or profile_of(*seen) == self._steady):
            self._held_at = now
            return before
        if before is not None and self._held_at:
            before = again(before, self._held_at)
        profile, self._held_at = profile_of(*seen), 0.0
        found = advise(profile, self._policy, before, now)
        self._steady = profile if is_steady(before, found, now) else None
        self.way = way_of(found, profile, self._policy)
        return found

    def _tell(self) -> None:
        before, self._told = self._told, self.advice
        _log(before, self.advice)
        for listener in self.on_advice:
            try:
                listener(self.advice)
            except Exception:
                log.exception("an advice was not followed")


def differs(told: Advice, now: Advice) -> bool:
    """Whether `now` asks for something else than `told`; other reasons for the same are no difference."""
    near = abs(now.limits.memory_mb - told.limits.memory_mb) < MEMORY_STEP * max(1, told.limits.memory_mb)
    limits = structs.replace(now.limits, memory_mb=told.limits.memory_mb) if near else now.limits
    size = told.chunk_size  # follows from the rest
    same = structs.replace(now, limits=limits, chunk_size=size, reasons=told.reasons, carried=Carried())
    return same != structs.replace(told, carried=Carried())


def _log(before: Advice | None, now: Advice) -> None:
    """One line for a new power mode, one for a new thermal state; operators grep for ``thermal … throttle``."""
    because = "; ".join(now.reasons)[:600]
    if before is None or before.power_mode is not now.power_mode:
        log.info("power mode", extra=fields(power_mode=now.power_mode.value, reasons=because))
    if before is not None and before.thermal_state is now.thermal_state:
        return
    throttles = now.performance_percent <= 50
    if throttles:
        what = f"thermal state {now.thermal_state}: throttle to {now.performance_percent} %"
        log.warning(what, extra=fields(reasons=because))
    elif before is not None and before.performance_percent <= 50:
        log.info(f"thermal state {now.thermal_state}: throttle over", extra=fields(reasons=because))
