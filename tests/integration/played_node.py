"""A real node daemon whose device is played by files: the folder named by PLAYED_ROOT stands for ``/``."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from node import __main__, device

if __name__ == "__main__":
    device.Device = partial(device.Device, root=Path(os.environ["PLAYED_ROOT"]))  # type: ignore[misc, assignment]
    sys.exit(__main__.main())
