"""The demo's fleet: `fog up` in a folder of its own, with four nodes that play devices through their environment."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from client.connecting import connect
from client.demo.job import MODULE
from client.demo.module import Module
from client.fleet import Fleet
from schemas.errors import FogError
from schemas.home import Home, Instance, read_instance
from schemas.procs import how_it_ended, kill_group, reaped, spawn

START_S = 60.0
STOP_S = 15.0
POLL_S = 0.05

# Fewer slots than the devices would have: four full-size ones would only fight over this machine's cores.
PHONE = {"DEVICE_TYPE": "smartphone", "THERMAL": "normal", "NETWORK_TYPE": "wifi"}
DEVICES: dict[str, dict[str, str]] = {
    "desktop": {"DEVICE_TYPE": "desktop", "BATTERY": "none", "THERMAL": "normal", "FOG_NODE_SLOTS": "2"},
    "phone-charging": {**PHONE, "BATTERY": "60", "CHARGING": "1"},
    "phone-low": {**PHONE, "BATTERY": "25", "CHARGING": "0"},
    "laptop-warm": {"DEVICE_TYPE": "laptop", "BATTERY": "80", "THERMAL": "warm", "NETWORK_TYPE": "wifi"},
}
IDLE = "phone-low"  # below 30 % and not charging: the filters give it nothing
ABOUT = {
    "desktop": "a desktop on mains",
    "phone-charging": "a phone at 60 %, charging",
    "phone-low": "a phone at 25 %",
    "laptop-warm": "a warm laptop",
}


class Stack:
    """`fog up` as a child of this process, in `home`. `start()` first, `stop()` always.

    `devices`: each node with the environment that plays it; `module` is what they import, from the home's ``functions``.
    """

    def __init__(
        self,
        home: Path,
        devices: Mapping[str, Mapping[str, str]] = DEVICES,
        module: Module = MODULE,
        options: Sequence[str] = (),
    ) -> None:
        self.home, self.devices = home, devices
        self._module, self._options = module, options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns at once."""
        self._module.write(self.home / "functions")
        argv = [sys.executable, "-P", "-m", "coordinator.up", "--home", str(self.home), "--port", "-1", "--quiet"]
        argv += ["--import", self._module.name, *self._options]
        for name, env in self.devices.items():
            settings = {"FOG_NODE_SLOTS": "1", "FOG_NODE_CORES": env.get("FOG_NODE_SLOTS", "1"), **env}
            argv += ["--node", ",".join([name, *(f"{key}={value}" for key, value in settings.items())])]
        path = os.pathsep.join(filter(None, [str(self.home / "functions"), os.environ.get("PYTHONPATH", "")]))
        with self._log.open("wb") as log:
            self._process = spawn(argv, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log)

    @property
    def _log(self) -> Path:
        return self.home / "up.log"

    async def instance(self) -> Instance:
        """Who runs in it, once all of them do. Raises FogError with the log when they do not come up."""
        async with asyncio.timeout(START_S):
            while True:
                found = read_instance(Home(self.home))
                if found is not None and set(self.devices) <= set(found.pids):
                    return found
                self._check_alive()
                await asyncio.sleep(POLL_S)

    def _check_alive(self) -> None:
        code = self._process.poll() if self._process is not None else 0
        if code is not None:
            raise FogError(f"the demo's fleet did not start ({how_it_ended(code)}):\n{self.said()}")

    def said(self) -> str:
        """The end of what it logged."""
        return self._log.read_text("utf-8", "replace")[-3000:]

    async def kill(self, node: str, how: int = getattr(signal, "SIGKILL", signal.SIGTERM)) -> int:
        """Signal that node's daemon, and nothing else; returns its pid."""
        pid = (await self.instance()).pids[node]
        os.kill(pid, how)
        return pid

    async def stop(self) -> None:
        """End all of it in order; by force after `STOP_S`."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
        try:
            await asyncio.to_thread(process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            kill_group(process.pid)
            process.wait()
        reaped(process.pid)


@asynccontextmanager
async def running(stack: Stack, *, keep: str) -> AsyncIterator[Fleet]:
    """The fleet, started and connected to; ended in order at the end. Its home is removed, unless `keep` names the command
    (after ``fog``) that looks at it then."""
    home = stack.home
    try:
        stack.start()
        await stack.instance()
        async with connect(home=home) as fleet:
            yield fleet
    finally:
        await asyncio.shield(stack.stop())
        if keep:
            print(f"kept: `fog up --home {home}` and `fog {keep} --home {home}` go on with it")
        else:
            shutil.rmtree(home, ignore_errors=True)
