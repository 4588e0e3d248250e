"""Looks after the client of a request that waits, so that nothing is computed for one who is gone. See `Service`."""

import asyncio

from budwood.serving.batch import Batcher, Ticket
from budwood.serving.http import Request, gone

__all__ = ["Watch"]

WATCH_AFTER = 0.02
"""Most requests are answered within so many seconds; only the others are worth a task that looks after the client."""


class Watch:
    """Cancels a ticket when the client of its request goes away."""

    def __init__(self, batcher: Batcher, ticket: Ticket, request: Request) -> None:
        self.batcher, self.ticket, self.request = batcher, ticket, request
        self.left = False
        self.task: asyncio.Task[None] | None = None
        self.timer = batcher.loop.call_later(WATCH_AFTER, self.begin)

    def begin(self) -> None:
        self.task = self.batcher.loop.create_task(self.look())

    async def look(self) -> None:
        await gone(self.request)
        if not self.ticket.future.done():
            self.left = True
            self.batcher.cancel(self.ticket)

    def end(self) -> None:
        self.timer.cancel()
        if self.task is not None:
            self.task.cancel()
