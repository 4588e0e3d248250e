"""The only inference path: parse, encode, run, decode. Evaluation, `predict` and the server all go through it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, DataError
from budwood.core.runtime import Runtime
from budwood.core.task import Answer, Arrays, Calibration, Encoded, Encoder, Row, Task

__all__ = ["EMBEDDING", "Predictor", "default_runtime", "task_of"]


def task_of(bundle: Bundle) -> Task:
    """The task that a bundle was made for. Raises BundleError when it is a base model without one."""
    fields = dict(bundle.manifest.task or {})
    if not fields:
        raise BundleError(
            "this is a base model without a task", where=str(bundle.path), fix="budwood adapt DATA --base FOLDER"
        )
    kind: type[Task] = registry.get("tasks", fields.pop("name"))
    return kind.from_json(fields)


def default_runtime(bundle: Bundle) -> str:
    """ONNX Runtime when the bundle has a graph, else torch."""
    return "onnxruntime" if bundle.formats - {"torch"} else "torch"


EMBEDDING = "embedding"
"""The output of a graph with the pooled state that the head reads, (rows, width)."""
NO_EMBEDDING = "the model's graph gives no embeddings: it has been made without that output"


@dataclass(frozen=True)
class Predictor:
    """A task, its encoder and a runtime, ready to answer. Safe to call from several threads."""

    task: Task
    encoder: Encoder
    runtime: Runtime
    calibration: Calibration

    @classmethod
    def open(cls, bundle: Bundle, runtime: str = "auto", threads: int = 0) -> Self:
        """Open a bundle for prediction; `auto` takes ONNX Runtime when the bundle has a graph, else torch."""
        task = task_of(bundle)
        if runtime == "auto":
            runtime = default_runtime(bundle)
        kind: type[Runtime] = registry.get("runtimes", runtime)
        return cls(task, task.encoder(bundle.path), kind.open(bundle, threads), bundle.manifest.calibration)

    @property
    def embeds(self) -> bool:
        """Whether the model gives the vectors that its head reads. A runtime that does not know it beforehand may."""
        return not self.task.writes and (not self.runtime.outputs or EMBEDDING in self.runtime.outputs)

    def embed(self, rows: Sequence[Row]) -> list[Answer]:
        """What the model's head reads of each row of one batch: `embedding`, float32 of shape (width,), of length 1.

        `tokens` are those that were read, 0 where the inputs are no texts; `truncated` stands where a text was cut.

        Raises:
            DataError: the model gives no such vectors, or a row's vector is not finite.
        """
        encoded = self.encoder(rows)
        outputs = self.runtime.run(encoded.inputs)
        if EMBEDDING not in outputs:
            raise DataError(NO_EMBEDDING, where="the model", fix="make its graph again: budwood export NAME")
        vectors = outputs[EMBEDDING].astype(np.float32)
        if not np.isfinite(vectors).all():
            raise DataError("the model's vector of this input is not finite", where="the model")
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        mask = encoded.inputs.get("attention_mask")
        tokens = np.zeros(len(rows), np.int64) if mask is None else mask.sum(axis=1)
        return [
            {EMBEDDING: vector, "tokens": int(count)} | note
            for vector, count, note in zip(vectors, tokens, encoded.notes, strict=True)
        ]

    def predict(self, rows: Sequence[Row], top: int | None = None) -> list[Answer]:
        """Answers for one batch of rows that `task.parse` has accepted; `top` is the task's own when left out."""
        return self.task.answer(rows, self.encoder, self.runtime.run, self.calibration, top or self.task.default_top)

    def predict_all(self, rows: Sequence[Row], batch_size: int | None = None, top: int | None = None) -> list[Answer]:
        """Answers for any number of rows, in their order; rows of like length share a batch, so little is padded."""
        answers: list[Answer] = [{}] * len(rows)
        for batch in batches(self.task.lengths(rows), batch_size or self.task.batch_size):
            for index, answer in zip(batch, self.predict([rows[i] for i in batch], top), strict=True):
                answers[index] = answer
        return answers

    def predict_with_logits(
        self, rows: Sequence[Row], batch_size: int | None = None, top: int | None = None
    ) -> tuple[list[Answer], NDArray[Any]]:
        """As `predict_all`, with the logits before calibration, shape (rows, …), from the same pass."""
        answers: list[Answer] = [{}] * len(rows)
        logits: list[Any] = [None] * len(rows)
        for batch in batches(self.task.lengths(rows), batch_size or self.task.batch_size):
            encoded = self.encoder([rows[i] for i in batch])
            outputs = self.finished(encoded)
            found = self.task.decode(outputs, self.calibration, top or self.task.default_top)
            for index, answer, note, row in zip(batch, found, encoded.notes, outputs["logits"], strict=True):
                answers[index], logits[index] = answer | note, row
        return answers, np.asarray(logits)

    def outputs(self, rows: Sequence[Row], batch_size: int | None = None) -> Arrays:
        """The model outputs for any number of rows, in their order, before calibration."""
        order: list[int] = []
        parts: list[Arrays] = []
        for batch in batches(self.task.lengths(rows), batch_size or self.task.batch_size):
            order.extend(batch)
            parts.append(self.finished(self.encoder([rows[i] for i in batch])))
        back = np.argsort(np.asarray(order))
        return {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}

    def finished(self, encoded: Encoded) -> Arrays:
        """What is kept of the outputs for one encoded batch."""
        return self.task.finish(encoded.inputs, self.runtime.run(encoded.inputs))

    def close(self) -> None:
        self.runtime.close()


def batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Row numbers grouped into batches of like length."""
    order = [int(i) for i in np.argsort(np.asarray(lengths), kind="stable")]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
