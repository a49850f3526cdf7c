"""Membership: registering with whoever coordinates, and heartbeats."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import Any, TypeVar

from msgspec.structs import replace

from node.adviser import Adviser
from node.context import Context
from node.core.beats import JITTER, Beats, stretched_s, wait_s
from node.core.desk import Desk
from node.device import Device
from node.identity import Identity
from node.leaser import Leaser
from node.relay import Relay
from schemas import limits, subjects
from schemas.advice import Limits
from schemas.codec import Decoder, encode
from schemas.device import DeviceCapabilities
from schemas.enforced import Enforced
from schemas.errors import BadInput, FogError, NoResponders, Refused, Unreachable
from schemas.logs import fields
from schemas.membership import AllReport, Heartbeat, Held, Register, Registered, Renewed
from schemas.ticks import ticks

log = logging.getLogger("fog.node.member")
T = TypeVar("T")

ASK_S = 3.0  # for the answer to one registration request
CHALLENGES_MAX = 3  # signed in one try
RETRY_S = (0.2, 5.0)  # the first wait and the longest, with full jitter
MEASURE_EVERY = 6  # the way to the broker is measured with one beat of so many: it takes the radio twice as long
SPREAD_MAX_S = 60.0  # however long a coordinator wants the fleet's registrations spread
CONFIRM_S = 3.0  # for the answer to the beat that asks, after a reconnect, whether all is as it was
LATER_S = 60.0  # within this a registration follows all the same: it tells more (a policy) than an answered beat
VERSION = "0.1.0"

_registered: Decoder[Registered] = Decoder(Registered)
_renewed: Decoder[Renewed] = Decoder(Renewed)
_all_report: Decoder[AllReport] = Decoder(AllReport)


class Member:
    """Registers, and registers again when there is reason to. `on_registered(gone, resumed)` gets what was held and is not to
    be kept, and whether the node, out of service when it asked, is in service by the fleet's record.

    `look` discovers the capabilities anew; it is awaited every `look_again_s`, and what changed goes out.
    """

    def __init__(
        self,
        context: Context,
        desk: Desk,
        device: Device,
        adviser: Adviser,
        identity: Identity,
        look: Callable[[], Awaitable[DeviceCapabilities]],
        look_again_s: float,
        on_registered: Callable[[tuple[Held, ...], bool], None],
    ) -> None:
        self._context, self._desk, self._device, self._identity = context, desk, device, identity
        self._adviser = adviser
        self._said_limits: Limits | None = None
        self._look, self._look_again_s = look, look_again_s
        self._on_registered = on_registered
        self.enforced: Callable[[], Enforced] = Enforced
        self.on_beat: list[Callable[[], None]] = []  # told when a beat has gone out: the radio is awake
        self.leaser: Leaser | None = None  # while it wants leases, beats ask for them
        self.relay: Relay | None = None
        self._beats = Beats()
        self._interval_s = limits.HEARTBEAT_S
        self._due: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._delay_s = 0.0
        self._reconnected = False
        self._later: asyncio.TimerHandle | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._registered_term = 0
        self._asked_term = 0
        self._subject = subjects.heartbeat(context.node)
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Listen for coordinators that ask everybody to report."""
        self._device.set_encrypted(self._context.bus.encrypted)
        await self._context.bus.subscribe(subjects.ALL_REPORT, self._on_all_report)

    def _on_all_report(self, _subject: str, _reply: str, data: bytes, _headers: bytes) -> None:
        try:
            call = _all_report(data)
        except BadInput as error:
            self._context.note_bad("all.report", error)
            return
        self.on_term(call.term, call.spread_s)

    def on_term(self, term: int, spread_s: float = 0.0) -> None:
        """A coordinator of `term` spoke: one that this node has not registered with gets a registration, within `spread_s`."""
        if term > self._registered_term and term > self._asked_term:
            self._asked_term = term
            self.again(random.uniform(0, min(max(0.0, spread_s), SPREAD_MAX_S)))

    # Registering.

    def again(self, delay_s: float = 0.0) -> None:
        """Register (again), after `delay_s`."""
        self._delay_s = delay_s
        self._wake.set()

    def link_back(self) -> None:
        """The link is up again. A whole fleet's may be: one beat that is answered is enough where nothing has changed.

        It is measured at once: a device that takes itself for offline until its next round holds back what could go."""
        self._reconnected = True
        self._device.set_encrypted(self._context.bus.encrypted)  # perhaps it is another server
        self.again()
        self._stop_measuring()  # of the link that was cut: what comes of it says nothing of this one
        self._measure_soon()

    async def keep_registered(self) -> None:
        """Register now and whenever `again` asks; returns never. Raises Refused when the fleet does not want this node."""
        while True:
            await asyncio.sleep(self._delay_s)
            self._wake.clear()
            if not await self._still_registered():
                await self._register()
            await self._until_changed()

    async def _still_registered(self) -> bool:
        """After a reconnect: whether the coordinator that this node registered with still has it, by a full beat."""
        reconnected, self._reconnected = self._reconnected, False
        context = self._context
        if not reconnected or context.boot < 1 or self._asked_term > self._registered_term:
            return False
        beat = encode(self._heartbeat(state_full=True, state=self._device.state(time.time())))
        try:
            answer = _renewed(await context.bus.request(subjects.heartbeat(context.node), beat, CONFIRM_S))
        except (FogError, OSError, ValueError) as error:
            log.info("registering anew after the reconnect", extra=fields(node=context.node, reason=str(error)))
            return False
        if (answer.term, answer.boot) != (self._registered_term, context.boot):
            return False
        self._forget_later()
        self._later = self._loop.call_later(random.uniform(0, LATER_S), self.again)
        if self._leasing:
            self.beat()
        return True

    def _forget_later(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None

    async def _until_changed(self) -> None:
        """Look at the capabilities on schedule; returns when they changed, or when `again` asks."""
        while True:
            try:
                async with asyncio.timeout(self._look_again_s):
                    await self._wake.wait()
                    return
            except TimeoutError:
                pass
            try:
                found = await self._look()
            except Exception:  # no thread to be had, for one: what the device was before stands
                log.exception("cannot look at the device again")
                continue
            if found != self._adviser.capabilities:
                log.info("this device has changed", extra=fields(node=self._context.node))
                self._adviser.capabilities, self._delay_s = found, 0.0
                return

    async def _register(self) -> None:
        attempt, told = 0, False
        while True:
            held, closed = self._desk.report(), bool(self._context.closed_to)
            try:
                answer = await self._unless_woken(self._ask(held=held))
                if answer is not None:
                    break
                attempt = 0
                await asyncio.sleep(self._delay_s)
                continue
            except (Unreachable, BadInput) as error:
                if not told:
                    told = True
                    why = "there is no coordinator yet" if isinstance(error, NoResponders) else error.message
                    log.warning("waiting to be registered", extra=fields(node=self._context.node, reason=why))
                attempt += 1
                wait_s = random.uniform(0, min(RETRY_S[1], RETRY_S[0] * 2.0 ** min(attempt, 10)))
            if await self._unless_woken(asyncio.sleep(wait_s, True)) is None:
                attempt = 0
                await asyncio.sleep(self._delay_s)
        self._accept(answer, held, closed)

    async def _unless_woken(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` gives, or None once `again` is called: a coordinator that has just taken over is asked at once, whoever
        was asked before and however long ago that was."""
        doing, waking = asyncio.ensure_future(work), asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({doing, waking}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            self._wake.clear()
            return None
        finally:
            doing.cancel()
            waking.cancel()

    async def _ask(self, held: tuple[Held, ...]) -> Registered:
        context = self._context
        request = Register(
            node=context.node,
            key=self._identity.key,
            session=context.session,
            capabilities=self._adviser.capabilities,
            offer=context.offer,
            state=self._adviser.look(),
            held=held,
            version=VERSION,
            asleep_s=context.sleep.gap_s(ticks()),
            draining=bool(context.resting or context.full),
            closed_for=context.full,
            harvest_state=context.harvest_state,
            power_mode=self._adviser.advice.power_mode.value,
            limits=self._adviser.advice.limits,
            battery_min=self._adviser.battery_min,
        )
        subject = subjects.register(context.node)
        answer = _registered(await context.bus.request(subject, encode(request), ASK_S))
        for _ in range(CHALLENGES_MAX):  # one that a coordinator gave is nothing to its successor, who gives another
            if not answer.challenge:
                break
            signature = self._identity.sign(context.node, context.session, answer.challenge)
            request = replace(request, challenge=answer.challenge, signature=signature)
            answer = _registered(await context.bus.request(subject, encode(request), ASK_S))
        if answer.error:
            raise Refused("registration-refused", answer.error, hint=answer.hint)
        if answer.boot < 1:
            raise Unreachable("the coordinator's answer to the registration is incomplete")
        if answer.term < context.term:
            raise Unreachable(f"a coordinator of the older term {answer.term} answered")
        return answer

    def _accept(self, answer: Registered, said: tuple[Held, ...], closed: bool) -> None:
        """`said`, `closed`: what was held, and whether it was out of service, when this was asked; a drain since is newer."""
        context = self._context
        self._forget_later()
        if context.boot != answer.boot:
            log.info("registered", extra=fields(node=context.node, boot=answer.boot, term=answer.term))
        context.boot, context.term = answer.boot, max(context.term, answer.term)
        self._registered_term = answer.term
        self._interval_s = min(max(0.05, answer.interval_s), limits.SLEEP_MAX_S)
        keep = frozenset(answer.keep)
        self._on_registered(tuple(one for one in said if one.task not in keep), closed and not answer.drained)
        self.beat(full=True)

    # Heartbeats.

    def beat(self, full: bool = False, by_itself: bool = False) -> None:
        """Send a heartbeat now; the next one follows by itself, but of a node that sleeps only while it needs leases. One that
        comes by itself may go by way of the cluster's leader."""
        context = self._context
        if context.boot < 1:
            return
        try:
            state = self._adviser.look()  # may beat by itself, when something else is to be done
            self._stop_timer()
            subject = self._subject
            if self._leasing and self.leaser is not None:
                self.leaser.ask(subject, lambda: encode(self._heartbeat(state_full=full, state=state)))
            else:
                roughly = by_itself and self.relay is not None and self.relay.wanted
                beat = self._heartbeat(state_full=full, state=state, roughly=roughly)
                if self.relay is None or not self.relay.takes(beat, by_itself, self._interval_s):
                    context.bus.publish(subject, encode(beat))
        except (FogError, OSError, ValueError):
            log.exception("a heartbeat could not be made")
            self._stop_timer()
        for listener in self.on_beat:
            listener()
        wait = wait_s(self._gap_s(), random.random())
        silent = context.sleep and not self._leasing
        if not context.leaving and not silent:
            self._due = self._loop.call_later(wait, self._beat_by_itself)
            context.bus.ping_along(wait)
        if self.relay is not None:
            self.relay.next_in(wait if self._due is not None else inf)
            self.relay.flush()

    def plan(self, wait_s: float) -> None:
        """Have the next heartbeat that comes by itself come after `wait_s`."""
        if self._due is not None:
            self._stop_timer()
            self._due = self._loop.call_later(wait_s, self._beat_by_itself)

    def _heartbeat(self, *, state_full: bool, state: object, roughly: bool = False) -> Heartbeat:
        context = self._context
        gap_s = 0.0 if context.leaving else context.sleep.gap_s(ticks())
        return Heartbeat(
            node=context.node,
            boot=context.boot,
            seq=self._beats.next_seq(),
            sent_at=time.time(),
            next_due_s=gap_s or min(self._gap_s() * (1 + JITTER), limits.SLEEP_MAX_S),
            full=state_full,
            asleep=gap_s > 0,
            draining=bool(context.closed_to or context.resting or context.full) and not context.leaving,
            closed_for="" if context.leaving else context.full,
            leaving=context.leaving,
            seen_seq=context.seen_seq,
            held=self._desk.report(),
            state=self._beats.delta(state, state_full, roughly),  # type: ignore[arg-type]
            harvest_state=context.harvest_state,
            power_mode=str(self._adviser.advice.power_mode),
            limits=self._new_limits(state_full),
            battery_min=self._adviser.battery_min,
            bad_messages=context.bad_messages + context.outbox_spoilt,
            outbox=context.outbox,
            outbox_held=context.outbox_held,
            hold_s=self._adviser.way.hold_s,
            outbox_since=context.outbox_since,
            enforced=self._beats.changed(self.enforced(), state_full),
        )

    @property
    def _leasing(self) -> bool:
        return self.leaser is not None and self.leaser.wanted

    def _gap_s(self) -> float:
        """Between two beats: stretched by the power mode, but not while leases are renewed by them."""
        if self._leasing:
            return self._interval_s
        return stretched_s(self._interval_s, self._adviser.advice.power_mode)

    def _new_limits(self, full: bool) -> Limits | None:
        """The limits if they are not what was said before."""
        limits_now = self._adviser.advice.limits
        if limits_now == self._said_limits and not full:
            return None
        self._said_limits = limits_now
        return limits_now

    def _beat_by_itself(self) -> None:
        self._due = None
        self.beat(by_itself=True)
        if self._beats.seq % MEASURE_EVERY == 2:  # the first that comes by itself, and so on
            self._measure_soon()

    def _measure_soon(self) -> None:
        if self._measuring is None or self._measuring.done():
            self._measuring = self._loop.create_task(self._measure())

    async def _measure(self) -> None:
        """The round trip to the broker, for the device's network quality; what follows from a new one is told at once."""
        begun = time.perf_counter()
        try:
            await self._context.bus.flush()
        except Unreachable:
            self._device.set_latency(None)
            return
        self._device.set_latency(1000 * (time.perf_counter() - begun))
        try:
            self._adviser.look()
        except Exception:  # as in `beat`: a reader's fault must not end more than this look
            log.exception("the device could not be looked at")

    def _stop_measuring(self) -> None:
        if self._measuring is not None:
            self._measuring.cancel()
            self._measuring = None

    def stop(self) -> None:
        """Beat no more."""
        self._forget_later()
        self._stop_measuring()
        self._stop_timer()
        if self.relay is not None:
            self.relay.stop()

    def _stop_timer(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
