"""The rollouts' shell: messages become events of the machine, its actions become writes and commands."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection
from typing import TypeVar

from msgspec import Struct

from coordinator.areas import Area, Endpoints, Term
from coordinator.artifacts import Artifacts
from coordinator.core.nodeview import NodeView
from coordinator.core.rollouts import actions, again, events, garbage, views
from coordinator.core.rollouts.fit import Facts
from coordinator.core.rollouts.machine import step
from coordinator.core.rollouts.phases import TABLE, Trigger
from coordinator.core.rollouts.state import Rollout, Rollouts
from coordinator.core.score import trust
from coordinator.gate import vote
from coordinator.refusal import Refusal
from schemas import jetstream, limits, streams, subjects
from schemas import rollout_api as api
from schemas.advice import PowerMode
from schemas.artifact import signed_text
from schemas.bus import Subscription
from schemas.codec import Decoder, encode
from schemas.errors import BadInput, Conflict, FogError
from schemas.event import AppEvent, RolloutEvent
from schemas.keys import is_signed
from schemas.kv import Kv
from schemas.logs import fields
from schemas.membership import NodeState
from schemas.rollout import AppReport, AppVersion, Assignment, Service, check_times
from schemas.rollout_state import Outcome, RolloutPhase, RolloutRecord, RolloutSpec, Stage

log = logging.getLogger("fog.rollouts")
T = TypeVar("T")

LOOKED_AT = 500  # nodes whose battery, heat and network are looked at in one tick, while a rollout is under way
WRITES = 256  # at a time
SWEEP_S = 600.0  # between two looks at what nothing needs any more
UNUSED_S = 3600.0  # and so long it is left in peace: somebody may be sending what goes with it
AGAIN = "all that had it were brought back: apply it again"
TRIGGERS = {
    api.Do.PAUSE: Trigger.PAUSE,
    api.Do.RESUME: Trigger.RESUME,
    api.Do.ABORT: Trigger.ABORT,
    api.Do.ROLLBACK: Trigger.ROLL_BACK,
    api.Do.RETRY_FAILED: Trigger.RETRY,
}

_record = Decoder(RolloutRecord)
_outcome = Decoder(Outcome)
_assignment = Decoder(Assignment)
_version = Decoder(AppVersion)
_report = Decoder(AppReport)


class RolloutArea(Area):
    """One term's rollouts."""

    name = "rollouts"

    def __init__(self, term: Term) -> None:
        super().__init__(term)
        self.state = Rollouts()
        bus, store = term.bus, term.store
        self._apps, self._rollouts, self._assigned = (
            Kv(bus, store, bucket) for bucket in (streams.APPS, streams.ROLLOUTS, streams.ASSIGNED)
        )
        self._writes = asyncio.Semaphore(WRITES)
        self._subscription: Subscription | None = None
        self._round: deque[str] = deque()
        self._artifacts = Artifacts(bus)
        self._shelf = asyncio.Lock()  # nothing is removed between looking whether an artifact is whole and its rollout
        self._sweep_at = term.clock() + SWEEP_S

    def endpoints(self) -> Endpoints:
        """The requests on ``api.rollout.*``."""
        return {
            "rollout.plan": (api.PlanRequest, self._plan),
            "rollout.create": (api.CreateRequest, self._create),
            "rollout.list": (api.RolloutsRequest, self._list),
            "rollout.info": (api.RolloutRequest, self._info),
            "rollout.do": (api.DoRequest, self._do_it),
            "rollout.gc": (api.GcRequest, self._gc),
        }

    # Beginning and ending.

    async def start(self) -> None:
        """Read every version, rollout, outcome and assignment; listen to devices."""
        self._subscription = await self.term.bus.subscribe(subjects.app_report("*", "*"), self._on_report)
        for key, entry in (await self._apps.all()).items():
            if (version := self._read(_version, streams.APPS, key, entry.value)) is not None:
                self._give(events.VersionFound(version))
        for key, entry in (await self._rollouts.all()).items():
            rollout, _, node = key.partition(".")
            if node and (outcome := self._read(_outcome, streams.ROLLOUTS, key, entry.value)) is not None:
                self._give(events.OutcomeFound(rollout, outcome))
            elif not node and (record := self._read(_record, streams.ROLLOUTS, key, entry.value)) is not None:
                self._give(events.RolloutFound(record, entry.revision))
        for key, entry in (await self._assigned.all()).items():
            node, _, app = key.partition(".")
            if (told := self._read(_assignment, streams.ASSIGNED, key, entry.value)) is not None:
                self._give(events.AssignmentFound(node, app, told, entry.revision))
        self._give(events.TakenOver(self.term.number))

    def _read(self, decode: Decoder[T], bucket: str, key: str, value: bytes) -> T | None:
        try:
            return decode(value)
        except BadInput as error:
            self.term.bad.add("rollout", f"{bucket}/{key}", str(error))
            return None

    async def stop(self) -> None:
        """Nothing more is written."""
        await super().stop()
        if self._subscription is not None:
            await self._subscription.close()

    # What happens.

    def changed(self, nodes: Collection[str], now: float) -> None:
        """Nodes joined, changed or went."""
        for name in nodes:
            self._look_at(name)

    def _look_at(self, name: str) -> None:
        node = self.term.nodes.get(name)
        if node is None:
            self._give(events.NodeGone(name))
        elif (facts := facts_of(node)) != self.state.nodes.get(name):
            self._give(events.NodeSeen(facts))

    def tick(self, now: float) -> None:
        """Time passed: go on with what is due; look at some nodes' batteries, heat and networks while that matters."""
        self._give(events.Tick())
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            self.spawn(self._sweep_quietly())
        if any(self._wants_facts(app) for app in self.state.current):
            if not self._round:
                self._round.extend(self.term.nodes)
            for _ in range(min(LOOKED_AT, len(self._round))):
                self._look_at(self._round.popleft())

    def _wants_facts(self, app: str) -> bool:
        """Whether a rollout is under way, or late devices wait for the stable one."""
        return any(r.active or r.count(Stage.WAITING, Stage.DEFERRED) for r in self.state.working(app))

    def _on_report(self, subject: str, _reply: str, data: bytes, _headers: bytes) -> None:
        try:
            said = _report(data)
            if subject != subjects.app_report(said.node, said.app):
                raise BadInput("node", "not the one that the subject names")
        except BadInput as error:
            self.term.bad.add("app", subject, str(error))
            return
        node = self.term.nodes.get(said.node)
        if node is None or said.boot != node.boot or not self.state.term:
            return
        self._give(events.Reported(said))
        told = self.state.told.get((said.node, said.app))
        if told is not None and told.assignment is not None and not told.writing and said.order < told.order:
            self._tell(said.node, told.assignment)  # it missed it

    def _give(self, event: events.Event) -> None:
        wanted = step(self.state, event, self.term.clock())
        if wanted and self.term.may():
            for action in wanted:
                self._do(action)

    def _do(self, action: actions.Action) -> None:
        match action:
            case actions.Assign():
                self.spawn(self._assign(action))
            case actions.Store():
                self.spawn(self._store(action))
            case actions.StoreOutcome(rollout, outcome):
                self.spawn(self._keep(f"{rollout}.{outcome.node}", outcome))
            case actions.Look(node, app):
                self.spawn(self._look(node, app))
            case actions.Ask():
                self.spawn(self._ask(action))
            case actions.Emit():
                self.term.events.emit(action.kind, action.about, action.key, action.data, self.term.clock())
                self._log(action)

    def _log(self, event: actions.Emit) -> None:
        """Operators grep for these words."""
        data = event.data
        if event.kind == "rollout.failed" and isinstance(data, RolloutEvent):
            log.error("Deployment failed", extra=fields(rollout=data.rollout, why=data.reason))
        elif event.kind == "app.failed" and isinstance(data, AppEvent):
            log.warning(f"Device {data.node} failed", extra=fields(app=data.app, version=data.version, why=data.reason))

    # Writing.

    async def _assign(self, action: actions.Assign) -> None:
        key = f"{action.node}.{action.assignment.app}"
        try:
            async with self._writes:
                revision = await self._assigned.update(key, encode(action.assignment), action.revision)
        except Conflict:
            await self._look(action.node, action.assignment.app)
            return
        self._give(events.Assigned(action.node, action.assignment.app, action.assignment.order, revision))
        self._tell(action.node, action.assignment)

    def _tell(self, node: str, assignment: Assignment) -> None:
        """A device that does not hear it reads it when it registers, or is told again after its next report."""
        if self.term.may():
            self.term.bus.publish(subjects.command(node, "app"), encode(assignment))

    async def _look(self, node: str, app: str) -> None:
        entry = await self._assigned.get(f"{node}.{app}")
        told = None if entry is None else self._read(_assignment, streams.ASSIGNED, f"{node}.{app}", entry.value)
        self._give(events.AssignmentFound(node, app, told, entry.revision if entry else 0))

    async def _store(self, action: actions.Store) -> None:
        rollout = action.record.spec.id
        revision = await self._rollouts.update(rollout, encode(action.record), action.revision)
        self._give(events.Stored(rollout, revision))

    async def _keep(self, key: str, outcome: Outcome) -> None:
        async with self._writes:
            await self._rollouts.put(key, encode(outcome))

    async def _ask(self, action: actions.Ask) -> None:
        """Put it to the vote. Without an outcome the gate stays closed: an operator's promote opens it."""
        rollout = self.state.rollouts[action.rollout]
        voted = await vote(self.term, action, lambda: rollout.phase is RolloutPhase.GATED)
        if voted is not None:
            self._give(events.Promoted(action.rollout, *voted))

    # Requests.

    async def _plan(self, request: api.PlanRequest) -> Struct:
        return views.plan(self.state, request)

    async def _create(self, request: api.CreateRequest) -> Struct:
        check_version(request.version)
        async with self._shelf:
            known = self.state.rollouts.get(request.id)
            if known is not None:
                return views.row(self.state, known)
            await self._check_new(request.version)
            await self._apps.put(f"{request.version.app}.{request.version.version}", encode(request.version))
            spec = RolloutSpec(request.id, request.version, request.targets, request.strategy, request.by)
            self._give(events.Created(spec))
        return views.row(self.state, self._found(request.id))

    async def _check_new(self, version: AppVersion) -> None:
        """Raise Refusal, or BadInput, for what cannot be begun now."""
        old = self.state.current.get(version.app)
        if old is not None and old.phase is RolloutPhase.GOING_BACK:
            raise Refusal("busy", f"{old.id} is going back", "create this one once it has ended", "version")
        there = self.state.versions.get((version.app, version.version))
        if there is not None and there.artifact != version.artifact:
            raise Refusal(
                "bad-request", f"{version.app} {version.version} is there with other content",
                "give what changed a version of its own", "version",
            )  # fmt: skip
        if lacking := await self._artifacts.lacking(version):
            raise Refusal(
                "incomplete", f"{lacking} of the artifact's chunks are not in the store",
                "`fog rollout apply` sends what is not there", "version.artifact",
            )  # fmt: skip

    async def _gc(self, _request: api.GcRequest) -> Struct:
        return await self._sweep(0.0)

    async def _sweep_quietly(self) -> None:
        """Upkeep that fails is done the next time."""
        try:
            swept = await self._sweep(UNUSED_S)
        except FogError as error:
            log.warning("what no device needs could not be removed", extra=fields(error=error.message))
        else:
            if swept.more:
                self._sweep_at = self.term.clock()
            if swept.versions or swept.chunks:
                log.info("removed what no device needs", extra=fields(versions=swept.versions, chunks=swept.chunks))

    async def _sweep(self, unused_s: float) -> api.GcReply:
        """Versions first: what only they used is found unused then."""
        async with self._shelf:
            names = set(self.state.versions) - garbage.needed(self.state)
            for app, version in sorted(names):
                if not self.term.may():
                    break
                await self._apps.delete(f"{app}.{version}")
                self._give(events.VersionDropped(app, version))
            for rollout in garbage.old(self.state):
                await self._forget(rollout)
            before = await self._artifacts.bytes()
            keep = garbage.artifacts(self.state)
            chunks, more = (
                await self._artifacts.sweep(keep, self.term.clock(), unused_s) if self.term.may() else (0, False)
            )
            removed = before - await self._artifacts.bytes()
        return api.GcReply(tuple(" ".join(name) for name in sorted(names)), chunks, max(0, removed), more)

    async def _forget(self, rollout: Rollout) -> None:
        """Of an app the latest rollouts are kept. The record goes last: what a fault leaves is found, and removed again."""
        record = self._rollouts.subject(rollout.id)
        for subject in (f"{record}.*", record):  # its devices' outcomes
            if not self.term.may():
                return
            await jetstream.purge_subject(self.term.bus, f"KV_{streams.ROLLOUTS}", subject)
        self._give(events.RolloutDropped(rollout.id))

    async def _list(self, request: api.RolloutsRequest) -> Struct:
        return views.rows(self.state, request)

    async def _info(self, request: api.RolloutRequest) -> Struct:
        return views.info(self.state, self._found(request.rollout), request.page)

    async def _do_it(self, request: api.DoRequest) -> Struct:
        rollout = self._found(request.rollout)
        if request.do is api.Do.PROMOTE:
            if rollout.phase is not RolloutPhase.GATED:
                raise Refusal("done", f"{rollout.id} waits at no gate: it is {rollout.phase.value}", field="rollout")
            self._give(events.Promoted(rollout.id, reason=request.reason))
        else:
            what = TRIGGERS[request.do]
            nothing_failed = what is Trigger.RETRY and not again.failed(rollout)
            if what not in TABLE[rollout.phase] or nothing_failed:
                why = "none of its devices failed" if nothing_failed else f"it is {rollout.phase.value}"
                hint = AGAIN if nothing_failed and rollout.count(Stage.BACK) else ""
                raise Refusal("done", f"{rollout.id} cannot {request.do.value}: {why}", hint, "do")
            self._give(events.Asked(rollout.id, what, request.reason))
        return views.row(self.state, rollout)

    def _found(self, name: str) -> Rollout:
        rollout = views.find(self.state, name)
        if rollout is None:
            raise Refusal(
                "unknown-rollout", f"there is no rollout {name}", "`fog rollout history` lists them", "rollout"
            )
        return rollout


def facts_of(node: NodeView) -> Facts:
    """What the machine is told of a node."""
    return Facts(
        node.id, node.boot, node.state in (NodeState.ONLINE, NodeState.DRAINING), node.record.capabilities, node.device,
        node.record.offer.labels, node.record.offer.kinds, tuple(sorted(node.clusters)),
        trust(node.done, node.failed, pretending=node.record.capabilities.pretending).value,
        critical=node.power_mode == PowerMode.CRITICAL,
    )  # fmt: skip


def check_version(version: AppVersion) -> None:
    """Raise BadInput, by the field's name, for what no device should be told."""
    check_times(version.health)
    if isinstance(version.run, Service) and any(len(part) > limits.ERROR_MAX for part in version.run.argv):
        raise BadInput("run.argv", f"an argument is longer than {limits.ERROR_MAX} characters")
    if not version.key or not is_signed(
        version.key, signed_text(version.app, version.version, version.artifact), version.signature
    ):
        raise BadInput(
            "signature", "not made with the key that is named", hint="`fog rollout apply` signs what it sends"
        )
