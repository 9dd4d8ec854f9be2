"""What a client is told when it gets no answer: OpenAI's error object, with the right status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.errors import LabError, RequestError

MORE = "The server's log says more."


class Refusal(Exception):
    """A request that is not answered.

    Attributes:
        status: the HTTP status.
        code: the kind of fault, for programs.
        param: the field of the request that is to blame; None where it is none.
        headers: what the client is told beside it, such as ``Retry-After``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def as_dict(self) -> dict[str, Any]:
        """The error object of OpenAI's API."""
        kind = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}.get(self.status)
        if kind is None and self.status == 429:
            kind = "rate_limit_error"
        kind = kind or ("invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def refusal_of(error: Exception) -> Refusal:
    """What a client is told of a failure: of a fault that is not its own the title alone, since details have paths."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RequestError):
        if error.code == "chat.too-long":
            return Refusal(400, f"{error.title} {error.detail}", "context_length_exceeded", param="messages")
        return Refusal(400, f"{error.title} {error.detail}".strip(), error.code or "invalid_request")
    if isinstance(error, LabError):
        return Refusal(503, f"{error.title} {MORE}", error.code or "model_failed")
    return Refusal(500, f"The server failed unexpectedly. {MORE}", "server_error")


def shutting_down() -> Refusal:
    """The server ends before the answer does."""
    return Refusal(503, "The server is shutting down.", "shutting_down", headers={"Retry-After": "5"})
