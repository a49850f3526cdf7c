"""What stands in the raw headers of a message, without making a dictionary of them."""

from __future__ import annotations


def is_no_responders(data: bytes, headers: bytes) -> bool:
    """Whether a reply is the broker's *nobody listens there*."""
    return not data and headers.startswith(b"NATS/1.0 503")


def status_of(headers: bytes) -> int:
    """The status code of raw headers, as in ``NATS/1.0 404 No Messages``; 0 when there is none."""
    code = headers[9:12]
    return int(code) if headers[:8] == b"NATS/1.0" and code.isdigit() else 0


def header(headers: bytes, name: bytes) -> bytes:
    """One header's value out of raw headers, or b"". The last of that name: the broker's own come after the publisher's."""
    start = headers.rfind(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    return headers[start : headers.find(b"\r\n", start)].strip()
