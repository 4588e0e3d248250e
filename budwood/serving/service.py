"""What a worker holds: models, batcher, figures, state. Every handler gets it as its first argument."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.serving.access import Access
from budwood.serving.auth import Keys
from budwood.serving.batch import Answered, Batcher, Failed
from budwood.serving.desk import Desk, Wanted, complete
from budwood.serving.errors import HttpError
from budwood.serving.http import Disconnected, Request
from budwood.serving.limits import Limits
from budwood.serving.live_accuracy import Feedback
from budwood.serving.metrics import Board, Metrics
from budwood.serving.model import Model
from budwood.serving.monitor import Monitor
from budwood.serving.shelf import Shelf
from budwood.serving.watch import Watch

__all__ = ["Service"]


@dataclass
class Service:
    """The shared state of one worker's handlers."""

    shelf: Shelf
    batcher: Batcher
    desk: Desk
    metrics: Metrics
    board: Board
    limits: Limits
    keys: Keys | None = None
    loopback: bool = True
    """Whether only names of this machine, and those in `hosts`, are accepted as Host."""
    hosts: frozenset[str] = frozenset()
    """Further names that are accepted as Host; where there are any, all others are refused on every address."""
    access: Access | None = None
    """Where each request is noted, if that is asked for."""
    ready: bool = True
    draining: bool = False
    closing: bool = False
    """Whether another worker has taken over: connections are closed after their answer."""
    pages: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict)
    """Path to content type and body of the static files."""
    openapi: bytes = b"{}"
    """The OpenAPI document."""
    monitor: Monitor = field(init=False)
    """What it notes of its answers."""
    feedback: Feedback = field(default_factory=Feedback)
    """The labels that came for them."""

    def __post_init__(self) -> None:
        self.monitor = Monitor(self.metrics, self.board)

    @property
    def models(self) -> Sequence[Model]:
        """What is served now; the first one answers /predict."""
        return self.shelf.models

    def find(self, name: str, version: str | None = None) -> Model:
        """A model by name or `name:version`, the first of its versions unless one is named. Raises HttpError 404."""
        if version is None:
            name, _, named = name.partition(":")
            version = named or None
        for model in self.models:
            if model.name == name and version in (None, model.version):
                return model
        # The name is the caller's own text, so it is not repeated.
        served = dict.fromkeys(f"{model.name}:{model.version}" if version else model.name for model in self.models)
        raise HttpError(404, f"no such model; served are: {', '.join(served)}")

    def refuse_unready(self) -> None:
        if self.draining or not self.ready:
            self.metrics.count("rejected")
            raise HttpError(503, "the server is stopping", retry_after=1)

    def parse(self, model: Model, item: object, place: str = "") -> Row:
        """One item as a row of the model's task. Raises HttpError 422 naming the field."""
        try:
            row = model.task.parse(item)
        except DataError as error:
            names = [name for name in (place, error.where) if name]
            raise HttpError(422, error.cause, field=".".join(names)) from error
        longest = self.limits.text_characters
        for name, value in row.items():
            length = len(value) if isinstance(value, str) else 0
            if name == "messages":
                most = self.limits.chat_messages if "options" in row else self.limits.measured_messages
                if len(value) > most:
                    detail = f"there are {len(value)} messages, at most {most} are accepted"
                    raise HttpError(422, detail, field=f"{place}.{name}" if place else name)
                length = sum(len(turn["content"]) for turn in value)
            if length > longest:
                detail = f"{name} has {length} characters, at most {longest} are accepted"
                raise HttpError(422, detail, field=f"{place}.{name}" if place else name)
        return row

    async def answer(self, request: Request, rows: Sequence[Row], top: int, place: str) -> list[Answered]:
        """An answer to each row of one request. `place` names a row in errors, such as `inputs[{}]`.

        Raises:
            HttpError: as `results`, and with the status of the first row on which the model failed.
            Disconnected: the client is gone.
        """
        answers = []
        for i, result in enumerate(await self.results(request, rows, top)):
            if isinstance(result, Failed):
                raise result.error(place.format(i))
            answers.append(result)
        return answers

    async def results(self, request: Request, rows: Sequence[Row], top: int) -> list[Answered | Failed]:
        """A result for each row of one request, which leaves the queue when its client goes away.

        Raises:
            HttpError: 503 when the queue is full, 504 when it took too long.
            Disconnected: the client is gone.
        """
        self.refuse_unready()
        await self.open(request)
        if request.model.task.writes and any("options" in row for row in rows):
            return await self.written(request, rows)
        began = time.perf_counter()
        at_once = self.batcher.at_once(request.model, rows, top, request.scope.get("client"))
        results = at_once or await self.queued(request, rows, top)
        for result in results:
            if isinstance(result, Answered):
                self.metrics.answered(request.model.index, result.answer)
        owned = request.owned(request.id.decode()).encode()
        self.monitor.note(owned, request.model, rows, results, time.perf_counter() - began)
        return results

    async def open(self, request: Request) -> None:
        """Open the model of a request where it is closed. Raises HttpError 503 when that cannot be done in time."""
        request.model.uses.last = self.batcher.loop.time()
        if not request.model.opened:
            request.model = await self.shelf.opened(request.model)

    async def queued(self, request: Request, rows: Sequence[Row], top: int) -> list[Answered | Failed]:
        ticket = self.batcher.submit(request.model, rows, top)
        watch = Watch(self.batcher, ticket, request)
        try:
            return await ticket.future
        except asyncio.CancelledError:
            self.batcher.cancel(ticket)
            if watch.left:
                raise Disconnected from None
            raise
        finally:
            watch.end()

    async def written(self, request: Request, rows: Sequence[Row]) -> list[Answered | Failed]:
        """Texts that go on from these rows. Raises as `results`, and HttpError 422 for rows that are to be measured."""
        if not all("options" in row for row in rows):
            raise HttpError(422, "texts to write and texts to measure are asked for apart", field="measure")
        wanted, began = Wanted.of(rows), time.perf_counter()
        found = await complete(self.desk, request, wanted)
        owned = request.owned(request.id.decode()).encode()
        self.monitor.wrote(owned, request.model, wanted.prompts, wanted.n, time.perf_counter() - began)
        answers = [item.answer() for item in found]
        return [Answered(answer, json.dumps(answer).encode()) for answer in answers]

    def top(self, request: Request) -> int:
        """`?top=K`: how many alternatives an answer lists. Raises HttpError 422, also for an unknown parameter."""
        if not request.scope["query_string"]:
            return request.model.task.default_top
        query = request.query()
        known = {"top", "explain"} if request.model.task.explains else {"top"}
        if set(query) - known:
            raise HttpError(422, f"unknown query parameter; known: {', '.join(sorted(known))}", field="query")
        value = query.get("top")
        if value is None:
            return request.model.task.default_top
        if not (value.isascii() and value.isdigit() and len(value) < 6 and 1 <= int(value) <= self.limits.top):
            raise HttpError(422, f"top must be a whole number from 1 to {self.limits.top}", field="top")
        return int(value)
