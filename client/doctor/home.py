"""Is the home in order: who runs in it, what did a crash leave, whose is the port?"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from client.doctor.facts import Facts, Folder
from client.doctor.finding import Finding, few, ok, problem, warning


def judge(facts: Facts) -> Iterator[Finding]:
    """Checks ``home.*``; nothing where the fleet was named by its address and this machine runs no part of it."""
    folder = facts.folder
    if folder is None or (not folder.there and not folder.chosen):
        return
    if not folder.there:
        yield problem(
            "home.instance", f"there is no home {folder.root}", "start one: `fog up`, or name another with --home"
        )
        return
    yield from _instance(folder)
    yield from _creds(folder)
    yield from _port(folder)
    if folder.errors:
        seen = f"the broker's log has {len(folder.errors)} errors of the last day, the last: {folder.errors[-1]}"
        yield warning("home.log", seen, f"read {folder.root}/broker/server.log")


def _instance(folder: Folder) -> Iterator[Finding]:
    up = "start it again: `fog up`; everything that was stored is still there"
    if folder.broken:
        advice = f"remove {folder.root}/instance.json; then {up}"
        yield problem("home.instance", f"its instance.json cannot be read: {folder.broken}", advice)
    elif folder.alive:
        yield ok("home.instance", f"`fog up` runs in {folder.root} (pid {folder.pid})")
    elif folder.lock_pid:
        seen = f"process {folder.lock_pid} holds the lock of {folder.root}, and no instance runs there"
        yield problem(
            "home.lock", seen, f"it is starting, or hangs: wait, or kill {folder.lock_pid} and start `fog up` again"
        )
    elif folder.pid:
        level = problem if folder.chosen else warning
        yield level("home.instance", f"the `fog up` of {folder.root} (pid {folder.pid}) was killed", up)
    elif folder.chosen and folder.port:
        yield problem("home.instance", f"no `fog up` runs in {folder.root}", "start it: `fog up`")
    if folder.strays:
        names = [f"{name} (pid {pid})" for name, pid in folder.strays.items()]
        kill = "kill " + " ".join(str(pid) for pid in folder.strays.values())
        yield problem("home.strays", f"processes of a dead `fog up` run on: {few(names)}", f"{kill}; then `fog up`")


def _creds(folder: Folder) -> Iterator[Finding]:
    path = f"{folder.root}/fog.creds"
    if folder.creds_error:
        advice = f"restore {path} from a backup or from another machine that holds it; a new key opens only a new fleet"
        yield problem("home.creds", folder.creds_error, advice)
        return
    if folder.creds_open:
        yield warning("home.creds", f"others can read {path}, which opens the fleet", f"chmod 600 {path}")
    url = folder.url if folder.alive else ""
    if url and folder.creds_url and urlsplit(url).port != urlsplit(folder.creds_url).port:
        seen = f"{path} says {folder.creds_url}, the broker is at {url}: copies of that file lead nowhere"
        yield problem("home.creds", seen, "stop `fog up` and start it again: it writes that file anew")


def _port(folder: Folder) -> Iterator[Finding]:
    if folder.port_error:
        yield problem("home.port", folder.port_error, f"remove {folder.root}/broker/port, then start `fog up --port N`")
    elif folder.port and folder.port_taken and not folder.alive and not folder.strays and not folder.lock_pid:
        seen = f"another program listens on {folder.port}, the port of this home's broker"
        advice = f"find it (`ss -ltnp sport = :{folder.port}`) and stop it, or start with another: `fog up --port -1`"
        yield problem("home.port", seen, advice)
