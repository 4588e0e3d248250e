"""The access log: one JSON object a request on standard error, without texts, keys or whatever else callers wrote."""

import json
import sys
import time
from typing import TextIO

from budwood.serving.http import Request

__all__ = ["Access"]


class Access:
    """Writes a line for each answered request; `worker` is in all of them.

    A line has the time, the request's id, the method and the route as this program spells it (a path may hold
    anything), the model with its version, the status, the milliseconds to the end of the answer, and the key's name.
    """

    def __init__(self, worker: int, out: TextIO | None = None) -> None:
        self.worker = worker
        self.out = out if out is not None else sys.stderr

    def note(self, request: Request, route: str, status: int, seconds: float) -> None:
        """Write the line of one request; `route` is empty where there is none."""
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "level": "info",
            "worker": self.worker,
            "request_id": request.id.decode("ascii"),
            "route": route,
            "model": request.model.name,
            "version": request.model.version,
            "status": status,
            "ms": round(seconds * 1e3, 2),
            "key": request.key.name if request.key is not None else None,
        }
        self.out.write(json.dumps(entry) + "\n")
        self.out.flush()
