"""A task is the one place that knows what a row, a request and an answer look like.

The same methods encode and decode in training, evaluation and serving, so the three cannot drift apart.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import UsageError

if TYPE_CHECKING:
    from budwood.core.dataset import Dataset, Splits

__all__ = ["Answer", "Arrays", "Calibration", "Encoded", "Encoder", "Row", "Run", "Task", "brief", "plain_number"]

Row = Mapping[str, Any]
"""One example: the task's input fields, and `label` where it is known."""
Answer = dict[str, Any]
"""One prediction, ready for JSON."""
Arrays = dict[str, NDArray[Any]]
"""Named arrays; the first axis of each is the batch."""
Calibration = Mapping[str, float]
"""What was fitted after training, such as `{"temperature": 1.4}`."""


class Encoded(NamedTuple):
    """Model inputs for a batch, and what the caller should be told about each row."""

    inputs: Arrays
    notes: list[dict[str, Any]]
    """One dictionary a row, merged into its answer: `{}` or, say, `{"truncated": True}`."""


Encoder = Callable[[Sequence[Row]], Encoded]
Run = Callable[[Arrays], Arrays]
"""One batch through the model: a runtime's `run`."""


def plain_number(value: float) -> str:
    """A number in four digits, from a thousand on without fraction: 0.1235, 12.35, 869,500."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def brief(answer: Mapping[str, Any]) -> str:
    """An answer in a few words: its labels, its value, its properties, or what was written or measured."""
    if "labels" in answer:
        return ", ".join(answer["labels"]) or "(none)"
    if "properties" in answer:
        return ", ".join(f"{name} {brief(part)}" for name, part in answer["properties"].items())
    if "value" in answer:
        return plain_number(answer["value"])
    if "objects" in answer:
        counts = Counter(item["label"] for item in answer["objects"])
        return ", ".join(f"{count} {label}" for label, count in counts.items()) or "(no objects)"
    if "perplexity" in answer:
        return f"perplexity {answer['perplexity']:.2f}"
    return str(answer.get("label", answer.get("text", "(no answer)")))


class Task(ABC):
    """What every task in `budwood/tasks/` gives: a frozen dataclass whose fields are stored in the bundle."""

    name: ClassVar[str]
    """The file's name, and the name in `bundle.json`."""
    metric: ClassVar[str]
    """The headline metric. It is always the mean of `row_scores`, so that it can be compared pairwise."""
    inputs: ClassVar[tuple[str, ...]]
    """The input fields of a row, the first one being the main one (`("text",)`)."""
    pipeline_tag: ClassVar[str]
    """The Hugging Face pipeline tag for the model card."""
    preprocessing: ClassVar[tuple[str, ...]]
    """The files that `encoder` reads; each step carries them over unchanged."""
    files: ClassVar[tuple[str, ...]] = ()
    """The kinds of files that the main field takes as bytes (`("image/*",)`); none for a task that reads texts."""
    request_bytes: ClassVar[int] = 1 << 20
    """The longest request body that a server should take for it."""
    batch_size: ClassVar[int] = 32
    """Rows that are read together where many are; fewer where a row's outputs are large."""
    learning: ClassVar[str] = "heads"
    """The way to learn: `heads` where the model ends in a linear head; see `budwood/stages/`."""
    finds_objects: ClassVar[bool] = False
    """Whether answers have `objects`, each with a box."""
    writes: ClassVar[bool] = False
    """Whether its models write texts, token by token; a server then gives them threads of their own."""

    explains: ClassVar[bool] = False
    """Whether a request may ask for a picture of what its answer rests on, by `"explain": true`."""
    split_kinds: ClassVar[tuple[str, ...]] = ()
    """What `--split` may name, each a way to set rows aside; none where there is one way only."""
    no_shrink: ClassVar[str] = ""
    """Why models of this task cannot be shrunk; empty where they can."""
    draws: ClassVar[bool] = False
    """Whether `drawing` shows an input as a picture: for inputs that people read more easily so."""
    self_trains: ClassVar[bool] = False
    """Whether its answers are one `label` with a `score`, the probability, so that a sure answer can be learnt from."""
    needs_gain: ClassVar[bool] = False
    """Whether the baseline stays unless the adapted network is better on held-out rows, however few they are."""
    default_top: ClassVar[int] = 3
    """Alternatives, or objects, that an answer lists where nobody says how many."""
    length_is_work: ClassVar[bool] = False
    """Whether the length of a row says how long its answer takes; a server may then compute short ones in its loop."""
    penalties: ClassVar[tuple[float, ...]] = (1.0, 3.0, 10.0, 30.0, 100.0)
    """Inverse strengths of the L2 penalty that the linear head may have, the strongest penalty first."""
    default_base: ClassVar[str]
    """The entry of `bases.toml` that `--base auto` takes."""

    # Identity
    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The fields, ready for `bundle.json` (without the name)."""

    @classmethod
    @abstractmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises BundleError on an unknown or missing field."""

    # Serving half: numpy and light libraries only
    @abstractmethod
    def parse(self, item: object) -> Row:
        """Check one request item and return it as a row. Raises DataError whose `where` is the field's name."""

    @classmethod
    def typed(cls, argument: str) -> Any:
        """What an argument of the command line means in the main field; a task that reads files makes it a path."""
        return argument

    def item(self, row: Row) -> dict[str, Any]:
        """A request item that `parse` takes, ready for JSON, standing for this row."""
        return {field: row[field] for field in self.inputs}

    @abstractmethod
    def encoder(self, folder: Path) -> Encoder:
        """The function that turns rows into model inputs, with the preprocessing files of `folder`."""

    @abstractmethod
    def decode(self, outputs: Arrays, calibration: Calibration, top: int) -> list[Answer]:
        """Model outputs to answers, one a row, each with its `top` best alternatives."""

    def finish(self, inputs: Arrays, outputs: Arrays) -> Arrays:
        """What is kept of a batch's outputs, before they are decoded and compared; all of them by default."""
        return outputs

    def answer(
        self, rows: Sequence[Row], encoder: Encoder, run: Run, calibration: Calibration, top: int
    ) -> list[Answer]:
        """Answers for one batch: one pass through the model. A task that loops, as writing does, has its own way."""
        encoded = encoder(rows)
        answers = self.decode(self.finish(encoded.inputs, run(encoded.inputs)), calibration, top)
        return [answer | note for answer, note in zip(answers, encoded.notes, strict=True)]

    @abstractmethod
    def lengths(self, rows: Sequence[Row]) -> list[int]:
        """A cheap size of each row; rows of like size are batched together."""

    @classmethod
    @abstractmethod
    def request_schema(cls) -> dict[str, Any]:
        """JSON schema of one request item."""

    @classmethod
    @abstractmethod
    def answer_schema(cls) -> dict[str, Any]:
        """JSON schema of one answer."""

    # Data half
    @classmethod
    def suits(cls, rows: Sequence[Row]) -> float:
        """How well the task fits rows that have its input fields, from 0 to 1; `--task auto` takes the best."""
        return 0.5

    @classmethod
    @abstractmethod
    def from_rows(cls, rows: Sequence[Row]) -> Self:
        """The task that these labelled rows describe. Raises DataError when they describe none."""

    @classmethod
    def described(cls, rows: Sequence[Row], options: Mapping[str, Any]) -> Self:
        """The task of these rows with what the user says of them; see `from_rows` and `with_options`."""
        return cls.from_rows(rows).with_options(options)

    @classmethod
    @abstractmethod
    def split(cls, dataset: "Dataset", *, test: "Dataset | None", seed: int, shots: int | None) -> "Splits":
        """Rows to learn from, to choose by and to test on, such that nothing leaks from one to another.

        Raises:
            DataError: there are too few rows to hold any out. UsageError: the number of shots is out of range.
        """

    @classmethod
    def split_by(cls, kind: str, dataset: "Dataset", *, seed: int) -> "Splits":
        """The same, in one of the ways of `split_kinds`. Raises DataError when there are too few rows."""
        raise UsageError(f"{cls.name} rows are set aside in one way only", where="--split", fix="leave it out")

    def drawing(self, row: Row) -> str:
        """One `<svg>` element that shows the input, made of shapes and numbers only; see `draws`.

        Raises:
            DataError: this input cannot be drawn. UsageError: the task draws none.
        """
        raise UsageError(f"inputs of {self.name} are not drawn", where=self.name)

    def identity(self, row: Row) -> str:
        """What two rows share when they are the same input: by default the hash of the content, or the input fields.

        A task whose inputs can be written in several ways has one spelling for all of them.
        """
        return str(row.get("sha256") or "\n".join(str(row[field]) for field in self.inputs))

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """The same task with what the user says of the data, such as `{"flip": False}` for `--no-flip`.

        Raises:
            UsageError: the task has no such option, or the value does not suit it.
        """
        for name, value in options.items():
            flag = f"--no-{name}" if value is False else f"--{name}"
            raise UsageError(f"{self.name} has no option {name!r}", where=flag, fix=f"leave out {flag}")
        return self

    def notes(self) -> tuple[str, ...]:
        """What was decided about the labels, to be printed as `key=value  # why`; nothing by default."""
        return ()

    def method_for(self, asked: str, n_rows: int) -> tuple[str, str] | None:
        """The method to try beside the baseline, and why; None leaves it to the rows of each class.

        Raises:
            UsageError: the method that was asked for is not for this task.
        """
        return None

    def fit_to(self, folder: Path) -> Self:
        """The same task with its limits lowered to what the base model in `folder` can read."""
        return self

    @abstractmethod
    def targets(self, rows: Sequence[Row]) -> NDArray[Any]:
        """The labels as an array for training. Raises DataError on an unknown label, naming the row."""

    # Measuring half
    @abstractmethod
    def row_scores(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        """How right each answer is, in [0, 1]; the mean is the headline metric."""

    def quality(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        """How good each answer is, in [0, 1]: what ways to learn are compared by on held-out rows.

        The row scores, or where these are right or wrong only, a proper score that fewer rows can decide by. Answers
        come with all their alternatives.
        """
        return self.row_scores(answers, rows)

    def asked(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Labelled rows as what a server is asked: speed is measured with them. As they are by default."""
        return rows

    def losses(self, parent: NDArray[np.float64], child: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each row lost from a parent to its child, from their row scores, in the unit of `shrink --max-drop`.

        By default the difference: a mean loss of 0.01 is a point of the headline metric.
        """
        return parent - child

    drop_note: ClassVar[str] = ""
    """What a drop means where it is not points of the headline metric; printed when a search begins."""
    quality_name: ClassVar[str] = ""
    """What `quality` is called where it is not the row score; printed with the differences."""

    @abstractmethod
    def metrics(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, float]:
        """Further metrics, by their standard names."""

    def measuring(self) -> Self:
        """The same task with answers that hold all that `row_scores` and `metrics` need; itself by default."""
        return self

    def intervals(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
        """95 % intervals of those further metrics that are printed beside the headline metric; none by default."""
        return {}

    @property
    def keeps_logits(self) -> bool:
        """Whether a report on calibration needs the logits of the test rows beside the answers."""
        return "labels" in self.to_json()

    def chances(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64] | None:
        """The predicted chance of one event and whether it came (1 or 0), shape (rows, 2), where answers are risks."""
        return None

    # Training half: torch is imported inside
    @property
    def head(self) -> str:
        """What the linear head learns: `classes`, `numbers`, `events` or `hazards`, see `engine/head_fit.py`."""
        return "classes"

    @classmethod
    @abstractmethod
    def take_base(cls, folder: Path, stage: Path) -> None:
        """Write the pretrained model of a folder to `stage`: an ordinary transformers directory with the preprocessing.

        `folder` is a transformers directory, or the folder of a bundle of this kind of task.

        Raises:
            BundleError: the folder holds another kind of model, or one that cannot be loaded.
        """

    @classmethod
    def new_base(cls, stage: Path) -> None:
        """Write a base without weights to `stage`: for tasks that can begin anew from the user's own rows."""
        raise UsageError(f"{cls.name} begins with a pretrained model", where="--base", fix="budwood adapt --list-bases")

    @abstractmethod
    def build(self, folder: Path) -> Any:
        """The torch module of a folder: `forward` takes the encoder's arrays and gives `logits` and `embedding`.

        `head` is its last linear layer, from the embedding to the logits.
        """

    def prepare(self, model: Any) -> Any:
        """The module that fine-tuning trains, from the one that `build` gave: the same one by default."""
        return model

    def traceable(self, folder: Path) -> Any:
        """The module in the form that exports best."""
        return self.build(folder)

    def augment(self, inputs: Arrays, random: np.random.Generator) -> Arrays:
        """A varied copy of a training batch's inputs; nothing is varied by default."""
        return inputs

    def views(self, inputs: Arrays) -> list[Arrays]:
        """Further views of a batch's inputs that mean the same, for the linear head to learn from; none by default."""
        return []

    def recipe(self, n_rows: int) -> dict[str, Any]:
        """What `adapt.full` should take for so many rows, instead of its defaults: any of its parameters by name."""
        return {}

    def calibrate(self, logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """What `decode` needs to be honest, fitted on the logits of rows that training has not seen."""
        return {}

    @abstractmethod
    def save(self, model: Any, folder: Path) -> None:
        """Write the module that `build` gave, so that `build` loads it again and transformers loads its part."""

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Any:
        """The training loss of a batch of outputs, a scalar tensor."""

    @classmethod
    @abstractmethod
    def example(cls) -> tuple[Self, list[Row]]:
        """A tiny task with a few rows, for the contract tests."""
