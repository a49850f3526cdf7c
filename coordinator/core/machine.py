"""The coordinator's core: `step` takes an event and answers with actions, `pump` places what waits.

The shell feeds events in, and calls `pump` once after each batch. Taking over: `NodeKnown` for all nodes, `WorkFound` and
`OutcomeArrived` for what the streams hold, `ResultSeen` for what is done already, then `TakenOver`; nothing is placed before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.core import (
    dead,
    drains,
    ends,
    events,
    fleet,
    intake,
    judging,
    life,
    liveness,
    outcomes,
    parted,
    relayed,
    sleeps,
    tune,
    unclassed,
)
from coordinator.core.actions import Action, Emit
from coordinator.core.balance import relieve, shrink_chunks
from coordinator.core.placing import ask, pump
from coordinator.core.queue import measure_flow
from coordinator.core.reserve import reserve
from coordinator.core.state import NEVER, Coordinator, Out
from schemas.event import CoordinatorEvent

__all__ = ["Coordinator", "pump", "step"]

Handler = Callable[[Coordinator, Any, float, Out], None]


def step(state: Coordinator, event: events.Event, now: float) -> list[Action]:
    """Take one event; `now` is seconds since 1970 and never goes back."""
    out: Out = []
    HANDLERS[type(event)](state, event, now, out)
    return out


def taken_over(state: Coordinator, event: events.TakenOver, now: float, out: Out) -> None:
    """All that the streams held is known: from now on this coordinator acts."""
    state.name, state.term = event.coordinator, event.term
    state.taken_over_at = state.housekept_at = state.ticked_at = now
    liveness.expect_all(state, now, out)
    data = CoordinatorEvent(event.coordinator, event.term)
    out.append(Emit("coordinator.elected", event.coordinator, f"{event.coordinator}.{event.term}.elected", data))
    ask(state, now, out)
    state.ask_to_wake(out)


def tick(state: Coordinator, event: events.Tick, now: float, out: Out) -> None:
    """Time passed: do what is due."""
    state.wake_at = NEVER
    judging.notice_stall(state, now, out)
    state.run_timers(now, out)
    if now - state.housekept_at >= tune.HOUSEKEEPING_S:
        measure_flow(state, min(now - state.housekept_at, 60.0))
        state.housekept_at = now
        state.compact_timers()
        fleet.give_up_registrations(state, now)
        if state.term:
            reserve(state, now)
            shrink_chunks(state, now)
            relieve(state, now, out)
            unclassed.retry_unclassed(state, now, out)
    state.ask_to_wake(out)


HANDLERS: dict[type, Handler] = {
    events.TaskArrived: intake.task_arrived,
    events.TaskUnreadable: intake.task_unreadable,
    events.WorkFound: intake.work_found,
    events.OutcomeArrived: outcomes.outcome_arrived,
    events.Placed: life.placed,
    events.PlaceFailed: life.place_failed,
    events.SplitEnded: parted.split_ended,
    events.Concluded: ends.concluded,
    events.LettersFound: dead.letters_found,
    events.LettersAsked: dead.letters_asked,
    events.ResultSeen: ends.result_seen,
    events.ResultsAsked: life.results_asked,
    events.NodeRegistering: fleet.registering,
    events.NodeStored: fleet.stored,
    events.NodeConflicted: drains.conflicted,
    events.NodeKnown: fleet.known,
    events.Beat: fleet.beat,
    events.Relayed: relayed.relayed,
    events.Disconnected: liveness.disconnected,
    events.ProbeEnded: liveness.probe_ended,
    events.CommandEnded: drains.command_ended,
    events.CancelAsked: ends.cancel_asked,
    events.DrainAsked: drains.drain_asked,
    events.Clustered: fleet.clustered,
    events.SleepAsked: sleeps.sleep_asked,
    events.LinkLost: liveness.link_lost,
    events.LinkBack: liveness.link_back,
    events.TakenOver: taken_over,
    events.Tick: tick,
}
