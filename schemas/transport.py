"""Which way a node's messages take (SPEC 5.7), and what a node tells of it."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from schemas import limits


class Transport(StrEnum):
    """betanet is direct and now; bitchat is kept on the device's disk first, and sent in batches."""

    BETANET = "betanet"
    BITCHAT = "bitchat"


class What(StrEnum):
    """Every kind of message that a node sends by itself."""

    RESULT = "result"
    OUTCOME = "outcome"  # of an attempt that goes elsewhere, or failed
    CLAIM = "claim"  # of the ledger
    EVENT = "event"
    OUTPUT = "output"
    PRESENCE = "presence"  # heartbeats, registrations, leases, and that work is still held
    APP_REPORT = "app_report"
    ANSWER = "answer"


class Routing(Struct, frozen=True, omit_defaults=True):
    """The way of one message and why. `fallback`: the way it takes where that one cannot be had. A message by bitchat goes with
    the next batch, and that goes with the next heartbeat, after `hold_s` at the latest; 0: at once."""

    transport: Transport
    reason: str
    fallback: Transport | None = None
    hold_s: float = 0.0


class Routed(Struct, frozen=True, omit_defaults=True):
    """A decision that was made `at` (seconds since 1970), about a message of `size` bytes. `about` names its task or claim."""

    what: What
    about: str
    size: int
    priority: int
    at: float
    routing: Routing


class OutboxReport(Struct, frozen=True, omit_defaults=True):
    """What a node keeps for the broker, and what became of the messages that it had to decide about since its start.

    `waiting` results and outcomes of `bytes` are on its disk, the oldest made at `oldest_at` (seconds since 1970; 0: none);
    `claims` of the ledger besides. `held` of both wait for a batch, not for the link. `full`: why no more work is taken.
    `direct` messages went by themselves, `batched` in `batches`. Of decisions, the `last`.
    """

    waiting: int = 0
    bytes: int = 0
    oldest_at: float = 0.0
    claims: int = 0
    held: int = 0
    letters_max: int = limits.OUTBOX_LETTERS
    bytes_max: int = limits.OUTBOX_BYTES
    full: str = ""
    direct: int = 0
    batched: int = 0
    batches: int = 0
    last: Routed | None = None


def told(report: OutboxReport, now: float) -> list[tuple[str, str]]:
    """The report as rows to read: what each is about, and how it stands at `now` (seconds since 1970)."""
    mib = f"{report.bytes / (1 << 20):.1f} of {report.bytes_max >> 20} MiB"
    keeps = f"{report.waiting} of {report.letters_max} results and outcomes, {mib}"
    if report.waiting:
        keeps += f", the oldest {max(0.0, now - report.oldest_at):.0f} s old"
    if report.claims:
        keeps += f"; {report.claims} ledger claims"
    sent = f"{report.direct} at once, {report.batched} in {report.batches} batches"
    rows = [
        ("outbox", keeps),
        ("held", f"{report.held} for the next batch"),
        ("sent", f"{sent}, since the node's start"),
    ]
    if report.full:
        rows.insert(0, ("takes no work", report.full))
    if report.last is not None:
        last, way = report.last, report.last.routing
        about = f"{last.what} {last.about}, {last.size} bytes, priority {last.priority}"
        rows.append(("last decision", f"{way.transport} for {about}: {way.reason}"))
    return rows
