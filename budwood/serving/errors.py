"""HTTP errors in three dialects: RFC 9457 problem details, `{"error": …}` on /v2, and the OpenAI shape on /v1."""

import json
from http import HTTPStatus
from typing import Any

__all__ = ["Dialect", "HttpError", "dialect_of", "render"]

Dialect = str
"""`problem`, `v2` or `openai`."""


class HttpError(Exception):
    """An answer that is not a success.

    Args:
        status: the HTTP status.
        detail: one sentence for the caller, free of anything secret.
        field: the input field that is off, such as `inputs[3].text`.
        retry_after: seconds until it makes sense to try again.
        close: whether the connection is closed afterwards.
        headers: further headers.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str = "",
        retry_after: int = 0,
        close: bool = False,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.field = field
        more = [(b"retry-after", str(retry_after).encode())] if retry_after else []
        more += [(b"connection", b"close")] if close else []
        self.headers = (*headers, *more)


def dialect_of(path: str) -> Dialect:
    if path == "/v2" or path.startswith("/v2/"):
        return "v2"
    return "openai" if path.startswith("/v1/") else "problem"


def render(error: HttpError, dialect: Dialect, request_id: str) -> tuple[bytes, bytes]:
    """Content type and body of an error."""
    body: dict[str, Any]
    where = f"{error.field}: " if error.field and error.field not in error.detail else ""
    if dialect == "v2":
        body = {"error": where + error.detail}
    elif dialect == "openai":
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        body = {"error": {"message": where + error.detail, "type": kind, "param": error.field or None, "code": None}}
    else:
        body = {
            "type": "about:blank",
            "title": HTTPStatus(error.status).phrase,
            "status": error.status,
            "detail": error.detail,
            "request_id": request_id,
        }
        if error.field:
            body["errors"] = [{"field": error.field, "message": error.detail}]
    kind = "application/problem+json" if dialect == "problem" else "application/json"
    return kind.encode(), json.dumps(body).encode()
