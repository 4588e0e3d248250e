"""Text classification: one label, or a set of labels, from a fixed list for each text.

A row: {"text": "Where is my parcel?", "label": "delivery"}, or {"text": …, "label": ["delivery", "refund"]}.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import BundleError, DataError
from budwood.core.task import Answer, Arrays, Calibration, Encoded, Encoder, Row, Task
from budwood.engine import class_scores
from budwood.engine.calibrate import fit_temperature, probabilities
from budwood.engine.splits import identity, make_splits

__all__ = ["TextClassification"]

MAX_CHARACTERS = 100_000
"""Longer texts are refused: a tokenizer's time grows with the text, whatever is cut afterwards."""
THRESHOLD = 0.5
"""A label of a multi-label task is given when its calibrated probability reaches this."""


@final
@dataclass(frozen=True)
class TextClassification(Task):
    labels: tuple[str, ...]
    multi_label: bool = False
    max_tokens: int = 256
    """Longer texts are cut here, in training and in serving alike, and the answer says so."""

    name: ClassVar[str] = "text_classification"
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    pipeline_tag: ClassVar[str] = "text-classification"
    preprocessing: ClassVar[tuple[str, ...]] = ("tokenizer.json", "tokenizer_config.json")
    length_is_work: ClassVar[bool] = True
    default_base: ClassVar[str] = "minilm-l6"

    @property
    def metric(self) -> str:  # type: ignore[override]  # it depends on the kind of labels
        return "samples_f1" if self.multi_label else "accuracy"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"labels": list(self.labels)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        try:
            task = cls(**{**fields, "labels": tuple(fields["labels"])})
        except (TypeError, KeyError) as error:
            raise BundleError(f"the task's fields are off: {error}", where="bundle.json, task") from error
        well_typed = all(isinstance(label, str) for label in task.labels) and isinstance(task.max_tokens, int)
        if not well_typed or not task.labels or task.max_tokens < 1:
            raise BundleError("the task's fields have the wrong types", where="bundle.json, task")
        return task

    # Serving half

    def parse(self, item: object) -> Row:
        if not isinstance(item, Mapping):
            raise DataError("each input must be an object", where="input", fix='send {"text": "…"}')
        unknown = sorted(set(item) - {"text"})
        if unknown:
            raise DataError(f"unknown field {unknown[0]!r}", where=str(unknown[0]), fix='send {"text": "…"}')
        text = item.get("text")
        if not isinstance(text, str):
            problem = "is missing" if "text" not in item else f"must be a string, not {type(text).__name__}"
            raise DataError(f"text {problem}", where="text", fix='send {"text": "…"}')
        if not text.strip():
            raise DataError("text is empty", where="text", fix="send at least one character")
        if len(text) > MAX_CHARACTERS:
            raise DataError(f"text has {len(text)} characters, at most {MAX_CHARACTERS} are read", where="text")
        if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError("text is not valid Unicode: it has a lone surrogate", where="text")
        return {"text": text}

    def encoder(self, folder: Path) -> Encoder:
        tokenizer = open_tokenizer(folder, self.max_tokens)
        pad = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("pad_token_id") or 0

        def encode(rows: Sequence[Row]) -> Encoded:
            encodings = tokenizer.encode_batch([row["text"] for row in rows])
            width = max(len(item.ids) for item in encodings)
            shape = (len(encodings), width)
            inputs = {
                "input_ids": np.full(shape, pad, np.int64),
                "attention_mask": np.zeros(shape, np.int64),
                "token_type_ids": np.zeros(shape, np.int64),
            }
            for row, item in enumerate(encodings):
                size = len(item.ids)
                inputs["input_ids"][row, :size] = item.ids
                inputs["attention_mask"][row, :size] = 1
                inputs["token_type_ids"][row, :size] = item.type_ids
            return Encoded(inputs, [{"truncated": True} if item.overflowing else {} for item in encodings])

        return encode

    def decode(self, outputs: Arrays, calibration: Calibration, top: int) -> list[Answer]:
        temperature = calibration.get("temperature", 1.0)
        scaled = probabilities(outputs["logits"], temperature, multi_label=self.multi_label)
        if not self.multi_label:
            return class_scores.best_labels(self.labels, scaled, top)
        order = np.argsort(-scaled, axis=1, kind="stable")[:, : max(top, 1)]
        return [
            {
                "labels": [label for label, value in zip(self.labels, row, strict=True) if value >= THRESHOLD],
                "scores": {self.labels[i]: round(float(row[i]), 6) for i in best},
            }
            for row, best in zip(scaled, order, strict=True)
        ]

    def lengths(self, rows: Sequence[Row]) -> list[int]:
        return [len(row["text"]) for row in rows]

    @classmethod
    def request_schema(cls) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS, "pattern": r"\S"}
        return {"type": "object", "properties": {"text": text}, "required": ["text"], "additionalProperties": False}

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        probability = {"type": "number", "minimum": 0, "maximum": 1}
        properties = {
            "label": {"type": "string"},
            "labels": {"type": "array", "items": {"type": "string"}},
            "score": probability,
            "scores": {"type": "object", "additionalProperties": probability},
            "truncated": {"type": "boolean", "description": "the text was longer than the model reads and was cut"},
        }
        return {"type": "object", "properties": properties, "required": ["scores"]}

    # Data half

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> Self:
        multi_label = any(isinstance(row["label"], list | tuple) for row in rows)
        names = {name for row in rows for name in (label_set(row["label"]) if multi_label else [row["label"]])}
        labels = tuple(sorted(names))
        if len(labels) < 2:
            raise class_scores.one_label(labels)
        return cls(labels, multi_label)

    @classmethod
    def split(cls, dataset: Dataset, *, test: Dataset | None, seed: int, shots: int | None) -> Splits:
        return make_splits(dataset, test=test, seed=seed, shots=shots)

    def identity(self, row: Row) -> str:
        return identity(row, self.inputs)

    def fit_to(self, folder: Path) -> Self:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # RoBERTa-like models count positions from the padding id on, hence the two spare ones.
        positions = int(config.get("max_position_embeddings") or self.max_tokens + 2) - 2
        return replace(self, max_tokens=min(self.max_tokens, positions))

    def targets(self, rows: Sequence[Row]) -> NDArray[Any]:
        """Class numbers, shape (rows,) int64; for multi-label 0/1 rows, shape (rows, labels) float32."""
        if not self.multi_label:
            return class_scores.class_numbers(self.labels, rows)
        index = {label: number for number, label in enumerate(self.labels)}
        result = np.zeros((len(rows), len(self.labels)), np.float32)
        for i, row in enumerate(rows):
            for label in label_set(row["label"]):
                result[i, class_scores.label_number(index, label, i)] = 1.0
        return result

    # Measuring half

    def row_scores(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        """1 for a right label, 0 for a wrong one; multi-label: the F1 of each row's label set (1 if both are empty)."""
        pairs = zip(answers, rows, strict=True)
        if not self.multi_label:
            return np.asarray([float(answer["label"] == row["label"]) for answer, row in pairs])
        return np.asarray([set_f1(set(answer["labels"]), set(label_set(row["label"]))) for answer, row in pairs])

    def metrics(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, float]:
        """`macro_f1` over the labels that occur, and for single-label the recall of the worst class."""
        key = "labels" if self.multi_label else "label"
        given = [set(label_set(answer[key])) for answer in answers]
        actual = [set(label_set(row["label"])) for row in rows]
        return class_scores.class_metrics(self.labels, given, actual)

    # Training half

    @classmethod
    def take_base(cls, folder: Path, stage: Path) -> None:
        from budwood.engine.text_base import write_base

        write_base(folder, stage)

    def build(self, folder: Path) -> Any:
        from budwood.engine.text_model import load_classifier

        return load_classifier(folder, len(self.labels))

    def traceable(self, folder: Path) -> Any:
        """With plain attention, which fusion recognises."""
        from budwood.engine.text_model import load_classifier

        return load_classifier(folder, len(self.labels), attention="eager")

    def calibrate(self, logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """The temperature that makes the probabilities honest (Guo et al. 2017)."""
        return {"temperature": fit_temperature(logits, targets)}

    def save(self, model: Any, folder: Path) -> None:
        from budwood.engine.text_model import save_classifier

        save_classifier(model, folder)

    def loss(self, outputs: Any, targets: Any) -> Any:
        from torch.nn import functional

        if self.multi_label:
            return functional.binary_cross_entropy_with_logits(outputs["logits"], targets)
        return functional.cross_entropy(outputs["logits"], targets)

    @classmethod
    def example(cls) -> tuple[Self, list[Row]]:
        rows = [{"text": "fine work", "label": "good"}, {"text": "it came broken", "label": "bad"}] * 4
        return cls(("bad", "good")), [dict(row) for row in rows]


def label_set(label: Any) -> list[str]:
    return list(label) if isinstance(label, list | tuple) else [label]


def set_f1(given: set[str], actual: set[str]) -> float:
    if not given and not actual:
        return 1.0
    return 2 * len(given & actual) / (len(given) + len(actual))


def open_tokenizer(folder: Path, max_tokens: int) -> Any:
    """The folder's tokenizer, cut at `max_tokens`, unpadded: files often carry a fixed padding of their own.

    Raises:
        BundleError: tokenizer.json is missing or cannot be read.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every kind of failure
        raise BundleError(f"tokenizer.json cannot be read: {error}", where=str(path)) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=max_tokens)
    return tokenizer
