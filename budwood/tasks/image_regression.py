"""Image regression: a number, the risk of a yes or no, or the risk of an event by a time, from an image.

A row: {"image": "/data/1.jpg", "label": "869500"}, {…, "label": "yes"}, or {…, "label": {"days": "812", "died": "1"}}.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import BundleError, DataError, UsageError
from budwood.core.task import Answer, Arrays, Calibration, Row
from budwood.engine import risk_calibration, risk_options, survival
from budwood.engine.image_task import EXPLANATION, ImageTask, input_size
from budwood.engine.images import plain_png
from budwood.engine.molecule_labels import as_class
from budwood.engine.number_metrics import bootstrap_interval, roc_auc_interval
from budwood.engine.risk_labels import (
    NUMBER,
    RISK,
    SURVIVAL,
    are_amounts,
    kind_of,
    numbers_of,
    outcomes_of,
    skewed,
    spread_of,
    time_columns,
)
from budwood.engine.risk_metrics import event_metrics, number_metrics, stratum_of, time_metrics
from budwood.engine.splits import make_splits

__all__ = ["ImageRegression"]

HEADS = {NUMBER: "numbers", RISK: "events", SURVIVAL: "hazards"}
ROWS_TO_TUNE = 1000
"""Rows from which fine-tuning is tried unasked; ridge regression on frozen features is hard to beat with fewer."""
HEAVIEST = 10.0


@final
@dataclass(frozen=True)
class ImageRegression(ImageTask):
    kind: str
    """`number`, `risk` or `survival`."""
    span: tuple[float, float] = (0.0, 1.0)
    """Of numbers: the least and the greatest in the training rows."""
    log: bool = False
    """Of numbers: whether their logarithm is learnt."""
    centre: float = 0.0
    scale: float = 1.0
    """Of numbers: mean and deviation of what is learnt; the network gives the distance from the mean in deviations."""
    outcomes: tuple[str, ...] = ()
    """Of risks and times: what does not happen, and what does, as the labels say it."""
    share: float = 0.5
    """Of risks: the share of the training rows in which it happens."""
    columns: tuple[str, ...] = ()
    """Of times: the columns of the time and of what ended it."""
    periods: tuple[float, ...] = ()
    """Of times: the end of each period for which the network gives a hazard."""
    horizon: float = 0.0
    """Of times: `value` is the risk by then."""
    bins: tuple[float, ...] = ()
    """Where the user's bins end; without them held-out rows are cut into five equal parts."""
    hidden: int = 0
    """Units of a hidden layer before the output, which fine-tuning adds."""
    dropout: float = 0.0

    name: ClassVar[str] = "image_regression"
    pipeline_tag: ClassVar[str] = "image-feature-extraction"
    explains: ClassVar[bool] = True
    penalties: ClassVar[tuple[float, ...]] = (0.2, 0.6, 2.0, 6.0, 20.0, 60.0)

    @property
    def metric(self) -> str:  # type: ignore[override]  # it depends on the kind
        return "1-nmae" if self.kind == NUMBER else "1-brier"

    @property
    def head(self) -> str:
        return HEADS[self.kind]

    @property
    def keeps_logits(self) -> bool:
        return self.kind != NUMBER

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        try:
            lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
            task = cls(**{**fields, **lists})
            numbers = [*task.span, task.centre, task.scale, task.share, *task.periods, task.horizon, *task.bins]
            finite = all(math.isfinite(number) for number in [*numbers, task.dropout])
        except (TypeError, ValueError) as error:
            raise BundleError(f"the task's fields are off: {error}", where="bundle.json, task") from error
        shaped = {NUMBER: len(task.span) == 2 and task.scale > 0, RISK: True, SURVIVAL: len(task.columns) == 2}
        named = task.kind == NUMBER or len(task.outcomes) == 2
        if not (finite and shaped.get(task.kind) and named) or (task.kind == SURVIVAL and not task.periods):
            raise BundleError("the task's fields have the wrong types", where="bundle.json, task")
        return task.checked()

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the network's outputs are called in its own configuration."""
        if self.kind == NUMBER:
            return ("value",)
        return self.outcomes[1:] if self.kind == RISK else tuple(f"hazard until {end:g}" for end in self.periods)

    # Serving half

    def decode(self, outputs: Arrays, calibration: Calibration, top: int) -> list[Answer]:
        """One answer a row; `top` has no meaning here."""
        logits = outputs["logits"].astype(np.float64)
        edges = risk_calibration.edges_in(calibration, self.bins)
        values = self.values(logits, calibration)
        half = calibration.get("half_90")
        answers: list[Answer] = [{"value": figure(value)} for value in values.tolist()]
        if self.kind == NUMBER and half is not None:
            ends = np.stack([self.number(logits[:, 0] - half), self.number(logits[:, 0] + half)], axis=1)
            for answer, pair in zip(answers, ends.tolist(), strict=True):
                answer["interval"] = [figure(end) for end in pair]
        if self.kind == SURVIVAL:
            curves = survival.survival_curve(risk_calibration.rescaled(logits, calibration))
            for answer, curve in zip(answers, (1 - curves).tolist(), strict=True):
                risks = {f"{end:g}": figure(risk) for end, risk in zip(self.periods, curve, strict=True)}
                answer |= {"horizon": self.horizon, "risks": risks}
        for answer, value in zip(answers, values.tolist(), strict=True):
            answer |= {"bin": risk_calibration.bin_name(value, edges)} if edges else {}
        return answers

    def values(self, logits: NDArray[np.float64], calibration: Calibration) -> NDArray[np.float64]:
        """The number, or the calibrated risk, of each row."""
        if self.kind == NUMBER:
            return self.number(logits[:, 0])
        calibrated = risk_calibration.rescaled(logits, calibration)
        if self.kind == RISK:
            return risk_calibration.sigmoid(calibrated[:, 0])
        return survival.risk_at(survival.survival_curve(calibrated), self.periods, self.horizon)

    def number(self, learnt: NDArray[np.float64]) -> NDArray[np.float64]:
        """From the network's scale to that of the labels; not below 0 where no label is."""
        value = self.centre + self.scale * learnt
        if self.log:
            return np.exp(np.clip(value, -600, 600))
        return np.maximum(value, 0.0) if self.span[0] >= 0 else value

    def learnt(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """From the labels' scale to the network's; what has no logarithm is as low as can be."""
        plain = np.log(np.maximum(numbers, 1e-260)) if self.log else numbers
        return np.asarray((plain - self.centre) / self.scale)

    def evidence(self, outputs: Arrays, reference: Arrays) -> NDArray[np.float64]:
        """How high each row's outputs put the value: the network's own scale, or the mean logit."""
        return np.asarray(outputs["logits"].astype(np.float64).mean(axis=1))

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        number, probability = {"type": "number"}, {"type": "number", "minimum": 0, "maximum": 1}
        properties = {
            "value": number | {"description": "the number, or the calibrated risk"},
            "interval": {"type": "array", "items": number, "description": "it holds 9 of 10 true values"},
            "bin": {"type": "string", "description": "where the value stands among held-out ones, or the user's bins"},
            "horizon": number | {"description": "the time by which `value` is the risk"},
            "risks": {"type": "object", "additionalProperties": probability, "description": "the risk by each time"},
            "explanation": EXPLANATION,
        }
        return {"type": "object", "properties": properties, "required": ["value"]}

    # Data half

    @classmethod
    def suits(cls, rows: Sequence[Row]) -> float:
        """Numbers of which many are different, and times; a yes or no is a class unless the task is named."""
        return 0.9 if are_amounts(rows) else 0.1

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> Self:
        kind, size = kind_of(rows), input_size(rows)
        if kind == NUMBER:
            numbers = numbers_of(rows)
            log = skewed(numbers)
            plain = np.log(numbers) if log else numbers
            span, spread = (float(numbers.min()), float(numbers.max())), spread_of(plain)
            return cls(kind, span, log, float(plain.mean()), spread, image_size=size)
        if kind == RISK:
            outcomes = outcomes_of([row["label"] for row in rows])
            share = float(np.mean([as_class(row["label"]) == outcomes[1] for row in rows]))
            return cls(kind, outcomes=outcomes, share=share, image_size=size)
        columns = time_columns(rows)
        outcomes = outcomes_of([row["label"].get(columns[1]) for row in rows])
        return cls(kind, outcomes=outcomes, columns=columns, image_size=size).timed(rows)

    def timed(self, rows: Sequence[Row]) -> Self:
        """With the periods of the outcome that happens, and their median as the horizon."""
        periods = survival.periods_of(*self.times(rows))
        return replace(self, periods=periods, horizon=periods[len(periods) // 2])

    @classmethod
    def described(cls, rows: Sequence[Row], options: Mapping[str, Any]) -> Self:
        """Of times: which outcome happens comes first, for the periods are its, and the horizon is one of theirs."""
        task = cls.from_rows(rows)
        if task.kind == SURVIVAL and "positive" in options:
            task = task.with_options({"positive": options["positive"]}).timed(rows)
        return task.with_options(options)

    @classmethod
    def split(cls, dataset: Dataset, *, test: Dataset | None, seed: int, shots: int | None) -> Splits:
        """Each part has its share of low and high numbers, of what happened, and of what was seen to happen."""
        if shots is not None:
            raise UsageError("numbers and risks are not drawn by class", where="--shots", fix="leave it out")
        return make_splits(dataset, test=test, seed=seed, named=stratum_of(dataset.rows))

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """Takes `bins`, `hidden`, `dropout`, `horizon` and `positive` beside the options of all images."""
        own = {name: value for name, value in options.items() if name in risk_options.OPTIONS}
        task = super().with_options({name: value for name, value in options.items() if name not in own})
        checked = risk_options.checked(own, kind=task.kind, outcomes=task.outcomes, periods=task.periods)
        if checked.get("outcomes", task.outcomes) != task.outcomes:
            checked["share"] = 1 - task.share
        return replace(task, **checked)

    def notes(self) -> tuple[str, ...]:
        return risk_options.notes(self.kind, self.log, self.outcomes, self.columns, self.periods, self.horizon)

    def method_for(self, asked: str, n_rows: int) -> tuple[str, str]:
        return risk_options.method_for(asked, n_rows, ROWS_TO_TUNE, hidden=self.hidden)

    def targets(self, rows: Sequence[Row]) -> NDArray[Any]:
        """Float32: standardised numbers or 0 and 1 of shape (rows, 1), or (rows, periods) with NaN where not seen."""
        if self.kind == NUMBER:
            return self.learnt(numbers_of(rows))[:, None].astype(np.float32)
        if self.kind == RISK:
            return self.happened(rows)[:, None].astype(np.float32)
        return survival.hazard_targets(*self.times(rows), self.periods)

    def happened(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """0 and 1 for each row. Raises DataError on another label."""
        labels = [row["label"] for row in rows]
        values = [
            label.get(self.columns[1]) if isinstance(label, Mapping) and self.columns else label for label in labels
        ]
        for place, value in enumerate(values):
            if as_class(value) not in self.outcomes:
                known = ", ".join(self.outcomes)
                raise DataError(
                    f"label {value!r} is unknown to the model", where=f"row {place + 1}", fix=f"known labels: {known}"
                )
        return np.asarray([float(as_class(value) == self.outcomes[1]) for value in values])

    def times(self, rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Until when each row was watched, and whether the event came then."""
        return numbers_of(rows, self.columns[0]), self.happened(rows)

    # Measuring half

    def row_scores(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        """One less the error over the range, as it is learnt; or one less the squared error of the risk (Brier)."""
        if self.kind == SURVIVAL:
            curves = np.asarray([[1 - risk for risk in answer["risks"].values()] for answer in answers])
            return 1 - survival.squared_errors(curves, self.targets(rows))
        given = np.asarray([float(answer["value"]) for answer in answers])
        if self.kind == RISK:
            return np.asarray(1 - (given - self.happened(rows)) ** 2)
        low, high = self.learnt(np.asarray(self.span))
        error = np.abs(self.learnt(given) - self.learnt(numbers_of(rows)))
        return np.asarray(1 - np.minimum(error / max(float(high - low), 1e-12), 1))

    def metrics(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, float]:
        given = np.asarray([answer["value"] for answer in answers], np.float64)
        if self.kind == NUMBER:
            return number_metrics(given, numbers_of(rows), [answer.get("interval") for answer in answers])
        if self.kind == RISK:
            return event_metrics(given, self.happened(rows))
        return time_metrics(given, *self.times(rows), self.horizon)

    def intervals(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
        given = np.asarray([answer["value"] for answer in answers], np.float64)
        if self.kind == NUMBER:
            found = bootstrap_interval(given[:, None], numbers_of(rows)[:, None], "rmse")
            return {} if found is None else {"rmse": found}
        happened = self.happened(rows)
        if self.kind == SURVIVAL or not 0 < happened.sum() < len(rows):
            return {}
        area = roc_auc_interval(given, happened)
        return {} if area is None else {"roc_auc": area}

    def chances(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64] | None:
        if self.kind == RISK:
            return np.stack([[answer["value"] for answer in answers], self.happened(rows)], axis=1)
        if self.kind == NUMBER:
            return None
        times, events = self.times(rows)
        known = (times >= self.horizon) | (events > 0)
        if not known.any():
            return None
        pairs = np.stack([[answer["value"] for answer in answers], (times <= self.horizon) & (events > 0)], axis=1)
        return np.asarray(pairs[known], np.float64)

    # Training half

    def build(self, folder: Path) -> Any:
        from budwood.engine.image_regressor import load_regressor

        return load_regressor(folder, self.outputs)

    def traceable(self, folder: Path) -> Any:
        """With plain attention, which fusion recognises."""
        from budwood.engine.image_regressor import load_regressor

        return load_regressor(folder, self.outputs, attention="eager")

    def prepare(self, model: Any) -> Any:
        """With the hidden layer and the dropout that were asked for."""
        from budwood.engine.image_regressor import deepened

        return deepened(model, self.hidden, self.dropout) if self.hidden else model

    def calibrate(self, logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """Platt's slope and offset of risks, the width of intervals of numbers, and the edges of the bins."""
        values = logits.astype(np.float64)
        if self.kind == NUMBER:
            fitted = risk_calibration.conformal_width(values[:, 0] - targets[:, 0])
        else:
            known = np.isfinite(targets)
            fitted = risk_calibration.platt(values[known], targets[known].astype(np.float64))
        return fitted | risk_calibration.bin_edges(self.values(values, fitted))

    def save(self, model: Any, folder: Path) -> None:
        """An ordinary transformers directory; a hidden layer lies beside it in a file of its own."""
        from budwood.engine.image_regressor import save_regressor

        save_regressor(model, folder, self.outputs)
        self.save_size(folder)

    def loss(self, outputs: Any, targets: Any) -> Any:
        """Squared error, or cross-entropy in which both outcomes weigh alike, up to ten times the rarer one.

        The weight's own shift is added to the logits first, so that these stay honest for the shares of the rows
        (logit adjustment: Menon et al. 2021, arXiv:2007.07314).
        """
        import torch
        from torch.nn import functional

        if self.kind == NUMBER:
            return functional.mse_loss(outputs["logits"], targets)
        known = torch.isfinite(targets)
        weight = 1.0 if self.kind == SURVIVAL else (1 - self.share) / max(self.share, 1e-9)
        heavier = torch.tensor(min(max(weight, 1 / HEAVIEST), HEAVIEST))
        filled = torch.where(known, targets, torch.zeros_like(targets))
        shifted = outputs["logits"] + heavier.log()
        each = functional.binary_cross_entropy_with_logits(shifted, filled, reduction="none", pos_weight=heavier)
        return (each * known).sum() / known.sum().clamp(min=1)

    @classmethod
    def example(cls) -> tuple[Self, list[Row]]:
        colours = {"1.5": (20, 30, 40), "3": (120, 130, 110), "7.25": (220, 230, 210)}
        rows: list[Row] = [{"image": plain_png(rgb), "label": label} for label, rgb in colours.items()]
        return cls.from_rows(rows * 3), rows * 3


def figure(value: float) -> float:
    """Six digits, whatever the size."""
    return float(f"{value:.6g}")
