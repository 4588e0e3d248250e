"""Texts and files as bytes behind the JSON of a /v2 request: the binary tensor data that Triton's clients send.

Each element is its length, four bytes with the lowest first, and its bytes. The header says how long the JSON is.
"""

from typing import Any

from budwood.serving.errors import HttpError
from budwood.serving.http import Request
from budwood.serving.limits import Limits

__all__ = ["HEADER", "infer_body", "with_data"]

HEADER = b"inference-header-content-length"
PLACE = "inputs[0].parameters.binary_data_size"


async def infer_body(request: Request, limits: Limits) -> tuple[bytes, bytes]:
    """The JSON of a request and the bytes behind it. Triton's clients name no content type.

    Raises:
        HttpError: 400 for an odd header, 413 for too many bytes, 415 for another content type.
    """
    length = request.headers.get(HEADER)
    if length is None:
        named = b"content-type" in request.headers
        return await (request.json_body(limits) if named else request.body(limits)), b""
    body = await request.body(limits)
    if not (length.isdigit() and len(length) < 12 and int(length) <= len(body)):
        raise HttpError(400, f"{HEADER.decode()} must be the number of bytes of the JSON", field=HEADER.decode())
    return body[: int(length)], body[int(length) :]


def with_data(tensor: Any, tail: bytes, limits: Limits, *, files: bool) -> Any:
    """An input tensor whose data are the bytes behind the JSON, with `data` as in JSON; others as they are.

    Args:
        files: whether an element is a file and stays bytes; else it is a text.

    Raises:
        HttpError: 422 where size, number of elements or encoding do not fit.
    """
    parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        if tail:
            raise HttpError(422, "there are bytes behind the JSON that no tensor claims", field=PLACE)
        return tensor
    if isinstance(size, bool) or size != len(tail):
        raise HttpError(422, f"{len(tail)} bytes follow the JSON", field=PLACE)
    if "data" in tensor:
        raise HttpError(422, "the data are either in the JSON or behind it", field="inputs[0].data")
    return {**tensor, "data": elements(tail, limits.items, files)}


def elements(tail: bytes, most: int, files: bool) -> list[str | bytes]:
    found: list[str | bytes] = []
    at = 0
    while at < len(tail):
        end = at + 4 + int.from_bytes(tail[at : at + 4], "little")
        if at + 4 > len(tail) or end > len(tail):
            raise HttpError(422, "the last element is cut off", field="inputs[0]")
        if len(found) == most:
            raise HttpError(422, f"data must have 1 to {most} items", field="inputs[0].data")
        found.append(tail[at + 4 : end] if files else text(tail[at + 4 : end], len(found)))
        at = end
    return found


def text(element: bytes, at: int) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise HttpError(422, f"the text is not UTF-8 (byte {error.start})", field=f"inputs[0].data[{at}]") from error
