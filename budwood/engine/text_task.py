"""What all tasks on single texts share: requests, limits, the tokenizer, splits, and the encoder with its linear head.

A task in `budwood/tasks/` extends `TextTask` and adds its labels, its answers, its loss and its scores.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import BundleError, DataError
from budwood.core.task import Encoded, Encoder, Row, Task
from budwood.engine.splits import identity, make_splits
from budwood.engine.tokenizer_file import read_tokenizer

__all__ = ["MAX_CHARACTERS", "TextTask"]

MAX_CHARACTERS = 100_000
"""Longer texts are refused: a tokenizer's time grows with the text, whatever is cut afterwards."""

SOMETHING = r"[^\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
"""A character that `str.strip` leaves, as a pattern of JSON Schema: what `\\S` means differs between languages."""


@dataclass(frozen=True, kw_only=True)
class TextTask(Task, ABC):
    """A task whose rows are `{"text": …, "label": …}`."""

    max_tokens: int = 256
    """Longer texts are cut here, in training and in serving alike, and the answer says so."""

    inputs: ClassVar[tuple[str, ...]] = ("text",)
    preprocessing: ClassVar[tuple[str, ...]] = ("tokenizer.json", "tokenizer_config.json")
    length_is_work: ClassVar[bool] = True
    default_base: ClassVar[str] = "minilm-l6"

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """How many logits the linear head gives."""

    def checked(self) -> Self:
        """The same task, for `from_json`. Raises BundleError when `max_tokens` has the wrong type or is below 1."""
        if type(self.max_tokens) is not int or self.max_tokens < 1:
            raise BundleError("the task's fields have the wrong types", where="bundle.json, task")
        return self

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
        tokenizer = read_tokenizer(folder, self.max_tokens)
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

    def lengths(self, rows: Sequence[Row]) -> list[int]:
        return [len(row["text"]) for row in rows]

    @classmethod
    def request_schema(cls) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS, "pattern": SOMETHING}
        return {"type": "object", "properties": {"text": text}, "required": ["text"], "additionalProperties": False}

    # Data half

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

    # Training half

    @classmethod
    def take_base(cls, folder: Path, stage: Path) -> None:
        from budwood.engine.text_base import write_base

        write_base(folder, stage)

    def build(self, folder: Path) -> Any:
        from budwood.engine.text_model import load_classifier

        return load_classifier(folder, self.n_outputs)

    def traceable(self, folder: Path) -> Any:
        """With plain attention, which fusion recognises."""
        from budwood.engine.text_model import load_classifier

        return load_classifier(folder, self.n_outputs, attention="eager")

    def save(self, model: Any, folder: Path) -> None:
        from budwood.engine.text_model import save_classifier

        save_classifier(model, folder)
