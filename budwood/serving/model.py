"""One served model, as a worker opens it: proven to compute what it computed when it was made, and warm."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Self

from budwood.core.bundle import Bundle
from budwood.core.errors import BudwoodError, BundleError
from budwood.core.page import REPORT
from budwood.core.runtime import Runtime
from budwood.core.task import Arrays, Encoded, Row, Task
from budwood.engine import conformance
from budwood.engine.generator import Decoder, Generator
from budwood.engine.predictor import Predictor, task_of
from budwood.engine.runtime_choice import remembered
from budwood.engine.vocabulary import Vocabulary
from budwood.serving.follow import Follows
from budwood.serving.metrics import Described

__all__ = ["Model", "Served", "Uses", "describe", "first_line", "open_model", "served_name"]


@dataclass(frozen=True)
class Served:
    """What to serve, under which name and version; both are kept as `served_name` writes them."""

    name: str
    version: str
    bundle: Bundle
    follows: Follows | None = None
    """The alias whose moves it follows, if any."""
    cores: int = 1
    """Threads of one call of a model that writes, since a single thread asks it; all others have one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", served_name(self.name))
        object.__setattr__(self, "version", served_name(self.version))


def served_name(text: str) -> str:
    """The text as it may be in a path, a header and a figure: 1 to 64 of `A-Z a-z 0-9 . _ -`, others become `-`.

    Names in a store are such names already. A folder outside it may be called anything, a line break included.
    """
    return UNSAFE.sub("-", text)[:64].strip("-.") or "model"


UNSAFE = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


@dataclass
class Uses:
    """The requests that a model has now. Changed in the event loop only."""

    count: int = 0
    last: float = 0.0
    """When an answer was last asked for, on the monotonic clock."""


@dataclass(frozen=True, eq=False)
class Model:
    """A served model in a worker."""

    name: str
    version: str
    index: int
    """The slot of its figures in this worker."""
    predictor: Predictor
    generator: Generator | None = None
    """Where it writes texts, what writes them; the predictor then only measures them."""
    created: int = 0
    """When its bundle was made, in seconds since 1970."""
    report: bytes = b""
    """The page with what was measured of it; empty where its bundle has none."""
    bundle: Bundle | None = None
    """What it was opened from."""
    opened: bool = True
    """Whether it can answer; a closed one knows its task and is opened again by `Shelf.opened`."""
    uses: Uses = field(default_factory=Uses)
    headers: tuple[tuple[bytes, bytes], ...] = field(init=False)

    def __post_init__(self) -> None:
        headers = ((b"x-model", self.name.encode()), (b"x-model-version", self.version.encode()))
        object.__setattr__(self, "headers", headers)

    @property
    def task(self) -> Task:
        return self.predictor.task

    def close(self) -> None:
        """Free what was loaded; nobody may ask it any more."""
        self.predictor.close()


class Closed(Runtime):
    """The runtime of a model that is closed; it still knows what the model gives."""

    def __init__(self, outputs: tuple[str, ...] = ()) -> None:
        self.known = outputs

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.known

    @classmethod
    def open(cls, bundle: Bundle, threads: int) -> Self:
        return cls()

    def run(self, inputs: Arrays) -> Arrays:
        raise BundleError("the model is closed")

    def close(self) -> None:
        """Nothing was loaded."""


def unread(rows: Sequence[Row]) -> Encoded:
    raise BundleError("the model is closed")


def shut(model: Model) -> Model:
    """The model without what takes memory."""
    closed, generator = Closed(model.predictor.runtime.outputs), model.generator
    predictor = Predictor(model.task, unread, closed, model.predictor.calibration)
    if generator is not None:  # requests are read with its vocabulary
        generator = Generator(Decoder(closed.run, generator.decoder.shape), generator.vocabulary)
    return replace(model, predictor=predictor, generator=generator, opened=False)


def describe(served: Served) -> Described:
    """The name, version and labels for the figures; a task without labels has none."""
    labels = task_of(served.bundle).to_json().get("labels", ())
    return Described(served.name, served.version, tuple(str(label) for label in labels))


def open_model(served: Served, index: int, runtime: str, batch: int) -> Model:
    """Open, prove and warm up a model, with one thread a call: the batcher's runners are what fills the cores.

    A model that writes has the cores for each call, since one thread writes all of its texts.

    Raises:
        BundleError: the model cannot be opened, or computes something else than when it was made.
    """
    try:
        return prove(served, index, runtime, batch)
    except (BudwoodError, MemoryError):
        raise
    except Exception as error:
        raise BundleError(
            f"the model cannot be opened: {first_line(error)}",
            where=str(served.bundle.path),
            fix="make the model again, or try another --runtime",
        ) from error


def first_line(error: BaseException) -> str:
    """The kind of an error and the start of its message; messages of native libraries can be pages long."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def prove(served: Served, index: int, runtime: str, batch: int) -> Model:
    chosen = remembered(served.bundle) if runtime == "auto" else runtime
    threads = served.cores if task_of(served.bundle).writes else 1
    predictor = Predictor.open(served.bundle, chosen, threads)
    created = int(datetime.fromisoformat(served.bundle.manifest.created).timestamp())
    report = served.bundle.read(REPORT) if REPORT in served.bundle.manifest.files else b""
    generator = writing(predictor, served.bundle) if predictor.task.writes else None
    model = Model(served.name, served.version, index, predictor, generator, created, report, served.bundle)
    # The null runtime computes nothing, so there is nothing to prove.
    if runtime != "null" and (served.bundle.path / conformance.FILE).exists():
        conformance.check(predictor, served.bundle)
    _, rows = type(predictor.task).example()
    for size in (1, batch):
        predictor.predict([rows[i % len(rows)] for i in range(size)])
    return model


def writing(predictor: Predictor, bundle: Bundle) -> Generator:
    """What writes with the predictor's own runtime, so that the weights are in memory once."""
    return Generator(Decoder.of(predictor.runtime, bundle.path), Vocabulary.open(bundle.path))
