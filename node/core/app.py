"""One app on this device: what it is told, what it does about it, and what it says. A pure machine: events in, actions out.

A version is fetched and installed beside the one that runs. A `Told.RUN` then ends the old one and starts the new one, a
`Told.WARM` starts it beside the old one, which `Told.SWITCH` ends. A version that does not become healthy by its deadline is
ended, and what was good before runs again: the device does not wait to be told that. Nothing half installed is ever started:
`Start` names only versions that `Fetched` named. What the owner's battery, heat or network does not allow is *deferred*.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from node.core.app_actions import Drop, EndFetch, Fetch, Keep, Kept, Out, Point, Report, Start, Stop
from schemas.rollout import AppReport, AppVersion, Assignment, DataOnly, Phase, ProcessCheck, Service, Told

JUDGED = (Phase.STARTING, Phase.UNHEALTHY, Phase.FAILED)  # of a version that runs: it is healthy when its checks say so
FETCH_AGAIN_S = (2.0, 300.0)  # after a download that failed: the first wait and the longest, doubled between


@dataclass
class Process:
    """One version that runs (or should). `up_at`: since when it is up, 0 while it is not; `good_at`: since when every check
    passed, 0 while one did not; `again_at`: when it is started again."""

    version: AppVersion
    up_at: float = 0.0
    good_at: float = 0.0
    again_at: float = 0.0
    wait_s: float = 0.0
    restarts: int = 0
    checks: int = 0
    failed: int = 0
    latency_ms: float = 0.0


@dataclass
class App:
    """The machine's state. `began_at`: when the install began that has a deadline (0: none is under way)."""

    kept: Kept
    not_now: str = ""  # why the owner's policy does not allow a download or an install now
    began_at: float = 0.0
    fetching: str = ""
    fetch_again_at: float = 0.0
    fetch_wait_s: float = 0.0
    got_bytes: int = 0
    reused_bytes: int = 0
    peer_bytes: int = 0
    processes: dict[str, Process] = field(default_factory=dict)

    # Events.

    def boot(self, now: float) -> Out:
        """The daemon starts: what ran runs again, whether or not a broker can be reached."""
        out: Out = []
        kept = self.kept
        for name in dict.fromkeys((kept.running, kept.warm)):
            version = kept.versions.get(name)
            if version is not None:
                self._start(version, now, out)
        if kept.running:
            out.append(Point(kept.running))
        under_way = kept.wanted != kept.running or kept.phase is Phase.STARTING
        if kept.wanted and under_way and kept.phase not in (Phase.FAILED, Phase.REMOVED):
            self._begin(now, out)
        elif kept.phase is Phase.HEALTHY and kept.running and self._is_service(kept.running):
            kept.phase = Phase.STARTING
            self.began_at = now
        return out

    def told(self, a: Assignment, now: float) -> Out:
        """An assignment: a lower order than one seen before is ignored."""
        kept = self.kept
        if a.order <= kept.order:
            return []
        out: Out = []
        kept.order, kept.told, kept.before = a.order, a.told, a.before
        if a.told is Told.REMOVE or a.version is None:
            self._remove(out)
        elif a.told is Told.SWITCH:
            self._switch(out)
        else:
            self._want(a.version, now, out)
        out += (Keep(), Report())
        return out

    def allowed(self, why_not: str, now: float) -> Out:
        """What the owner's policy says about installing now ("": go on)."""
        out: Out = []
        if why_not == self.not_now:
            return out
        self.not_now = why_not
        if not why_not and self.kept.phase is Phase.DEFERRED:
            self._begin(now, out)
        elif why_not and self.kept.phase is Phase.DOWNLOADING:
            self._defer(out)
        elif self.kept.phase is Phase.DEFERRED:
            self._become(Phase.DEFERRED, why_not, out)
        return out

    def fetched(self, name: str, now: float) -> Out:
        """A version is installed, whole and checked."""
        out: Out = []
        if name != self.fetching:
            return out
        self.fetching, self.fetch_wait_s = "", 0.0
        kept = self.kept
        if name != kept.wanted:
            return out
        version = kept.target
        assert version is not None
        kept.versions[name] = version
        kept.key = kept.key or version.key
        self._become(Phase.INSTALLING, "", out)
        if isinstance(version.run, DataOnly):
            self._take(name, out)
            if isinstance(version.health.check, ProcessCheck):
                self._healthy(name, out)
            else:
                self._become(Phase.STARTING, "", out)
                self.processes[name] = Process(version, up_at=now)
            return out
        if kept.running != name and kept.told is Told.WARM:
            kept.warm = kept.running
        elif kept.running != name:
            self._stop(kept.running, out)
        if kept.warm == name:
            kept.warm = ""
        self._take(name, out)
        if name not in self.processes:
            self._start(version, now, out)
        self._become(Phase.STARTING, "", out)
        return out

    def not_fetched(self, name: str, reason: str, passing: bool, now: float) -> Out:
        """A download or install failed; tried again later unless the reason lasts (a wrong signature, no such artifact)."""
        out: Out = []
        if name != self.fetching:
            return out
        self.fetching = ""
        if name != self.kept.wanted:
            return out
        if not passing:
            self._fail(reason, now, out)
            return out
        self.fetch_wait_s = min(2 * self.fetch_wait_s or FETCH_AGAIN_S[0], FETCH_AGAIN_S[1])
        self.fetch_again_at = now + self.fetch_wait_s
        self._become(Phase.DOWNLOADING, reason, out)
        return out

    def ended(self, name: str, how: str, now: float) -> Out:
        """A process ended by itself."""
        out: Out = []
        process = self.processes.get(name)
        if process is None or not isinstance(process.version.run, Service):
            return out
        run = process.version.run
        lasted_s = now - process.up_at if process.up_at else 0.0
        process.up_at = process.good_at = 0.0
        process.restarts += 1
        first = not process.wait_s or lasted_s >= 10 * run.restart_max_s
        process.wait_s = run.restart_s if first else min(2 * process.wait_s, run.restart_max_s)
        process.again_at = now + process.wait_s
        if name == self.kept.running:
            self._unwell(f"it ended: {how}", out)
        return out

    def checked(self, name: str, reason: str, took_ms: float, now: float) -> Out:
        """A health check was made; `reason` is "" when it passed."""
        out: Out = []
        process = self.processes.get(name)
        if process is None or not process.up_at:
            return out
        process.checks += 1
        process.latency_ms += (took_ms - process.latency_ms) / min(process.checks, 10)
        if reason:
            process.failed += 1
            process.good_at = 0.0
            if name == self.kept.running:
                self._unwell(f"its check failed: {reason}", out)
            return out
        process.good_at = process.good_at or now
        # The version before is checked too, while the wanted one is on its way and after that was given up.
        if name == self.kept.running == self.kept.wanted and self.kept.phase in JUDGED:
            long_enough = now - process.good_at >= process.version.health.min_healthy_s
            if long_enough or isinstance(process.version.run, DataOnly):
                self._healthy(name, out)
        return out

    def tick(self, now: float) -> Out:
        """Time passed: start again what is due, download again, give up what is overdue."""
        out: Out = []
        kept = self.kept
        for process in list(self.processes.values()):
            if process.again_at and now >= process.again_at:
                process.again_at = 0.0
                process.up_at = now
                out.append(Start(process.version))
        if self.fetch_again_at and now >= self.fetch_again_at and kept.phase is Phase.DOWNLOADING and not self.fetching:
            self.fetch_again_at = 0.0
            self._fetch(out)
        aim = kept.target or kept.versions.get(kept.running)
        overdue = aim is not None and self.began_at and now - self.began_at > aim.health.healthy_deadline_s
        if overdue and kept.phase not in (Phase.HEALTHY, Phase.DEFERRED, Phase.REMOVED, Phase.FAILED):
            self._fail(kept.reason or f"not healthy in time: it was {kept.phase.value}", now, out)
        return out

    # What follows.

    def _want(self, version: AppVersion, now: float, out: Out) -> None:
        kept = self.kept
        kept.target = version
        held = kept.versions.get(version.version)
        same = held is not None and held.artifact == version.artifact and held.run == version.run
        if same and kept.running == version.version and kept.phase is Phase.HEALTHY:
            kept.versions[version.version] = version  # it stays as it is: nothing healthy is started anew
        elif kept.key and version.key != kept.key:
            self._fail("signed with another key than the version before", now, out)
        else:
            self._begin(now, out)

    def _begin(self, now: float, out: Out) -> None:
        """Bring the target here: at once where it is installed already, else by a download, if that is allowed now."""
        target = self.kept.target
        if target is None:
            return
        if self._is_here(target):
            self.began_at, self.fetching = now, target.version
            out += self.fetched(target.version, now)
        elif self.not_now:
            self._defer(out)
        else:
            self.began_at = now
            self._become(Phase.DOWNLOADING, "", out)
            self._fetch(out)

    def _is_here(self, version: AppVersion) -> bool:
        held = self.kept.versions.get(version.version)
        return held is not None and held.artifact == version.artifact

    def _fetch(self, out: Out) -> None:
        target = self.kept.target
        if target is not None and self.fetching != target.version:
            self.fetching = target.version
            self.got_bytes = self.reused_bytes = self.peer_bytes = 0
            out.append(Fetch(target))

    def _end_fetch(self, out: Out) -> None:
        if self.fetching:
            self.fetching = ""
            out.append(EndFetch())

    def _defer(self, out: Out) -> None:
        self.began_at = 0.0
        self._end_fetch(out)
        self._become(Phase.DEFERRED, self.not_now, out)

    def _take(self, name: str, out: Out) -> None:
        """This version is the one from now on."""
        self.kept.running = name
        out.append(Point(name))

    def _start(self, version: AppVersion, now: float, out: Out) -> None:
        if isinstance(version.run, Service):
            self.processes[version.version] = Process(version, up_at=now)
            out.append(Start(version))

    def _stop(self, name: str, out: Out) -> None:
        if self.processes.pop(name, None) is not None and self._is_service(name):
            out.append(Stop(name))

    def _is_service(self, name: str) -> bool:
        version = self.kept.versions.get(name)
        return version is not None and isinstance(version.run, Service)

    def _healthy(self, name: str, out: Out) -> None:
        kept = self.kept
        before, kept.good = kept.good, name
        self.began_at = 0.0
        if isinstance(kept.versions[name].run, DataOnly):
            self.processes.pop(name, None)
        self._become(Phase.HEALTHY, "", out)
        for other in [v for v in kept.versions if v not in (name, before or kept.before, kept.before, kept.warm)]:
            del kept.versions[other]
            out.append(Drop(other))

    def _unwell(self, reason: str, out: Out) -> None:
        if self.kept.phase is Phase.HEALTHY:
            self._become(Phase.UNHEALTHY, reason, out)
        elif self.kept.phase in (Phase.STARTING, Phase.UNHEALTHY):
            self.kept.reason = reason

    def _fail(self, reason: str, now: float, out: Out) -> None:
        """Give the wanted version up, and run again what was good, if that is another one."""
        kept = self.kept
        self.began_at = 0.0
        self._end_fetch(out)
        back = kept.good if kept.good in kept.versions and kept.good != kept.wanted else ""
        if kept.running == kept.wanted != "":
            if kept.good != kept.wanted:  # one that was healthy once is kept going: there is nothing better here
                self._stop(kept.wanted, out)
                kept.running = ""
        elif kept.wanted in self.processes:
            self._stop(kept.wanted, out)
        if back and kept.running != back:
            self._take(back, out)
            if back not in self.processes:
                self._start(kept.versions[back], now, out)
        elif not back and not kept.running:
            out.append(Point(""))
        kept.warm = ""
        self._become(Phase.FAILED, reason, out)

    def _switch(self, out: Out) -> None:
        if self.kept.warm:
            self._stop(self.kept.warm, out)
            self.kept.warm = ""

    def _remove(self, out: Out) -> None:
        kept = self.kept
        for name in list(self.processes):
            self._stop(name, out)
        self.began_at = 0.0
        self._end_fetch(out)
        kept.target = None
        kept.running = kept.good = kept.warm = ""
        kept.versions = {}
        out += (Point(""), Drop(""))
        self._become(Phase.REMOVED, "", out)

    def _become(self, phase: Phase, reason: str, out: Out) -> None:
        if (self.kept.phase, self.kept.reason) != (phase, reason):
            self.kept.phase, self.kept.reason = phase, reason
            out += (Keep(), Report())

    # What is said.

    def report(self, node: str, boot: int) -> AppReport:
        """How it is now; the shell adds the figures."""
        kept = self.kept
        return AppReport(
            node, boot, kept.app, kept.order, kept.phase, kept.wanted, kept.running, kept.good, kept.reason[:300],
            self.got_bytes, self.reused_bytes, peer_bytes=self.peer_bytes,
        )  # fmt: skip
