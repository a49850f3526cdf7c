"""The operator's policy for this node, as the coordinator said it last: kept on disk, so that a start without one obeys it."""

from __future__ import annotations

import logging
from pathlib import Path

from schemas.advice import QosPolicy, policy_of
from schemas.codec import Decoder, encode
from schemas.errors import BadInput
from schemas.files import write_private
from schemas.logs import fields

log = logging.getLogger("fog.node")

_pairs: Decoder[dict[str, str]] = Decoder(dict[str, str])


class PolicyFile:
    """``policy.json`` in the node's folder: field names and their texts."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "policy.json"

    def read(self) -> dict[str, str]:
        """What it holds; nothing when there is none, or (said in the log) when it cannot be understood."""
        try:
            pairs = _pairs(self._path.read_bytes())
            policy_of(pairs)
        except FileNotFoundError:
            return {}
        except (OSError, BadInput) as error:
            log.warning("the kept policy is not used", extra=fields(file=str(self._path), error=str(error)))
            return {}
        return pairs

    def policy(self) -> QosPolicy:
        """The same as a policy."""
        return policy_of(self.read())

    def write(self, pairs: dict[str, str]) -> None:
        """Keep it; none at all leaves no file."""
        if pairs:
            write_private(self._path, encode(pairs))
        else:
            self._path.unlink(missing_ok=True)
