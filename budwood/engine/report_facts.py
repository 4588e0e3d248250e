"""What a report tells of a model's answers on the test rows: confusions, calibration, intervals, the worst errors.

Pure numbers and texts, taken from answers and logits that were computed anyway; the pictures and the page show them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import DataError
from budwood.core.task import Answer, Calibration, Row, Task, brief, plain_number
from budwood.engine.calibrate import brier, expected_calibration_error, probabilities
from budwood.engine.card import ClassFacts
from budwood.engine.measure import Scores
from budwood.engine.number_metrics import resampled_span
from budwood.engine.report_boxes import Curves, curves_of, label_facts, worst_image
from budwood.engine.risk_facts import Tenth, number_pairs, raw_chances, tenths_of

__all__ = ["Mistake", "Outcome", "Reliability", "macro_f1_interval", "outcome_of"]

Span = tuple[float, float]

BINS = 15
"""Equal bins of the confidence, as in the expected calibration error."""
MOST_MISTAKES = 20
MOST_IMAGES = 12
"""Images with boxes, which are larger."""
MOST_DISTANT = 12
"""Answers that are nearer to the truth or further from it, rather than right or wrong."""
MOST_DRAWN = 40_000
"""Characters of one drawing: twenty of them are a fifth of what a page may have."""
LONGEST_TEXT = 300
THUMBNAIL = 112
"""Pixels of the longer side of an image's small copy."""
RESAMPLES = 1000
CHUNK = 50
"""Resamples at a time, which bounds the memory."""
MOST_CELLS = 50_000_000
"""Rows times labels above which no interval of macro F1 is resampled."""


@dataclass(frozen=True)
class Reliability:
    """How confidence and accuracy agree, bin by bin; empty bins are left out."""

    confidence: tuple[float, ...]
    """Mean confidence of a bin's answers."""
    accuracy: tuple[float, ...]
    """Share of them that is right."""
    rows: tuple[int, ...]
    """How many they are; for several labels a row, every label of every row counts."""
    ece: float
    """Expected calibration error: the mean distance of the two, weighted by rows; 0 is best."""
    brier: float


@dataclass(frozen=True)
class Mistake:
    """A test row with a wrong answer, or with one that is far from the truth."""

    label: str
    answer: str
    confidence: float | None
    """How sure the model was of what is wrong; None where the task gives no probabilities."""
    text: str
    """The input, shortened; empty for an image."""
    image: bytes = b""
    """A small JPEG of an image."""
    drawing: str = ""
    """An `<svg>` element, where the task draws its inputs."""


@dataclass(frozen=True)
class Outcome:
    """A model's answers on the test rows, as far as the task has labels, probabilities or numbers."""

    labels: tuple[str, ...] = ()
    multi_label: bool = False
    confusion: NDArray[np.int64] | None = None
    """Rows by true label (first axis) and given label, shape (labels, labels); None unless each row has one label."""
    classes: tuple[ClassFacts, ...] = ()
    before: Reliability | None = None
    """Without calibration."""
    after: Reliability | None = None
    """As the model answers."""
    mistakes: tuple[Mistake, ...] = ()
    """The surest wrong answers first; where `graded`, those furthest from the truth."""
    graded: bool = False
    """Whether answers are nearer to the truth or further from it: numbers and risks, which are not right or wrong."""
    numbers: NDArray[np.float64] | None = None
    """True and given number of each row, shape (rows, 2), where labels are numbers."""
    logarithmic: bool = False
    """Whether the logarithm of the numbers was learnt."""
    tenths: tuple[Tenth, ...] = ()
    """Where answers are risks: what was foretold and what came, for each tenth of the rows."""
    curves: Curves | None = None
    """Of a detector: precision against recall."""
    intervals: Mapping[str, Span] = field(default_factory=dict)
    """95 % intervals of further metrics."""


def outcome_of(task: Task, rows: Sequence[Row], scores: Scores, calibration: Calibration) -> Outcome:
    """What there is to tell of these answers; what does not apply to the task stays empty."""
    if task.finds_objects:
        return outcome_of_boxes(task, rows, scores)
    labels = class_labels(task, rows, scores.answers)
    wrong = np.flatnonzero(scores.per_row < 1)
    if not labels:
        graded = not np.isin(scores.per_row, (0, 1)).all()
        order = distant(scores.per_row) if graded else wrong
        chances, raw = task.chances(scores.answers, rows), raw_chances(task, rows, scores)
        found = mistakes(task, rows, scores.answers, order, {})
        return Outcome(
            before=None if raw is None else of_chances(raw),
            after=None if chances is None else of_chances(chances),
            tenths=() if chances is None else tenths_of(chances),
            mistakes=found,
            graded=graded and bool(found),
            numbers=number_pairs(rows, scores.answers) if chances is None else None,
            logarithmic=bool(task.to_json().get("log")),
            intervals=task.intervals(scores.answers, rows),
        )
    truth, given = indicators(labels, rows, scores.answers)
    multi_label = any("labels" in answer for answer in scores.answers)
    before = after = None
    sure = np.asarray([max(answer["scores"].values(), default=0.0) for answer in scores.answers])
    if scores.logits is not None and scores.logits.shape == truth.shape:
        targets = truth.astype(np.float32) if multi_label else truth.argmax(axis=1)
        raw = probabilities(scores.logits, multi_label=multi_label)
        honest = probabilities(scores.logits, calibration.get("temperature", 1.0), multi_label=multi_label)
        before, after = reliability(raw, targets), reliability(honest, targets)
        sure = np.abs(honest - truth).max(axis=1) if multi_label else honest.max(axis=1)
    order = wrong[np.argsort(-sure[wrong], kind="stable")]
    doubt = {int(i): float(sure[i]) for i in order[:MOST_MISTAKES]}
    f1 = macro_f1_interval(truth, given) if truth.size <= MOST_CELLS else None
    return Outcome(
        labels=labels,
        multi_label=multi_label,
        confusion=None if multi_label else confusion_of(truth, given),
        classes=class_facts(labels, truth, given),
        before=before,
        after=after,
        mistakes=mistakes(task, rows, scores.answers, order, doubt),
        intervals=task.intervals(scores.answers, rows)
        | ({"macro_f1": f1} if f1 and "macro_f1" in scores.metrics else {}),
    )


def outcome_of_boxes(task: Task, rows: Sequence[Row], scores: Scores) -> Outcome:
    """Of a detector. The images with the lowest F1 are shown with what was found and what is there."""
    labels = task.to_json()["labels"]
    curves = curves_of(labels, scores.answers, rows)
    worst = [int(i) for i in np.argsort(scores.per_row, kind="stable")[:MOST_IMAGES] if scores.per_row[i] < 1]
    shown_images = tuple(
        Mistake(
            label=brief({"objects": rows[i]["label"]}),
            answer=brief(scores.answers[i]),
            confidence=None,
            text=f"F1 {scores.per_row[i]:.2f}; the true boxes are white",
            image=worst_image(rows[i], scores.answers[i], labels),
        )
        for i in worst
    )
    facts = label_facts(labels, scores.answers, rows)
    return Outcome(classes=facts, mistakes=shown_images, curves=curves, intervals=curves.intervals)


def distant(per_row: NDArray[np.float64]) -> NDArray[np.intp]:
    """The rows with the largest errors, the largest first: at most 12, and only such as are above the median."""
    order = np.argsort(per_row, kind="stable")
    return order[per_row[order] < np.median(per_row)][:MOST_DISTANT]


def class_labels(task: Task, rows: Sequence[Row], answers: Sequence[Answer]) -> tuple[str, ...]:
    """The task's labels, where rows and answers speak of them and of nothing else."""
    names = task.to_json().get("labels") or ()
    known = set(names)
    for row, answer in zip(rows, answers, strict=True):
        label, given = row.get("label"), answer.get("labels", answer.get("label"))
        each = [*label] if isinstance(label, list | tuple) else [label]
        each += [*given] if isinstance(given, list | tuple) else [given]
        if not answer.get("scores") or not all(isinstance(name, str) and name in known for name in each):
            return ()
    return tuple(names)


def indicators(
    labels: Sequence[str], rows: Sequence[Row], answers: Sequence[Answer]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which labels are true and which are given, shape (rows, labels) each."""
    index = {label: number for number, label in enumerate(labels)}
    truth, given = (np.zeros((len(rows), len(labels)), bool) for _ in range(2))
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        truth[i, [index[name] for name in labels_of(row["label"])]] = True
        given[i, [index[name] for name in labels_of(answer.get("labels", answer.get("label")))]] = True
    return truth, given


def labels_of(value: Any) -> set[str]:
    return {str(item) for item in value} if isinstance(value, list | tuple) else {str(value)}


def class_facts(labels: Sequence[str], truth: NDArray[np.bool_], given: NDArray[np.bool_]) -> tuple[ClassFacts, ...]:
    """Recall and precision of each label that is true of a row, the worst recall first."""
    hits, true, said = (part.sum(axis=0).tolist() for part in (truth & given, truth, given))
    found = [
        ClassFacts(label, hit / n, hit / times if times else None, n)
        for label, hit, n, times in zip(labels, hits, true, said, strict=True)
        if n
    ]
    return tuple(sorted(found, key=lambda item: (item.recall or 0.0, item.label)))


def confusion_of(truth: NDArray[np.bool_], given: NDArray[np.bool_]) -> NDArray[np.int64]:
    size = truth.shape[1]
    codes = truth.argmax(axis=1) * size + given.argmax(axis=1)
    return np.bincount(codes, minlength=size * size).reshape(size, size).astype(np.int64)


def reliability(probability: NDArray[np.float64], targets: NDArray[Any]) -> Reliability:
    """Bins of the confidence for probabilities of shape (rows, labels); targets as `expected_calibration_error`."""
    if targets.ndim == 1:
        confidence, right = probability.max(axis=1), (probability.argmax(axis=1) == targets).astype(np.float64)
    else:
        confidence, right = probability.ravel(), targets.ravel().astype(np.float64)
    index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(index, minlength=BINS)
    filled = np.flatnonzero(counts)
    return Reliability(
        confidence=tuple((np.bincount(index, confidence, BINS)[filled] / counts[filled]).tolist()),
        accuracy=tuple((np.bincount(index, right, BINS)[filled] / counts[filled]).tolist()),
        rows=tuple(counts[filled].tolist()),
        ece=expected_calibration_error(probability, targets, BINS),
        brier=brier(probability, targets),
    )


def of_chances(pairs: NDArray[np.float64]) -> Reliability:
    """Bins of the risk itself: how often it came true."""
    return reliability(pairs[:, :1], pairs[:, 1:])


def macro_f1_interval(truth: NDArray[np.bool_], given: NDArray[np.bool_], seed: int = 0) -> Span | None:
    """95 % percentile interval of the mean F1 of the labels that occur, over bootstrap resamples of the rows.

    Rows with the same true and given labels count as one with a weight, so the resampling is quick. None where all
    resamples agree, as they do without an error: that says nothing of new rows.
    """
    patterns, counts = np.unique(np.concatenate([truth, given], axis=1), axis=0, return_counts=True)
    true, said = (part.astype(np.float32) for part in np.split(patterns, 2, axis=1))
    random = np.random.default_rng(seed)
    means: list[float] = []
    for _ in range(RESAMPLES // CHUNK):
        weights = random.multinomial(len(truth), counts / len(truth), CHUNK).astype(np.float32)
        actual = weights @ true
        f1 = 2 * (weights @ (true * said)) / np.maximum(actual + weights @ said, 1)
        means += (np.where(actual > 0, f1, 0).sum(axis=1) / np.maximum((actual > 0).sum(axis=1), 1)).tolist()
    return resampled_span(means)


def mistakes(
    task: Task, rows: Sequence[Row], answers: Sequence[Answer], order: NDArray[Any], sure: Mapping[int, float]
) -> tuple[Mistake, ...]:
    found = []
    for i in order[:MOST_MISTAKES].tolist():
        row, answer = rows[i], answers[i]
        if row.get("label") is None:
            continue
        value = row[task.inputs[0]]
        image = thumbnail(value) if task.inputs[0] == "image" else b""
        text = "" if image else shortened(str(value))
        found.append(
            Mistake(shown(row["label"]), answer_text(task, answer), sure.get(i), text, image, drawn(task, row))
        )
    return tuple(found)


def answer_text(task: Task, answer: Answer) -> str:
    """An answer as text; a risk with what it is of, or by when."""
    value = answer.get("labels", answer.get("label", answer.get("value", answer.get("properties", ""))))
    if "horizon" in answer:
        return f"risk by {plain_number(answer['horizon'])}: {shown(value)}"
    if outcomes := task.to_json().get("outcomes"):
        return f"risk of {shown(outcomes[-1])}: {shown(value)}"
    return shown(value)


def drawn(task: Task, row: Row) -> str:
    """The drawing of an input; empty where the task has none, or where it is too large for a page with others."""
    if not task.draws:
        return ""
    try:
        found = task.drawing(row)
    except DataError:  # too large to be drawn
        return ""
    return found if len(found) <= MOST_DRAWN else ""


def shown(value: Any) -> str:
    """A label or a set of labels as text."""
    if isinstance(value, float):
        return plain_number(value)
    if isinstance(value, Mapping):
        parts = [f"{name}: {shown(part)}" for name, part in value.items() if part is not None]
        return shortened(", ".join(parts)) or "none"
    return shortened(", ".join(sorted(labels_of(value))) or "none")


def shortened(text: str) -> str:
    line = re.sub(r"\s+", " ", text).strip()
    line = "".join(char if char.isprintable() else "�" for char in line)
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"


def thumbnail(source: Any) -> bytes:
    from io import BytesIO

    from budwood.engine.images import open_image

    image = open_image(source, THUMBNAIL)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()
