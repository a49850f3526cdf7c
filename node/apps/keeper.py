"""Carries out what the apps' machines decide, and tells the coordinator how they are.

What ran before runs again from `open` on, before and without any broker. `attach` joins it to one; after each registration it
reads what this device is told (FOG_assigned, under its own name), so that no command has to arrive.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec import structs

from node.apps.checks import check
from node.apps.disk import Disk
from node.apps.fetch import Fetcher, Progress, Unfit
from node.apps.process import Running
from node.apps.shelf import Shelf
from node.beside import Beside
from node.context import Context
from node.core.app import App
from node.core.app_actions import Action, Drop, EndFetch, Fetch, Keep, Kept, Point, Report, Start, Stop
from schemas import jetstream, limits, streams, subjects
from schemas.advice import Advice
from schemas.codec import Decoder, encode
from schemas.device import HOT
from schemas.errors import BadInput, FogError
from schemas.logs import fields
from schemas.names import check_id
from schemas.rollout import AppFigures, AppVersion, Assignment, DataOnly, Service

log = logging.getLogger("fog.node.apps")

APPS_ENV = "FOG_APPS"  # tells functions where the apps' folder is, see `node.app_path`
TICK_S = 0.25
WRITE_AGAIN_S = 5.0  # after the disk took no state of an app
MEASURE_S = 2.0  # between two looks at what a running version takes
APPS_MAX = 100  # on one device
NOT_ALLOWED = "its owner does not allow services or checks by a command here: `fog node --allow app`"

_assignment = Decoder(Assignment)


class Apps:
    """All apps of this device. `services`: whether its owner lets them run processes."""

    def __init__(self, folder: Path, *, services: bool) -> None:
        self._disk = Disk(folder)
        self.shelf = Shelf(self._disk)
        self._services = services
        self._apps: dict[str, App] = {}
        self._any = asyncio.Event()  # a device without an app is not woken
        self._running: dict[tuple[str, str], Running] = {}
        self._measured: dict[tuple[str, str], tuple[float, float, float]] = {}  # when, percent, MiB
        self._checking: set[tuple[str, str]] = set()
        self._check_at: dict[tuple[str, str], float] = {}
        self._fetches: dict[str, asyncio.Task[None]] = {}
        self._beside = Beside(log, "an app's step failed")
        self._ending: dict[str, asyncio.Task[None]] = {}  # of each app, the process that is being stopped
        self._context: Context | None = None
        self._fetcher: Fetcher | None = None
        self._said_at: dict[str, float] = {}
        self._not_now = ""
        self._unwritten: dict[tuple[str, type[Action]], Callable[[], None]] = {}  # what the disk did not take
        self._write_at = 0.0
        self._ticker: asyncio.Task[None] | None = None
        os.environ[APPS_ENV] = str(folder)

    # Life.

    async def open(self) -> None:
        """Start what ran."""
        found, problems = await asyncio.to_thread(self._disk.load)
        for problem in problems:
            log.error("an app's state cannot be used", extra=fields(problem=problem))
        for kept in found:
            app = self._apps[kept.app] = App(kept)
            self._any.set()
            self._do(app, app.boot(time.time()))
        await asyncio.to_thread(self.shelf.look)
        self._ticker = asyncio.get_running_loop().create_task(self._tick())

    def attach(self, context: Context, fetcher: Callable[[Disk, Shelf], Fetcher]) -> None:
        """A broker can be reached (or will be)."""
        self._context, self._fetcher = context, fetcher(self._disk, self.shelf)
        for app in self._apps.values():
            if app.fetching:
                self._fetch(app, Fetch(app.kept.target)) if app.kept.target else None

    async def close(self) -> None:
        """End every process; what ran runs again at the next start."""
        if self._ticker is not None:
            self._ticker.cancel()
        for task in self._fetches.values():
            task.cancel()
        self._beside.cancel()
        await asyncio.gather(*(running.stop() for running in self._running.values()), return_exceptions=True)

    # What is told.

    def on_assignment(self, data: bytes) -> None:
        """A command on ``node.<id>.app``. Raises BadInput."""
        self._take(_assignment(data))

    async def read_assigned(self) -> None:
        """Read everything that this device is told; say how every app is. Raises FogError."""
        assert self._context is not None
        prefix = f"$KV.{streams.ASSIGNED}.{self._context.node}."
        for message in await jetstream.read_all(self._context.bus, f"KV_{streams.ASSIGNED}", prefix + ">"):
            if message.data:
                try:
                    self._take(_assignment(message.data))
                except BadInput as error:
                    self._context.note_bad(message.subject, error)
        for app in self._apps.values():
            self._say(app)

    def _take(self, assignment: Assignment) -> None:
        check_id("app", assignment.app)
        app = self._apps.get(assignment.app)
        if app is None:
            if len(self._apps) >= APPS_MAX:
                raise BadInput("app", f"this device has {APPS_MAX} apps, which is its limit")
            app = self._apps[assignment.app] = App(Kept(assignment.app), self._not_now)
            self._any.set()
        if assignment.version is not None and assignment.version.app != assignment.app:
            raise BadInput("version.app", "not the one that the assignment is about")
        self._do(app, app.told(assignment, time.time()))

    def heed(self, advice: Advice) -> None:
        """A device that should take no work, or is hot, downloads and installs nothing; it goes on once that has passed."""
        self._not_now = why_not(advice)
        for app in self._apps.values():
            self._do(app, app.allowed(self._not_now, time.time()))

    # What is done.

    def _do(self, app: App, actions: list[Action]) -> None:
        name = app.kept.app
        keep = any(isinstance(action, Keep) for action in actions)
        for action in actions:
            match action:
                case Fetch():
                    self._fetch(app, action)
                case EndFetch():
                    self._end_fetch(name)
                case Start(version):
                    self._start(app, version)
                case Stop(version):
                    self._stop(name, version)
                case Point(version):
                    self._write(name, Point, partial(self._disk.point, name, app.kept.versions.get(version)))
                case Drop():
                    self._beside.begin(self._drop(app))
        if keep:
            self._write(name, Keep, partial(self._disk.keep, app.kept))
        if any(isinstance(action, Report) for action in actions):
            self._say(app)

    def _write(self, app: str, what: type[Action], write: Callable[[], None]) -> None:
        """A full disk stops neither what runs nor the rest of what was decided; a restart before there is room reads what this
        device is told anew."""
        self._unwritten.pop((app, what), None)  # an older one
        try:
            write()
        except OSError as error:
            log.error("an app's state is not written", extra=fields(app=app, why=error.strerror or str(error)))
            self._unwritten[app, what] = write

    def _write_again(self, ticks: float) -> None:
        if self._unwritten and ticks >= self._write_at:
            self._write_at = ticks + WRITE_AGAIN_S
            for (app, what), write in list(self._unwritten.items()):
                self._write(app, what, write)

    def _fetch(self, app: App, action: Fetch) -> None:
        self._end_fetch(app.kept.app)
        if self._fetcher is not None:  # else `attach` does
            task = asyncio.get_running_loop().create_task(self._bring(app, action.version, self._fetcher))
            self._fetches[app.kept.app] = task

    def _end_fetch(self, app: str) -> None:
        old = self._fetches.pop(app, None)
        if old is not None:
            old.cancel()

    async def _bring(self, app: App, version: AppVersion, fetcher: Fetcher) -> None:
        def tell(progress: Progress) -> None:
            app.got_bytes, app.reused_bytes, app.peer_bytes = progress.got, progress.reused, progress.from_peers

        now, name = time.time, version.version
        try:
            if version.starts_processes and not self._services:
                raise Unfit(NOT_ALLOWED)
            await fetcher.fetch(version, tell)
        except Unfit as error:
            self._do(app, app.not_fetched(name, error.message, False, now()))
        except (FogError, OSError) as error:
            why = error.message if isinstance(error, FogError) else f"the disk: {error.strerror or error}"
            log.warning("a download is tried again later", extra=fields(app=app.kept.app, version=name, why=why))
            self._do(app, app.not_fetched(name, why, True, now()))
        except Exception as error:
            log.exception("an install failed", extra=fields(app=app.kept.app, version=name))
            self._do(app, app.not_fetched(name, f"the install failed: {error}", False, now()))
        else:
            of = {"bytes": app.got_bytes, "reused": app.reused_bytes, "from_peers": app.peer_bytes}
            log.info("an app is installed", extra=fields(app=app.kept.app, version=name, **of))
            self._do(app, app.fetched(name, now()))

    def _start(self, app: App, version: AppVersion) -> None:
        """Start a version, once what is being stopped is gone: it may hold the same port."""
        ending = self._ending.get(app.kept.app)
        if ending is not None and not ending.done():
            self._beside.begin(self._start_after(ending, app, version))
        else:
            self._start_now(app, version)

    async def _start_after(self, ending: asyncio.Task[None], app: App, version: AppVersion) -> None:
        await asyncio.wait({ending})
        if version.version in app.processes:
            self._start_now(app, version)

    def _start_now(self, app: App, version: AppVersion) -> None:
        assert isinstance(version.run, Service)
        key = (app.kept.app, version.version)
        output = self._disk.root / app.kept.app / f"{version.version}.log"

        def on_end(how: str) -> None:
            self._running.pop(key, None)
            log.warning("an app ended", extra=fields(app=key[0], version=key[1], how=how))
            self._do(app, app.ended(version.version, how, time.time()))

        try:
            running = Running(*key, version.run, self._disk.folder(version), output, on_end)
        except OSError as error:
            how = f"it cannot be started: {error.strerror or error}"
            asyncio.get_running_loop().call_soon(on_end, how)
            return
        self._running[key] = running
        self._check_at[key] = time.monotonic() + version.health.interval_s

    def _stop(self, app: str, version: str) -> None:
        running = self._running.pop((app, version), None)
        if running is not None:
            self._ending[app] = self._beside.begin(running.stop())

    async def _drop(self, app: App) -> None:
        """Remove what is not kept, once what is being stopped is gone; the app may have been told to run again meanwhile."""
        kept = app.kept
        ending = self._ending.get(kept.app)
        if ending is not None:
            await asyncio.wait({ending})
        for table in (self._measured, self._check_at):
            for key in [key for key in table if key[0] == kept.app and key[1] not in app.processes]:
                del table[key]
        keep = {self._disk.folder(one).name for one in (*kept.versions.values(), kept.target) if one is not None}
        await asyncio.to_thread(self._remove, kept.app, keep)

    def _remove(self, app: str, keep: set[str]) -> None:
        self._disk.drop(app, keep)
        self.shelf.look()

    # Time.

    async def _tick(self) -> None:
        while True:
            await self._any.wait()
            await asyncio.sleep(TICK_S)
            try:
                self._look(time.time(), time.monotonic())
            except Exception:
                log.exception("looking at the apps failed")

    def _look(self, now: float, ticks: float) -> None:
        self._write_again(ticks)
        for app in list(self._apps.values()):
            self._do(app, app.tick(now))
            for name, process in list(app.processes.items()):
                key = (app.kept.app, name)
                due = ticks >= self._check_at.get(key, 0.0)
                up = key in self._running or isinstance(process.version.run, DataOnly)
                if up and due and key not in self._checking:
                    self._check_at[key] = ticks + process.version.health.interval_s
                    self._checking.add(key)
                    self._beside.begin(self._check(app, process.version))
            if now - self._said_at.get(app.kept.app, 0.0) >= limits.APP_REPORT_S:
                self._say(app)
        for key, running in list(self._running.items()):
            if ticks - self._measured.get(key, (0.0, 0.0, 0.0))[0] >= MEASURE_S:
                self._measured[key] = (ticks, *running.measure(ticks))

    async def _check(self, app: App, version: AppVersion) -> None:
        key = (app.kept.app, version.version)
        begun = time.monotonic()
        try:
            reason = await check(version, self._disk.folder(version))
        finally:
            self._checking.discard(key)
        self._do(app, app.checked(version.version, reason, 1000 * (time.monotonic() - begun), time.time()))

    # What is said.

    def _say(self, app: App) -> None:
        context = self._context
        if context is None or not context.boot or not app.kept.order:
            return
        self._said_at[app.kept.app] = time.time()
        report = structs.replace(app.report(context.node, context.boot), figures=self._figures(app))
        context.bus.publish(subjects.app_report(context.node, app.kept.app), encode(report))

    def _figures(self, app: App) -> AppFigures:
        process = app.processes.get(app.kept.running)
        if process is None:
            return AppFigures()
        _, percent, mib = self._measured.get((app.kept.app, app.kept.running), (0.0, 0.0, 0.0))
        up_s = time.time() - process.up_at if process.up_at else 0.0
        return AppFigures(
            round(up_s, 1), process.restarts, process.checks, process.failed, round(process.latency_ms, 2),
            round(percent, 1), round(mib, 1),
        )  # fmt: skip


def why_not(advice: Advice) -> str:
    """Why a device with this advice installs nothing now; "" when it may."""
    if not advice.takes_work:
        return advice.reasons[0] if advice.reasons else f"its power mode is {advice.power_mode}"
    return f"it is {advice.thermal_state}" if advice.thermal_state in HOT else ""
