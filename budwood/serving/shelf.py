"""The models that a worker holds: opened, proven and warm, exchanged when their alias moves, closed when memory ends.

Models are opened in a thread of their own, and exchanged between two requests: whoever began with the old version gets
its answer from it, and it is closed when the last of them has ended. A version that cannot be opened never answers.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from budwood.core.errors import BudwoodError, UsageError
from budwood.engine.machine import resident_memory_mb
from budwood.serving.batch import Batcher
from budwood.serving.desk import Desk
from budwood.serving.errors import HttpError
from budwood.serving.follow import Pointer
from budwood.serving.limits import Limits
from budwood.serving.memory import give_back
from budwood.serving.metrics import Metrics
from budwood.serving.model import Model, Served, Uses, describe, first_line, open_model, shut

__all__ = ["Place", "Shelf", "Trial", "open_places"]

logger = logging.getLogger("budwood.serving")

Result = TypeVar("Result")
LEAVING = 2
"""While so many versions of the past still finish their requests, no further one is opened: each takes memory."""
RETRY_SECONDS = 5.0
"""A model that could not be opened again is not tried again for so long."""


@dataclass(eq=False)
class Place:
    """One of the models that were asked for."""

    entry: Served
    """What answers there now."""
    model: Model
    megabytes: float
    """What it takes while it is open, measured when it was opened first."""
    pointer: Pointer | None = None
    problem: str = ""
    """Why the version that the alias points at does not answer."""
    task: asyncio.Task[None] | None = None
    """Opens it, or its next version."""
    retry_at: float = 0.0
    promised: bool = False
    """Whether it is being opened again: the room that was made for it is not there for another."""

    @property
    def takes(self) -> float:
        """Megabytes that it takes now, or in a moment."""
        return self.megabytes if self.model.opened or self.promised else 0.0

    @property
    def busy(self) -> bool:
        return self.task is not None and not self.task.done()


@dataclass(frozen=True)
class Trial:
    """How a worker that starts treats versions that an alias was moved to after its server began.

    Their names are those of `Served`; the version that the server began with is opened in any case.
    """

    deadly: Collection[tuple[str, int]] = ()
    """Those whose opening has ended processes: another is opened instead."""
    opening: Callable[[tuple[str, int] | None], None] = lambda version: None
    """Told which one is opened now, and None after it."""


def open_places(
    entries: Sequence[Served], runtime: str, batch: int, megabytes: float = math.inf, trial: Trial | None = None
) -> list[Place]:
    """Open all models, and close the later ones again where they take more than so many megabytes together.

    So a model that is broken is refused at once, however it will be used. `trial` is for versions that came later.

    Raises:
        BundleError: a model must not be served.
        UsageError: one of them takes more than all of them may.
    """
    places: list[Place] = []
    for entry in entries:
        place = open_place(entry, runtime, batch, trial or Trial())
        if place.megabytes > megabytes:
            raise UsageError(
                f"{place.entry.name} takes {place.megabytes:.0f} MB, and a worker may take {megabytes:.0f}",
                where="--memory",
                fix=f"--workers 1 --memory {math.ceil(place.megabytes * 1.2)}, or a smaller model",
            )
        if place.megabytes + sum(other.megabytes for other in places if other.model.opened) > megabytes:
            place.model.close()
            place.model = shut(place.model)
        places.append(place)
    return places


def open_place(entry: Served, runtime: str, batch: int, trial: Trial) -> Place:
    """Open a model for a worker that starts; where its alias was moved meanwhile, the newest version that works."""
    pointer = Pointer(entry.follows) if entry.follows else None
    problem, before = "", resident_memory_mb()
    for version in pointer.candidates() if pointer is not None else ():
        if (entry.name, version) in trial.deadly:
            problem = problem or f"version {version}: a process ended while it opened this version"
            continue
        trial.opening((entry.name, version))
        try:
            later = next_entry(entry, version)
            model = open_model(later, 0, runtime, batch)
        except (BudwoodError, MemoryError) as error:
            problem = problem or told(version, error)
        else:
            trial.opening(None)
            return Place(later, model, weight(later, resident_memory_mb() - before), pointer, problem)
    trial.opening(None)
    model = open_model(entry, 0, runtime, batch)
    return Place(entry, model, weight(entry, resident_memory_mb() - before), pointer, problem)


def next_entry(entry: Served, version: int) -> Served:
    """Another version of a model that follows an alias. Raises NotFoundError or BundleError."""
    if entry.follows is None:
        raise UsageError("a model that follows no alias has no next version", where=entry.name)
    return replace(entry, version=str(version), bundle=entry.follows.bundle(version))


def weight(entry: Served, grown: float) -> float:
    """Megabytes of an open model: what the process grew by, and at least the size of its files that are served."""
    files = entry.bundle.manifest.files
    sizes = [item.bytes for name, item in files.items() if name.startswith("onnx/")]
    return max(grown, (sum(sizes) or sum(item.bytes for item in files.values())) / 1e6)


def close(model: Model) -> None:
    """Close a model in the thread that opens them, and give its memory back."""
    model.close()
    give_back()


def told(version: str | int, error: BaseException) -> str:
    return f"version {version}: {error.cause if isinstance(error, BudwoodError) else first_line(error)}"


class Shelf:
    """The models of one worker. All methods are called in its event loop.

    Args:
        places: the models as they were opened.
        runtime: as for `open_model`.
        megabytes: what open models may take together. A model that is opened meanwhile may go beyond it for a moment.
        batcher: it may be at work with a model for requests that nobody waits for any more.
        desk: it may remember texts of a model.
    """

    def __init__(
        self,
        places: Sequence[Place],
        runtime: str,
        megabytes: float,
        limits: Limits,
        metrics: Metrics,
        batcher: Batcher,
        desk: Desk,
    ) -> None:
        self.places, self.runtime, self.megabytes, self.limits = places, runtime, megabytes, limits
        self.metrics, self.batcher, self.desk = metrics, batcher, desk
        self.models: list[Model] = []
        """What each place answers with now; the list stays the same, so that others may keep it."""
        self.leaving: list[Model] = []
        """Versions of the past that still finish requests."""
        self.watchers: list[Callable[[], None]] = []
        """Called when another version answers."""
        self.opener = ThreadPoolExecutor(1, "opener")
        for place in places:
            place.model = replace(place.model, index=metrics.claim(describe(place.entry)))
            self.models.append(place.model)
            metrics.count("reload_failures", bool(place.problem))
        self.note()

    def note(self) -> None:
        self.metrics.gauge("models_open", sum(place.model.opened for place in self.places))

    def place(self, model: Model) -> Place | None:
        """The place of a model; None for a version of the past."""
        return next((place for place in self.places if place.model is model), None)

    def problem(self, model: Model) -> str:
        """Why the version that its alias points at does not answer, or why it cannot be opened; else empty."""
        place = self.place(model)
        return place.problem if place is not None else ""

    def answers(self, model: Model) -> bool:
        """Whether a request for this model would be answered, after it is opened if need be."""
        place = self.place(model)
        return model.opened or (place is not None and time.monotonic() >= place.retry_at)

    def put(self, place: Place, model: Model) -> None:
        """Let a place answer with this model from the next request on."""
        self.models[self.places.index(place)] = place.model = model
        self.note()

    def tick(self) -> None:
        """Once a second: look at the aliases, and close what has no requests any more."""
        for place in self.places:
            waiting = place.busy or len(self.leaving) >= LEAVING
            version = place.pointer.moved() if place.pointer is not None and not waiting else None
            if version is not None:
                place.task = asyncio.get_running_loop().create_task(self.exchange(place, version))
        self.sweep()

    def sweep(self) -> None:
        """Close the versions of the past that have nothing to do any more."""
        for model in [model for model in self.leaving if self.idle(model)]:
            self.leaving.remove(model)
            self.metrics.release(model.index)
            self.forget(model)
            self.opener.submit(close, model)

    def forget(self, model: Model) -> None:
        """Tell the others that a model is about to be closed."""
        self.batcher.forget(model)
        if model.generator is not None:
            self.desk.forget(model.generator)

    def idle(self, model: Model) -> bool:
        return not model.uses.count and not self.batcher.computes(model)

    # Following an alias

    async def exchange(self, place: Place, version: int) -> None:
        """Open the next version of a place, and let it answer; where it cannot be opened, the present one goes on."""
        if str(version) == place.entry.version:
            place.problem = ""
            return
        try:
            entry, model = await self.in_thread(partial(self.open_version, place.entry, version))
            # What was used lately is still so with its next version.
            uses = Uses(last=place.model.uses.last)
            model = replace(model, index=self.metrics.claim(describe(entry)), uses=uses)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with the new version, the old one answers
            place.problem = told(version, error)
            self.metrics.count("reload_failures")
            logger.error("%s stays at version %s: %s", place.model.name, place.model.version, place.problem)
            self.opener.submit(give_back)
            return
        self.metrics.count("model_loads")
        # What it takes was measured once, without traffic; the next version takes as much more as its files are larger.
        place.megabytes *= weight(entry, 0.0) / max(weight(place.entry, 0.0), 1e-6)
        old, place.problem, place.entry = place.model, "", entry
        self.put(place, model)
        self.leaving.append(old)
        for watcher in self.watchers:
            watcher()
        logger.info("%s answers with version %s", entry.name, entry.version)
        await self.make_room(0.0, time.monotonic())
        self.sweep()

    def open_version(self, entry: Served, version: int) -> tuple[Served, Model]:
        later = next_entry(entry, version)
        return later, open_model(later, 0, self.runtime, self.limits.batch)

    async def in_thread(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self.opener, call)

    # Memory

    async def opened(self, model: Model) -> Model:
        """The model of this place, opened again where it is closed; all who ask meanwhile wait for the same opening.

        Raises:
            HttpError: 503 when it cannot be opened, or not in time.
        """
        place = next((place for place in self.places if self.same(place, model)), None)
        if model.opened or place is None:
            return model
        deadline = time.monotonic() + self.limits.answer_seconds
        if place.busy:  # its next version may be broken, and the one before not yet open again
            await self.ended(place, deadline)
        if not place.busy and not place.model.opened and time.monotonic() < deadline:
            if time.monotonic() < place.retry_at:
                raise HttpError(503, "the model cannot be opened now", retry_after=math.ceil(RETRY_SECONDS))
            place.task = asyncio.get_running_loop().create_task(self.open_again(place))
        await self.ended(place, deadline)
        if not place.model.opened:
            self.metrics.count("rejected")
            raise HttpError(503, "the model could not be opened in time", retry_after=math.ceil(RETRY_SECONDS))
        return place.model

    async def ended(self, place: Place, deadline: float) -> None:
        """Wait until what opens a place has ended, or time is over."""
        if place.task is not None:
            await asyncio.wait([place.task], timeout=max(0.0, deadline - time.monotonic()))

    def same(self, place: Place, model: Model) -> bool:
        now = place.model
        return now.name == model.name and (now.version == model.version or place.pointer is not None)

    async def open_again(self, place: Place) -> None:
        deadline = time.monotonic() + self.limits.answer_seconds
        if not await self.make_room(place.megabytes, deadline):
            return
        place.promised = True
        try:
            batch = self.limits.batch
            model = await self.in_thread(partial(open_model, place.entry, place.model.index, self.runtime, batch))
        except Exception as error:  # noqa: BLE001  # it answers 503 until it can be opened
            place.retry_at = time.monotonic() + RETRY_SECONDS
            self.metrics.count("reload_failures")
            place.problem = told(place.model.version, error)
            logger.error("%s cannot be opened again: %s", place.model.name, place.problem)
            return
        finally:
            place.promised = False
        place.problem = ""
        self.metrics.count("model_loads")
        self.put(place, replace(model, uses=place.model.uses))

    async def make_room(self, megabytes: float, deadline: float) -> bool:
        """Close the models that were not used for the longest time until there is room; False when time is over."""
        while sum(place.takes for place in self.places) + megabytes > self.megabytes:
            idle = [place for place in self.places if place.model.opened and not place.busy and self.idle(place.model)]
            if idle:
                place = min(idle, key=lambda place: place.model.uses.last)
                old = place.model
                self.put(place, shut(old))
                self.forget(old)
                self.metrics.count("model_evictions")
                await self.in_thread(partial(close, old))
            elif time.monotonic() >= deadline:
                return False
            else:
                await asyncio.sleep(0.02)
        return True

    async def close(self) -> None:
        """Close everything; nothing is asked any more."""
        for place in self.places:
            if place.task is not None and place.busy:
                place.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await place.task
        self.opener.shutdown()
        for model in (*self.models, *self.leaving):
            model.close()
