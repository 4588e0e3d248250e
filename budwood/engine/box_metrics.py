"""How right detections are: average precision by pycocotools with its intervals, and the threshold of the best F1.

Average precision is the COCO one: 101 points of recall, at most 100 objects an image, overlaps of 0.5 to 0.95.
"""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import require
from budwood.engine.boxes import Matched, match

__all__ = ["Precision", "average_precision", "best_threshold", "f1_scores", "shares"]

Objects = Sequence[Mapping[str, Any]]
MOST_RESAMPLES, LEAST_RESAMPLES = 1000, 50
LEAST_IMAGES = 10
"""Fewer say too little of other images for an interval."""
RESAMPLED = 200_000
"""Images times labels that are counted anew in all resamples together, which bounds the time to about a second."""


@dataclass(frozen=True)
class Precision:
    """Average precisions in [0, 1], as means over the labels that are there; nan where there is no true object."""

    ap: float
    """At overlaps from 0.5 to 0.95."""
    ap50: float
    by_label: Mapping[str, float]
    """At an overlap of 0.5."""
    curves: Mapping[str, NDArray[np.float64]]
    """Precision at 0.5 for each of 101 recalls from 0 to 1."""
    counts: Mapping[str, int]
    """True objects of each label, crowds left out."""
    intervals: Mapping[str, tuple[float, float]]
    """95 % intervals of `ap50` and, by name, of `ap50 LABEL`; images resampled. None of fewer than 10 images, nor where
    all resamples agree."""


def average_precision(
    labels: Sequence[str], found: Sequence[Objects], truth: Sequence[Objects], *, intervals: bool = False
) -> Precision:
    """Measure the objects found in each image against the true ones. Both are `{"label", "box"}`, found ones with
    `"score"`, true ones perhaps with `"crowd"`. True objects of other labels than `labels` are never found: AP 0.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    labels = [*labels, *sorted({item["label"] for objects in truth for item in objects} - set(labels))]
    evaluation = evaluated(labels, found, truth)
    if evaluation is None:
        return Precision(math.nan, math.nan, {}, {}, {}, {})
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    known = [number for number in range(len(labels)) if (precision[:, :, number] > -1).all()]
    if not known:
        return Precision(math.nan, math.nan, {}, {}, {}, {})
    counts = {labels[i]: sum(o["label"] == labels[i] and not o.get("crowd") for t in truth for o in t) for i in known}
    by_label = {labels[i]: float(precision[0, :, i].mean()) for i in known}
    return Precision(
        ap=float(precision[:, :, known].mean()),
        ap50=float(precision[0][:, known].mean()),
        by_label=by_label,
        curves={labels[i]: np.asarray(precision[0, :, i], np.float64) for i in known},
        counts=counts,
        intervals=resampled(evaluation, labels, len(truth)) if intervals and len(truth) >= LEAST_IMAGES else {},
    )


def evaluated(labels: Sequence[str], found: Sequence[Objects], truth: Sequence[Objects]) -> Any:
    """pycocotools' evaluation, accumulated; None when there is not one true object."""
    require("pycocotools", extra="train")
    kinds = import_module("pycocotools.coco"), import_module("pycocotools.cocoeval")
    if not any(truth):
        return None
    numbers = {label: number for number, label in enumerate(labels, 1)}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        sides = [kinds[0].COCO(), kinds[0].COCO()]
        for coco, each in zip(sides, (truth, found), strict=True):
            coco.dataset = {
                "images": [{"id": image} for image in range(1, len(truth) + 1)],
                "categories": [{"id": number, "name": label} for label, number in numbers.items()],
                "annotations": annotations(numbers, each),
            }
            coco.createIndex()
        evaluation = kinds[1].COCOeval(*sides, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def annotations(numbers: Mapping[str, int], each: Sequence[Objects]) -> list[dict[str, Any]]:
    """Objects as pycocotools takes them; labels that are not known are left out."""
    result: list[dict[str, Any]] = []
    for image, objects in enumerate(each, 1):
        for item in objects:
            if item["label"] not in numbers:
                continue
            x1, y1, x2, y2 = item["box"]
            entry = {
                "id": len(result) + 1,
                "image_id": image,
                "category_id": numbers[item["label"]],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": int(bool(item.get("crowd"))),
            }
            result.append(entry | ({"score": item["score"]} if "score" in item else {}))
    return result


def resampled(evaluation: Any, labels: Sequence[str], n_images: int) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals over bootstrap resamples of the images, of the overlap 0.5 alone."""
    matches, n_labels = [None if each is None else at_half(each) for each in evaluation.evalImgs], len(labels)
    evaluation._paramsEval.iouThrs = evaluation.params.iouThrs = evaluation.params.iouThrs[:1]
    random = np.random.default_rng(0)
    rows: list[NDArray[np.float64]] = []
    for _ in range(min(MOST_RESAMPLES, max(LEAST_RESAMPLES, RESAMPLED // len(matches)))):
        drawn = random.integers(0, n_images, n_images)
        evaluation.evalImgs = [matches[label * n_images + image] for label in range(n_labels) for image in drawn]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        each = evaluation.eval["precision"][0, :, :, 0, -1]
        rows.append(np.where((each > -1).all(axis=0), each.mean(axis=0), np.nan))
    table = np.stack(rows)
    result = {}
    for name, values in (
        ("ap50", mean_known(table)),
        *((f"ap50 {label}", table[:, i]) for i, label in enumerate(labels)),
    ):
        known = values[np.isfinite(values)]
        if len(known) and np.ptp(known) > 1e-9:
            low, high = np.quantile(known, (0.025, 0.975))
            result[name] = (float(low), float(high))
    return result


def at_half(matches: Mapping[str, Any]) -> dict[str, Any]:
    """The matches of one image and label at the first overlap only, which is a tenth of the work."""
    return {**matches, **{name: matches[name][:1] for name in ("dtMatches", "gtMatches", "dtIgnore")}}


def mean_known(table: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(table)
    return np.asarray(np.where(known, table, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1))


def f1_scores(found: Sequence[Objects], truth: Sequence[Objects]) -> list[Matched]:
    """How the objects of each image fit, at an overlap of 0.5."""
    return [match(objects, true) for objects, true in zip(found, truth, strict=True)]


def shares(matched: Sequence[Matched]) -> tuple[float, float]:
    """Precision and recall over all images; 0 where there is nothing to divide by."""
    right = sum(int(item.right.sum()) for item in matched)
    said, true = sum(int(item.counts.sum()) for item in matched), sum(item.n_true for item in matched)
    return right / said if said else 0.0, right / true if true else 0.0


def best_threshold(found: Sequence[Objects], truth: Sequence[Objects]) -> float:
    """The score from which objects are reported, such that the F1 of an image is best on average.

    Matching the surest object first makes the matches of all thresholds parts of one matching, so one pass is enough.
    """
    scores: list[float] = []
    images: list[int] = []
    right: list[bool] = []
    n_true = np.zeros(len(truth))
    for image, (objects, item) in enumerate(zip(found, f1_scores(found, truth), strict=True)):
        n_true[image] = item.n_true
        for number in np.flatnonzero(item.counts).tolist():
            scores.append(float(objects[number]["score"]))
            images.append(image)
            right.append(bool(item.right[number]))
    if not scores:
        return 0.5
    grid = np.unique(np.quantile(scores, np.linspace(0, 1, 200)))
    order, hit, level = np.asarray(images), np.asarray(right), np.asarray(scores)
    best, chosen = -1.0, 0.5
    for threshold in grid:
        kept = level >= threshold
        said = np.bincount(order[kept], minlength=len(truth))
        hits = np.bincount(order[kept & hit], minlength=len(truth))
        f1 = np.where(said + n_true > 0, 2 * hits / np.maximum(said + n_true, 1), 1.0).mean()
        if f1 > best:
            best, chosen = float(f1), float(threshold)
    return chosen
