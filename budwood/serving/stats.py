"""Figures of each model beyond the counters, for /stats and /metrics: pace, confidence, drift and live accuracy."""

import asyncio
from typing import Any

from budwood.serving.metrics import CONFIDENCES, STATUSES, Board, Seen, head, histogram, names
from budwood.serving.model import Model
from budwood.serving.monitor import Monitor
from budwood.serving.service import Service

__all__ = ["exposition", "monitored", "refresh"]

PACE = ("requests_per_second", "per_second", "p50_ms", "p95_ms", "p99_ms")


async def refresh(service: Service) -> None:
    """Bring what is told below up to date, in other threads."""
    await service.monitor.refresh(service.models)
    await asyncio.to_thread(service.feedback.refresh)


def monitored(service: Service, model: Model) -> dict[str, Any]:
    """What GET /stats tells of one model beside its description."""
    board = service.board
    seen = board.find(model.name, model.version)
    live = board.live(seen) if seen is not None else {}
    statuses = zip(STATUSES, board.figure(seen, "statuses"), strict=True) if seen is not None else ()
    return {
        **{name: live.get(name) for name in PACE},
        "errors": int(sum(count for status, count in statuses if status >= 500)),
        "classes": {label: int(count) for label, count in board.predictions(seen).items()},
        "confidence": confidence(board, seen),
        "drift": service.monitor.drift(model).to_json(),
        "feedback": service.feedback.of(model.name, model.version),
    }


def confidence(board: Board, seen: Seen | None) -> dict[str, Any]:
    """Mean and histogram of the best scores since the start, ten equal bins of [0, 1]; empty without any."""
    cells = board.figure(seen, "confidences") if seen is not None else []
    n = sum(cells[:-1])
    return (
        {"mean": round(cells[-1] / n, 4), "histogram": [int(cell) for cell in cells[: len(CONFIDENCES)]]} if n else {}
    )


def exposition(service: Service) -> str:
    """The same for Prometheus: histograms of confidence and numbers, and what the last verdicts on drift found."""
    board, monitor = service.board, service.monitor
    seen = board.models()
    lines = head("confidence_ratio", "histogram", "The best score of each answer that has scores.")
    for item in seen:
        lines += histogram("confidence_ratio", board.figure(item, "confidences"), CONFIDENCES, names(item.model))
    lines += head("value", "histogram", "The numbers that were answered, in the unit of the labels.")
    for item in seen:
        edges = monitor.edges.get(item.model.key, ())
        if edges:
            cells = board.figure(item, "values")[: len(edges) + 2]
            lines += histogram("value", cells, edges, names(item.model))
    return "\n".join(lines + drifts(service, monitor) + labels(service)) + "\n"


def drifts(service: Service, monitor: Monitor) -> list[str]:
    levels = {"stable": 0, "watch": 1, "drifted": 2}
    parts: dict[str, list[str]] = {name: [] for name in GAUGES}
    # A version may answer by its number, and by an alias that was moved to it.
    for model in {(model.name, model.version): model for model in service.models}.values():
        judged = monitor.drift(model)
        labels = f'model="{model.name}",version="{model.version}"'
        parts["drift_rows"].append(f"budwood_drift_rows{{{labels}}} {judged.rows}")
        if judged.verdict in levels:
            parts["drift_level"].append(f"budwood_drift_level{{{labels}}} {levels[judged.verdict]}")
        for test in judged.tests:
            what = f'{labels},what="{test.what}"'
            if test.method in ("psi", "mmd"):
                parts[f"drift_{test.method}"].append(f"budwood_drift_{test.method}{{{what}}} {test.value}")
            if test.p is not None:
                parts["drift_p_value"].append(f'budwood_drift_p_value{{{what},method="{test.method}"}} {test.p}')
    return [line for name, values in parts.items() for line in [*head(name, "gauge", GAUGES[name]), *values]]


def labels(service: Service) -> list[str]:
    parts: dict[str, list[str]] = {name: [] for name in LIVE}
    for item in service.board.models():
        told = service.feedback.of(*item.model.key)
        parts["feedback_labels"].append(f"budwood_feedback_labels{{{names(item.model)}}} {told['n']}")
        if told["n"]:
            which = f'{names(item.model)},metric="{told["metric"]}"'
            values = (told["value"], *(told["ci"] or ()))
            for name, value in zip(("live_score", "live_score_low", "live_score_high"), values, strict=False):
                parts[name].append(f"budwood_{name}{{{which}}} {value}")
    return [line for name, values in parts.items() for line in [*head(name, "gauge", LIVE[name]), *values]]


LIVE = {
    "feedback_labels": "Labels that came later and are kept.",
    "live_score": "What these labels say: accuracy, f1, approval, or mae, the mean absolute error in the labels' unit.",
    "live_score_low": "Lower bound of the 95 % interval of the live score.",
    "live_score_high": "Upper bound of the 95 % interval of the live score.",
}
GAUGES = {
    "drift_rows": "Recent answers that drift is judged by.",
    "drift_level": "The verdict on recent answers: 0 stable, 1 watch, 2 drifted; none before there are enough.",
    "drift_psi": "Population stability index of recent answers against held-out rows.",
    "drift_mmd": "Squared maximum mean discrepancy of the model's vectors of recent inputs.",
    "drift_p_value": "How likely so much by chance, corrected for the number of tests.",
}
