"""`fog up` with tiny children in place of coordinator and nodes: run as a program by test_up.

Each child writes what it was given to <home>/tiny-<name>.json once it runs, and its name to <home>/ended when SIGTERM
ends it. TINY=stubborn makes it deaf to SIGTERM, TINY=dies makes it exit with code 3 at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def child(kind: str, options: list[str]) -> None:
    home = Path(options[options.index("--home") + 1])
    name = options[options.index("--name") + 1] if "--name" in options else kind
    mode = os.environ.get("TINY", "")

    def end(*_: object) -> None:
        with (home / "ended").open("a") as file:
            file.write(f"{name}\n")
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else end)
    (home / f"tiny-{name}.part").write_text(json.dumps({"options": options, "mode": mode, "pid": os.getpid()}))
    (home / f"tiny-{name}.part").rename(home / f"tiny-{name}.json")
    if mode == "dies":
        os._exit(3)
    while True:
        signal.pause()


if __name__ == "__main__":
    if sys.argv[1] in ("coordinator", "node"):
        child(sys.argv[1], sys.argv[2:])
    if sys.argv[1] == "coordinator.ready":
        sys.exit(0)
    from coordinator import supervisor, up

    up.PYTHON = (sys.executable, __file__)  # type: ignore[assignment]
    supervisor.SAME_SIGNAL_S = 0.05
    sys.exit(up.main())
