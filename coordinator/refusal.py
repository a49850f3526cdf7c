"""How a request of the API is turned down."""

from __future__ import annotations

from schemas.api import ApiError


class Refusal(Exception):
    """A request is answered by an `ApiError`: its `code` (one of `api.CODES`), what is wrong, what to do, which field."""

    def __init__(self, code: str, message: str, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.error = ApiError(code, message, hint, field)
