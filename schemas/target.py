"""How to reach a broker: an address and what proves who we are."""

from __future__ import annotations

import re

from msgspec import Struct


class Target(Struct, frozen=True):
    """A broker's `url` (``nats://host:port``) with at most one proof: an nkey `seed`, or a standard NATS `creds_file`.

    With neither, the connection is anonymous, or uses what the url itself carries (``nats://user:password@host``).
    """

    url: str
    seed: str = ""
    creds_file: str = ""

    @property
    def shown(self) -> str:
        """The address as it may be shown: without the user and password that a url can carry."""
        return ",".join(re.sub(r"//[^/@]*@", "//", one) for one in self.url.split(","))

    def __repr__(self) -> str:
        """Secrets stay out of logs and tracebacks."""
        proof = "seed" if self.seed else self.creds_file or "no credentials"
        return f"Target({self.shown!r}, {proof})"
