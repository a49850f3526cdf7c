"""Make a `fog.creds` for a NATS server of your own, and print the public key that its configuration needs.

python deploy/new_creds.py nats://broker:4222 fog.creds
"""

from __future__ import annotations

import sys
from pathlib import Path

from schemas.creds import Creds, new_seed, public_key, write_creds


def main() -> int:
    """Never overwrites: the old key may be all that opens a running fleet."""
    if len(sys.argv) != 3 or "://" not in sys.argv[1]:
        print("usage: new_creds.py nats://HOST:PORT FILE", file=sys.stderr)
        return 2
    url, path = sys.argv[1], Path(sys.argv[2])
    if path.exists():
        print(f"{path} exists already: remove it first, or name another", file=sys.stderr)
        return 1
    seed = new_seed()
    write_creds(path, Creds(url, seed))
    print(public_key(seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
