"""Every subject of the wire, in one place. Build them here; never write ``fog.v1`` anywhere else."""

from __future__ import annotations

import re
from functools import cache

ROOT = "fog.v1"
WAITING = "_waiting"  # the pseudo node that holds what fits nowhere; no id can be this


def heartbeat(node: str) -> str:
    """Core NATS: `membership.Heartbeat`."""
    return f"{ROOT}.heartbeat.{node}"


def digest(leader: str) -> str:
    """Request: `relay.Digest`, answered by `relay.DigestAck`."""
    return f"{ROOT}.digest.{leader}"


def register(node: str) -> str:
    """Request: `membership.Register`, answered by `membership.Registered`."""
    return f"{ROOT}.register.{node}"


def command(node: str, verb: str) -> str:
    """Request to a node: `membership.NodeCommand`, answered by `membership.NodeAnswer`."""
    return f"{ROOT}.node.{node}.{verb}"


def submit(priority: int, submitter: str, task: str) -> str:
    """FOG_TASKS: `task.Task`."""
    return f"{_submits(priority)}{submitter}.{task}"


@cache
def _submits(priority: int) -> str:
    """Kept: writing out an enum's number costs as much as three whole subjects."""
    return f"{ROOT}.task.submit.{priority:d}."


def submitted(task: str) -> str:
    """The subjects, whatever the priority and the submitter, under which FOG_TASKS may hold a task."""
    return f"{ROOT}.task.submit.*.*.{task}"


def work(node: str, task: str) -> str:
    """FOG_WORK: `task.Work`."""
    return f"{ROOT}.work.{node}.{task}"


def outcome(node: str, task: str) -> str:
    """FOG_OUTCOMES: `task.Outcome`."""
    return f"{ROOT}.outcome.{node}.{task}"


def result(submitter: str, task: str) -> str:
    """FOG_RESULTS: `task.Result`; nobody listens here, see `done`."""
    return f"{ROOT}.result.{submitter}.{task}"


def done(submitter: str, task: str) -> str:
    """What FOG_RESULTS stored, republished by the broker."""
    return f"{ROOT}.done.{submitter}.{task}"


def dead(submitter: str, task: str) -> str:
    """FOG_DEAD: `dead.DeadLetter`."""
    return f"{ROOT}.dead.{submitter}.{task}"


def output(submitter: str, task: str) -> str:
    """Core NATS: `task.Output`."""
    return f"{ROOT}.output.{submitter}.{task}"


def peer(cluster: str, node: str, verb: str) -> str:
    """Request to a member of a cluster, see `schemas.peer`."""
    return f"{ROOT}.peer.{cluster}.{node}.{verb}"


def event(kind: str, about: str) -> str:
    """FOG_EVENTS: `event.CloudEvent`; `kind` is ``<area>.<what>``."""
    return f"{ROOT}.event.{kind}.{about}"


def app_report(node: str, app: str) -> str:
    """Core NATS: `rollout.AppReport`."""
    return f"{ROOT}.app.{node}.{app}"


def chunk(digest: str) -> str:
    """FOG_CHUNKS: the bytes of that digest, once."""
    return f"{ROOT}.chunk.{digest}"


def ledger(node: str) -> str:
    """FOG_LEDGER: `ledger.Claim`."""
    return f"{ROOT}.ledger.{node}"


def api(noun: str, verb: str) -> str:
    """Request to the acting coordinator."""
    return f"{ROOT}.api.{noun}.{verb}"


_SUBMITTED = re.compile(rf"{re.escape(ROOT)}\.task\.submit\.\d+\.([a-z0-9-]{{1,63}})\.([a-z0-9-]{{1,63}})").fullmatch


def submitted_by(subject: str) -> tuple[str, str] | None:
    """The submitter and the task that a subject of FOG_TASKS names; None when they are not ids."""
    found = _SUBMITTED(subject)
    return (found[1], found[2]) if found else None


BOOK_ENTRY = f"{ROOT}.book.entry"  # FOG_BOOK: `ledger.Entry`
ALL_REPORT = f"{ROOT}.all.report"
DISCONNECTS = f"{ROOT}.sys.disconnect"  # the embedded broker maps its $SYS disconnect events here


def tail(subject: str, tokens: int) -> list[str]:
    """The tokens of a subject after the root and `tokens` more: ``tail("fog.v1.heartbeat.n1", 1) == ["n1"]``."""
    return subject.split(".")[2 + tokens :]
