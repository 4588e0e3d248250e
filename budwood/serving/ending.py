"""How a worker ends: `drain` when the server stops, `hand_over` when another worker takes its place."""

import asyncio
import time

from uvicorn.server import ServerState

from budwood.serving.service import Service

__all__ = ["Stop", "drain", "hand_over"]

GRACE_SECONDS = 1.0
"""A worker that hands over closes idle connections after so long; those that ask meanwhile are told to come anew."""


class Stop(asyncio.Event):
    """Set when a worker is to end."""

    gently = False
    """Whether another worker answers already, so that no request needs to be refused."""

    def set_gently(self) -> None:
        if not self.is_set():
            self.gently = True
        self.set()


async def drain(service: Service, state: ServerState, server: asyncio.Server) -> None:
    """Finish the requests that were accepted, refuse new ones with 503, and close the sockets."""
    limits = service.limits
    service.draining = True
    service.metrics.gauge("workers_ready", 0)
    start = time.monotonic()
    waited = 0.0
    while waited < limits.notice_seconds or (state.tasks and waited < limits.drain_seconds):
        await asyncio.sleep(0.02)
        waited = time.monotonic() - start
    server.close()
    await end(service, state, start)


async def hand_over(service: Service, state: ServerState, server: asyncio.Server) -> None:
    """Take in no more connections, and answer those that are there to their end."""
    service.metrics.gauge("workers_ready", 0)
    service.closing = True
    start = time.monotonic()
    server.close()
    while state.connections and time.monotonic() - start < GRACE_SECONDS:
        await asyncio.sleep(0.02)
    await end(service, state, start)


async def end(service: Service, state: ServerState, start: float) -> None:
    """Close idle connections now, the others after their answer, and all of them when time is over."""
    for connection in list(state.connections):
        connection.shutdown()
    while state.connections and time.monotonic() - start < service.limits.drain_seconds + 0.5:
        await asyncio.sleep(0.02)
    for task in list(state.tasks):
        task.cancel()
