"""Which versions are still needed: everything that a device may yet fetch or go back to. The rest may be removed."""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.core.rollouts.state import Rollout, Rollouts
from schemas.rollout import AppVersion
from schemas.rollout_state import RolloutPhase

Name = tuple[str, str]  # (app, version)
HISTORY_KEPT = 50  # rollouts of each app
STABLE_KEPT = 2  # of each app, the latest versions whose rollout succeeded: the stable one and the one before


def old(state: Rollouts) -> list[Rollout]:
    """Rollouts that have ended, beyond the `HISTORY_KEPT` latest of their app, that tell of no stable version, and under
    which no device was told what it has: nothing that is decided looks at them."""
    told = {told.assignment.rollout for told in state.told.values() if told.assignment is not None}
    found = []
    for app in state.current:
        stable = list(_stable(state, app))
        late = state.history(app)[HISTORY_KEPT:]
        found += [r for r in late if not r.active and r.id not in told and r.record.spec.version not in stable]
    return found


def needed(state: Rollouts) -> set[Name]:
    """Of each app: the version of its latest rollout (also a failed one may be tried again), the stable and the previous
    one, and what any device is told to have, was told to return to, runs, or calls good."""
    return {(version.app, version.version) for version in _whole(state)} | set(_named(state))


def artifacts(state: Rollouts) -> set[str]:
    """The digests of the artifacts of what is needed."""
    found = {version.artifact for version in _whole(state)}
    return found | {state.versions[name].artifact for name in _named(state) if name in state.versions}


def _whole(state: Rollouts) -> Iterator[AppVersion]:
    for rollout in state.rollouts.values():
        if rollout.active or state.current.get(rollout.app) is rollout:
            yield rollout.record.spec.version
    for app in state.current:
        yield from _stable(state, app)
    for told in state.told.values():
        if told.assignment is not None and told.assignment.version is not None:
            yield told.assignment.version


def _stable(state: Rollouts, app: str) -> Iterator[AppVersion]:
    seen: set[str] = set()
    for rollout in state.history(app):
        version = rollout.record.spec.version
        if rollout.phase is RolloutPhase.SUCCEEDED and version.version not in seen and len(seen) < STABLE_KEPT:
            seen.add(version.version)
            yield version


def _named(state: Rollouts) -> Iterator[Name]:
    for (_, app), told in state.told.items():
        if told.assignment is not None:
            yield app, told.assignment.before
    for (_, app), said in state.reports.items():
        yield from ((app, name) for name in (said.version, said.running, said.good))
