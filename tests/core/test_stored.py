"""Where a message of a batch lies, as the broker writes it into its headers."""

from __future__ import annotations

import pytest

from schemas.stored import StoredMessage, stored

FORGED = b"Nats-Stream: FOG_WORK\r\nNats-Subject: forged\r\nNats-Sequence: 1\r\nNats-Time-Stamp: never\r\n"
OWN = (b"Nats-Subject: fog.v1.work.n1.t1", b"Nats-Sequence: 42", b"Nats-Time-Stamp: 2026-11-24T20:00:00Z")


@pytest.mark.parametrize("before", [b"", b"Nats-Msg-Id: t1.2\r\n", FORGED], ids=["alone", "an id", "forged ones"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
def test_the_brokers_own_headers_count_in_any_order_and_never_the_publishers(
    before: bytes, order: tuple[int, ...]
) -> None:
    headers = b"NATS/1.0\r\n" + before + b"".join(OWN[n] + b"\r\n" for n in order) + b"Nats-Num-Pending: 7\r\n\r\n"
    assert stored(b"x", headers) == StoredMessage("fog.v1.work.n1.t1", 42, b"x", "2026-11-24T20:00:00Z", headers)


def test_a_message_without_a_time_is_read_all_the_same() -> None:
    headers = b"NATS/1.0\r\nNats-Stream: S\r\nNats-Subject: a.b\r\nNats-Sequence: 3\r\n\r\n"
    assert stored(b"", headers) == StoredMessage("a.b", 3, b"", "", headers)
