"""A step is a frozen dataclass: its fields are its parameters, its one method makes a new bundle from a bundle."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from budwood.core.bundle import Bundle
from budwood.core.dataset import Splits
from budwood.core.errors import UsageError
from budwood.core.task import Row, Task

__all__ = ["Context", "Progress", "Step", "check_minutes", "check_seed", "silent"]

Progress = Callable[[str, int, int, str], None]
"""Called with (what is being done, steps done, steps in all, a note such as the best score so far)."""


def silent(what: str, done: int, total: int, note: str) -> None:
    """A progress listener that shows nothing."""


def check_minutes(minutes: float | None) -> None:
    """Raise UsageError when these minutes cannot be granted; None grants as many as it takes."""
    if minutes is not None and not 0 < minutes < 1e5:
        raise UsageError(f"{minutes} minutes make no sense", where="--max-minutes", fix="give a positive number")


def check_seed(seed: int) -> None:
    """Raise UsageError when not every source of random numbers takes this seed."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"the seed is {seed}", where="--seed", fix="give a whole number from 0 to 4294967295")


@dataclass(frozen=True)
class Context:
    """What a step may use besides its parent: where to write, the data, and how long it may take."""

    out: Path
    """Where the new bundle goes; it does not exist yet."""
    work: Path
    """A folder for checkpoints; it outlives a killed process, and the same run gets it again."""
    splits: Splits | None = None
    task: Task | None = None
    """The task to learn; None keeps the parent's."""
    seed: int = 0
    seconds: float | None = None
    """How long the step may take, as a wish: it stops early and keeps its best."""
    progress: Progress = field(default=silent)
    unlabelled: Sequence[Row] = ()
    """Further rows without a label, which a student can still learn from its teacher."""


class Step(ABC):
    """What every file in `budwood/steps/*/` gives."""

    name: ClassVar[str]
    """The folder and the file: `adapt.head`, `shrink.quantize_dynamic`."""
    takes: ClassVar[frozenset[str]]
    """The formats that the parent must have: `torch`, `onnx`, `onnx-int8`, `onnx-q4`."""
    gives: ClassVar[frozenset[str]]
    """The formats that the child has."""
    tasks: ClassVar[frozenset[str]] = frozenset()
    """The tasks that it is for; empty for any."""

    @abstractmethod
    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Make the child at `context.out`. The parent is left alone.

        Raises:
            StepError: the result must not be used.
        """

    def advice(self, task: Task, n_rows: int) -> str:
        """What it will do with so many rows, as `key=value  # why`; empty where nothing depends on them."""
        return ""

    def inputs(self) -> str:
        """What the result depends on besides the parameters, the parent and the context, such as the content of a file.

        It is part of the key of a stored result; empty where there is nothing else.
        """
        return ""

    def parameters(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # every concrete step is a dataclass
