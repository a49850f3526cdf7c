"""How members of a cluster hand chunks to each other: over TCP, from one device to the other, past the broker.

::

    server  FOG-CHUNKS 1 <nonce>                    32 hex digits
    client  <cluster> <node> <proof>                who asks, and `proof` of the key that it was given over the broker
    client  sha256-<64 hex digits>                  one chunk at a time
    server  <size>, and after the line so many bytes; or ``-``: it has not come in the time that the server lets wait

Lines end with a newline. A proof that is wrong, and a node that is no member, is answered by closing. What comes is
believed when its digest is right, so nothing is signed; nothing is encrypted either.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress

from schemas.errors import BadInput

GREETING = "FOG-CHUNKS 1"
LINE_MAX = 256  # bytes
LACKING = b"-\n"
WAIT_S = 2.0  # a server lets wait for a chunk that has not come yet
IDLE_S = 30.0  # a connection on which nothing is asked for so long is closed


def key_of(secret: bytes, cluster: str, node: str) -> str:
    """What a server tells one member over the broker, and expects the proof of. 64 hex digits."""
    return hmac.new(secret, f"{cluster} {node}".encode(), hashlib.sha256).hexdigest()


def proof(key: str, nonce: str) -> str:
    """That one has the key, for this connection. 64 hex digits."""
    return hmac.new(key.encode(), f"{GREETING} {nonce}".encode(), hashlib.sha256).hexdigest()


def is_proof(said: str, key: str, nonce: str) -> bool:
    """Whether `said` is `proof`, in a time that tells nothing."""
    return hmac.compare_digest(said.encode(), proof(key, nonce).encode())


def read_greeting(line: bytes) -> str:
    """The nonce. Raises BadInput when this is no server of chunks."""
    words = line.decode("latin-1").split()
    if len(words) != 3 or " ".join(words[:2]) != GREETING:
        raise BadInput("greeting", f"{line!r:.60} is not that of {GREETING}")
    return words[2]


def read_size(line: bytes, size: int) -> int | None:
    """The size that the server says, None when it has no such chunk. Raises BadInput for another one than `size`."""
    if line == LACKING:
        return None
    if line != f"{size}\n".encode():
        raise BadInput("size", f"{line!r:.60} is not the size of the chunk, which is {size}")
    return size


def read_address(at: str) -> tuple[str, int]:
    """``host:port``, an IPv6 host in brackets; no name, which would be looked up on a stranger's word. Raises BadInput."""
    host, _, port = at.rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        number = 0
    if "%" in host or not 0 < number < 65_536:
        raise BadInput("at", f"{at!r:.80} is no address of the form IP:PORT")
    return host, number
