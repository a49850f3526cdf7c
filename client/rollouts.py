"""`fleet.rollouts`: bring a version of an app to many devices, watch it, and have it go back.

>>> app = client.app_file.read(Path("APP.toml"))
>>> row = await fleet.rollouts.apply(app)
>>> async for info in fleet.rollouts.watch(row.id):
...     print(info.row.phase, info.row.stages)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sized
from pathlib import Path

from msgspec import Struct, structs

from client.api import Api
from client.app_file import AppFile
from client.artifacts import OnProgress, Packed, Progress, missing, pack, send
from client.signing import SigningKey, signing_key
from schemas import rollout_api as api
from schemas import streams
from schemas.artifact import signed_text
from schemas.bus import Bus
from schemas.codec import Decoder
from schemas.errors import BadInput, Refused, Unreachable
from schemas.kv import Kv
from schemas.limits import PAGE, REASON_MAX
from schemas.names import check_id, new_id
from schemas.rollout import AppVersion, Strategy, StrategyKind, Targets
from schemas.rollout_api import Do
from schemas.rollout_state import ENDED, RolloutPhase, Stage
from schemas.store import Store

LOOK_S = 0.5  # between two looks at a rollout that is watched
CREATE_S = 30.0  # the coordinator looks whether the artifact is whole
TRIES = 3  # of sending what the store lacks
INCOMPLETE = "incomplete"
AT_ONCE = Strategy(
    StrategyKind.ROLLING, max_concurrent=10_000, between_s=0.0, max_failed_share=1.0, rollback_on_failure=False
)
_version: Decoder[AppVersion] = Decoder(AppVersion)


class Plan(Struct, frozen=True):
    """What would happen. `rows` are all targets; `send_bytes` of `artifact_bytes` are to be sent."""

    app: str
    version: str
    artifact: str
    artifact_bytes: int
    send_bytes: int
    rows: tuple[api.PlanRow, ...]
    counts: dict[str, int]
    first_batch: int
    replaces: str

    @property
    def possible(self) -> int:
        """Devices that take it now or later."""
        return self.counts.get("yes", 0) + self.counts.get("deferred", 0)


class Rollouts:
    """The rollouts of one fleet. A `name` is a rollout's id, or an app's for its latest.

    Refused (``unknown-rollout``, ``done``, ``busy``, ``bad-request``) says why not.
    """

    def __init__(self, bus: Bus, store: Store, calls: Api, by: str, home: Path) -> None:
        self._bus, self._api, self._by, self._home = bus, calls, by, home
        self._apps = Kv(bus, store, streams.APPS)

    # A version out.

    def key(self) -> SigningKey:
        """The key that signs what is rolled out from this home; made now if there is none."""
        return signing_key(self._home)

    async def plan(self, app: AppFile) -> Plan:
        """Who would get this version now, who later, who not and why. Nothing is sent, and nothing changes."""
        packed = await asyncio.to_thread(pack, app.path)
        lacking = await missing(self._bus, packed)
        version = self._version_of(app, packed)
        rows: list[api.PlanRow] = []
        while True:
            request = api.PlanRequest(version, app.targets, app.strategy, page=_page(rows))
            reply = await self._api.call("rollout", "plan", request, api.PlanReply)
            rows += reply.rows
            if not reply.more:
                break
        to_send = sum(piece.size for digest, piece in packed.pieces.items() if digest in lacking)
        return Plan(
            app.app, app.version, packed.name, packed.size, to_send, tuple(rows), reply.counts, reply.first_batch,
            reply.replaces,
        )  # fmt: skip

    async def apply(
        self, app: AppFile, *, rollout: str = "", on_progress: OnProgress | None = None
    ) -> tuple[api.RolloutRow, Progress]:
        """Send what the store lacks of the artifact, sign the version, and begin its rollout; the same `rollout` id again
        is the same rollout. Returns once the coordinator has it in hand."""
        packed = await asyncio.to_thread(pack, app.path)
        key = await asyncio.to_thread(self.key)
        version = self._version_of(app, packed, key)
        request = api.CreateRequest(_rollout_id(rollout), version, app.targets, app.strategy, self._by)
        for left in reversed(range(TRIES)):
            progress = await send(self._bus, packed, on_progress)
            try:
                return await self._api.call("rollout", "create", request, api.RolloutRow, CREATE_S), progress
            except Refused as error:
                if error.code != INCOMPLETE or not left:  # what was unused was removed meanwhile
                    raise
        raise AssertionError("the last try returns or raises")

    def _version_of(self, app: AppFile, packed: Packed, key: SigningKey | None = None) -> AppVersion:
        version = AppVersion(app.app, app.version, packed.name, packed.size, app.run, app.needs, app.health)
        if key is None:
            return version
        signature = key.sign(signed_text(app.app, app.version, packed.name))
        return structs.replace(version, key=key.public, signature=signature)

    async def rollback_to(self, app: str, version: str, *, rollout: str = "") -> api.RolloutRow:
        """Bring a version that is still kept to the devices that the app's latest rollout was for, all of them at once.

        Raises Refused (``unknown-version``), naming those that are kept.
        """
        stored = await self.version(app, version)
        targets = await self._targets(app)
        request = api.CreateRequest(_rollout_id(rollout), stored, targets, AT_ONCE, self._by)
        return await self._api.call("rollout", "create", request, api.RolloutRow, CREATE_S)

    async def _targets(self, app: str) -> Targets:
        try:
            info = await self._api.call("rollout", "info", api.RolloutRequest(app), api.RolloutInfo)
        except Refused as error:
            if error.code != "unknown-rollout":
                raise
            return Targets()
        return info.record.spec.targets

    # What is kept.

    async def version(self, app: str, version: str) -> AppVersion:
        """A version as it was rolled out. Raises Refused (``unknown-version``)."""
        found = await self.versions(check_id("app", app))
        if version not in found:
            kept = ", ".join(sorted(found)) or "none"
            raise Refused("unknown-version", f"no version {version} of {app} is kept", hint=f"these are: {kept}")
        return found[version]

    async def versions(self, app: str) -> dict[str, AppVersion]:
        """The versions of an app that are kept, by name."""
        prefix = f"{check_id('app', app)}."
        entries = await self._apps.all()
        return {key[len(prefix) :]: _version(e.value) for key, e in entries.items() if key.startswith(prefix)}

    async def list(self, app: str = "") -> list[api.RolloutRow]:
        """Every rollout, the latest first; of one app or of all."""
        rows: list[api.RolloutRow] = []
        while True:
            request = api.RolloutsRequest(check_id("app", app) if app else "", _page(rows))
            reply = await self._api.call("rollout", "list", request, api.RolloutsReply)
            rows += reply.rows
            if not reply.more:
                return rows

    async def status(self, name: str) -> api.RolloutInfo:
        """A rollout with all of its devices."""
        info = await self._info(name)
        devices = list(info.devices)
        while info.more:
            info = await self._info(info.row.id, _page(devices))
            devices += info.devices
        return structs.replace(info, devices=tuple(devices))

    async def _info(self, name: str, page: int = 0) -> api.RolloutInfo:
        request = api.RolloutRequest(check_id("rollout", name), page)
        return await self._api.call("rollout", "info", request, api.RolloutInfo)

    async def watch(self, name: str) -> AsyncIterator[api.RolloutInfo]:
        """The rollout now and whenever its phase or a count changes, until it is `settled`; with the first page of its
        devices. It goes on over the death of a coordinator."""
        told: tuple[object, ...] = ()
        name = (await self._info(name)).row.id  # an app's name may mean another one later
        while True:
            try:
                info = await self._info(name)
            except Unreachable:
                continue  # a takeover; `call` has waited already
            now = (info.row.phase, info.row.batch, info.row.stages, info.row.reason)
            if now != told:
                told = now
                yield info
            if settled(info):
                return
            await asyncio.sleep(LOOK_S)

    # What operators want.

    async def pause(self, name: str, reason: str = "") -> api.RolloutRow:
        """Tell nobody new; what is on its way goes on."""
        return await self._do(name, Do.PAUSE, reason)

    async def resume(self, name: str, reason: str = "") -> api.RolloutRow:
        """Go on where it was paused."""
        return await self._do(name, Do.RESUME, reason)

    async def promote(self, name: str, reason: str = "") -> api.RolloutRow:
        """Open the gate that waits for somebody to agree."""
        return await self._do(name, Do.PROMOTE, reason)

    async def abort(self, name: str, reason: str = "") -> api.RolloutRow:
        """End it, and bring every touched device back to what was good on it."""
        return await self._do(name, Do.ABORT, reason)

    async def retry_failed(self, name: str, reason: str = "") -> api.RolloutRow:
        """Try the failed devices again: only them, or, where everybody was brought back, them first and alone."""
        return await self._do(name, Do.RETRY_FAILED, reason)

    async def rollback(self, name: str, reason: str = "") -> api.RolloutRow:
        """Bring every device that it touched back to what was good on it before, directly; also after it ended."""
        return await self._do(name, Do.ROLLBACK, reason)

    async def gc(self) -> api.GcReply:
        """Remove now what no device needs any more, versions and their chunks; all that there is."""
        sums = api.GcReply()
        while True:
            done = await self._api.call("rollout", "gc", api.GcRequest(), api.GcReply, CREATE_S)
            sums = api.GcReply(sums.versions + done.versions, sums.chunks + done.chunks, sums.bytes + done.bytes)
            if not done.more:
                return sums

    async def _do(self, name: str, do: Do, reason: str) -> api.RolloutRow:
        if len(reason) > REASON_MAX:
            raise BadInput("reason", f"is longer than {REASON_MAX} characters")
        return await self._api.call(
            "rollout", "do", api.DoRequest(check_id("rollout", name), do, reason), api.RolloutRow
        )


def settled(info: api.RolloutInfo) -> bool:
    """Whether nothing goes on: it has ended, or only devices that are late are still to come."""
    busy = any(info.row.stages.get(stage.value) for stage in (Stage.WAITING, Stage.TOLD, Stage.RETURNING))
    return info.row.phase in ENDED or (info.row.phase is RolloutPhase.CATCHING_UP and not busy)


def went_well(row: api.RolloutRow) -> bool:
    """Whether a settled rollout brought its version out."""
    return row.phase in (RolloutPhase.SUCCEEDED, RolloutPhase.CATCHING_UP)


def _rollout_id(given: str) -> str:
    return check_id("rollout", given) if given else new_id("rollout")


def _page(rows: Sized) -> int:
    return len(rows) // PAGE
