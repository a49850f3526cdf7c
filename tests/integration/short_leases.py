"""A coordinator of short leases and quick heartbeats, so that a test need not wait for long ones."""

from __future__ import annotations

import os
import sys

from coordinator.__main__ import main
from schemas import limits

limits.HEARTBEAT_S = float(os.environ.get("BEAT_S", "1"))
limits.EXCLUSIVE_LEASE_S = 5.0
limits.EXCLUSIVE_MARGIN_S = 1.0

if __name__ == "__main__":
    sys.exit(main())
