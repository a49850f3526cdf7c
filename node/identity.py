"""Who this node is: an nkey made at the first start and kept, and the answer to the coordinator's challenge."""

from __future__ import annotations

import base64
from pathlib import Path

from schemas.creds import new_seed, public_key
from schemas.errors import BadInput
from schemas.files import write_private


class Identity:
    """The nkey in `<folder>/node.key` (mode 0600), made when there is none. Raises BadInput when the file is spoilt."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "node.key"
        if not self._path.exists():
            write_private(self._path, (new_seed() + "\n").encode())
        try:
            self.key = public_key(self._seed())
        except Exception as error:
            raise BadInput(
                str(self._path),
                f"is not an nkey seed ({type(error).__name__})",
                hint="restore it from a backup; a new key under the same id is refused by the fleet",
            ) from None

    def _seed(self) -> str:
        try:
            return self._path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(str(self._path), f"cannot be read: {error}") from None

    def sign(self, node: str, session: str, challenge: str) -> str:
        """The signature, in base64, that proves the key. The seed is read each time and not kept in memory."""
        import nkeys  # here, so that a module that only names this class stays small

        pair = nkeys.from_seed(bytearray(self._seed().encode()))
        return base64.b64encode(pair.sign(f"{node}:{session}:{challenge}".encode())).decode()
