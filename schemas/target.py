"""How to reach a broker: an address and what proves who we are."""

from __future__ import annotations

from msgspec import Struct


class Target(Struct, frozen=True):
    """A broker's `url` (``nats://host:port``) with at most one proof: an nkey `seed`, or a standard NATS `creds_file`.

    With neither, the connection is anonymous, or uses what the url itself carries (``nats://user:password@host``).
    """

    url: str
    seed: str = ""
    creds_file: str = ""

    def __repr__(self) -> str:
        """Secrets stay out of logs and tracebacks."""
        proof = "seed" if self.seed else self.creds_file or "no credentials"
        return f"Target({self.url.rpartition('@')[2]!r}, {proof})"
