"""The embedded broker's configuration file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas import subjects

# A server ping wakes a phone: rarely. A closed connection shows at once anyway, and heartbeats judge the silent.
PING_INTERVAL = "2m"
AUTH_S = 10
# A client that does not read what it asked for is cut, never waited for: once so much waits for it, or nothing could be
# written to it for so long. (The server's own defaults, which the bounds of `schemas.pull` rely on.)
PENDING_BYTES, WRITE_S = 64 << 20, 10
LOG_BYTES, LOG_FILES = 4 << 20, 3  # the server's log is rotated at this size, and so many old ones are kept


@dataclass(frozen=True)
class Account:
    """A space of subjects and streams of its own, opened by one nkey user (its public key, ``U…``)."""

    name: str
    user: str


def render(accounts: Sequence[Account], *, host: str, port: int, folder: Path, store_bytes: int | None = None) -> str:
    """The configuration of a server on `host`:`port` that keeps everything in `folder`. Nobody gets in without a key.

    Each account has JetStream, and hears on `subjects.DISCONNECTS` when one of its own clients' connections ends.
    Streams may reserve `store_bytes` together; None leaves that to the server: three quarters of the free disk.
    """
    store = f"\n  max_file_store: {store_bytes}" if store_bytes else ""
    return f"""# Written at each start; changes are lost.
listen: {_quote(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")}
ports_file_dir: {_quote(str(folder))}
log_file: {_quote(str(folder / "server.log"))}
logfile_size_limit: {LOG_BYTES}
logfile_max_num: {LOG_FILES}
ping_interval: "{PING_INTERVAL}"
# It would remember who listens to each subject; nearly all of ours name a task and are used once.
disable_sublist_cache: true
# A client has this long to say who it is: a whole fleet may come back at once. (The default, 2 s, has them start over.)
authorization {{ timeout: {AUTH_S} }}
max_pending: {PENDING_BYTES}
write_deadline: "{WRITE_S}s"
jetstream {{
  store_dir: {_quote(str(folder / "store"))}{store}
  # One consumer a node; the server's own default ends at 1000 a stream.
  limits {{ default_max_consumers: -1 }}
}}
accounts {{
  SYS {{ exports: [ {{ stream: "$SYS.ACCOUNT.*.DISCONNECT" }} ] }}
{"".join(_account(each) for each in accounts)}}}
system_account: SYS
"""


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # NATS reads JSON's escapes but \u


def _account(account: Account) -> str:
    disconnect = f'{{ account: SYS, subject: "$SYS.ACCOUNT.{account.name}.DISCONNECT" }}'
    return f"""  {account.name} {{
    jetstream: enabled
    users: [ {{ nkey: {account.user} }} ]
    imports: [ {{ stream: {disconnect}, to: "{subjects.DISCONNECTS}" }} ]
  }}
"""
