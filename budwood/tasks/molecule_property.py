"""Molecule properties: classes or numbers, one or several, from the structure as SMILES.

A row: {"smiles": "CCO", "label": "1"}, or {"smiles": "CCO", "label": {"NR-AR": 1, "SR-p53": None}}, None being unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import BundleError, DataError, UsageError
from budwood.core.task import Answer, Arrays, Calibration, Encoder, Row, Task
from budwood.engine import molecules
from budwood.engine.molecule_labels import (
    CLASSES,
    NUMBERS,
    SINGLE,
    as_class,
    as_number,
    columns_of,
    kind_of,
    labels_of,
    property_of,
)
from budwood.engine.number_metrics import (
    bootstrap_interval,
    ranking_metrics,
    regression_metrics,
    roc_auc_interval,
)

__all__ = ["MoleculeProperty"]

MAIN = {CLASSES: "roc_auc", NUMBERS: "rmse"}
"""The metric that is printed beside the score."""
SEND = 'send {"smiles": "CCO"}'


@final
@dataclass(frozen=True)
class MoleculeProperty(Task):
    kind: str
    """`classification` (two classes a property) or `regression`."""
    properties: tuple[str, ...] = (SINGLE,)
    labels: tuple[str, ...] = ()
    """For classes: the negative one, then the positive one; for all properties."""
    ranges: tuple[tuple[float, float], ...] = ()
    """For numbers: the least and the greatest value of each property in the training rows."""

    name: ClassVar[str] = "molecule_property"
    inputs: ClassVar[tuple[str, ...]] = ("smiles",)
    pipeline_tag: ClassVar[str] = "tabular-classification"
    preprocessing: ClassVar[tuple[str, ...]] = (
        *("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "training_molecules.safetensors"),
    )
    learning: ClassVar[str] = "molecules"
    default_base: ClassVar[str] = "new:smiles-mini"
    draws: ClassVar[bool] = True
    split_kinds: ClassVar[tuple[str, ...]] = ("scaffold", "scaffold_balanced", "random")
    no_shrink: ClassVar[str] = (
        "the fingerprint model has neither layers to leave out nor weights for int8, and no technique has been proven "
        "on the SMILES transformer beside it"
    )

    @property
    def metric(self) -> str:  # type: ignore[override]  # it depends on the kind
        return "accuracy" if self.kind == CLASSES else "1-nmae"

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        return {
            name: [list(item) if isinstance(item, tuple) else item for item in value] if name != "kind" else value
            for name, value in fields.items()
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        try:
            ranges = tuple((float(low), float(high)) for low, high in fields.get("ranges", ()))
            lists = {name: tuple(fields[name]) for name in ("properties", "labels") if name in fields}
            task = cls(**{**fields, **lists, "ranges": ranges})
        except (TypeError, KeyError, ValueError) as error:
            raise BundleError(f"the task's fields are off: {error}", where="bundle.json, task") from error
        named = all(isinstance(name, str) for name in (*task.properties, *task.labels))
        shaped = len(task.labels) == 2 if task.kind == CLASSES else len(task.ranges) == len(task.properties)
        if task.kind not in (CLASSES, NUMBERS) or not named or not shaped or not task.properties:
            raise BundleError("the task's fields have the wrong types", where="bundle.json, task")
        return task

    # Serving half

    def parse(self, item: object) -> Row:
        if not isinstance(item, Mapping):
            raise DataError("each input must be an object", where="input", fix=SEND)
        unknown = sorted(set(item) - {"smiles"})
        if unknown:
            raise DataError(f"unknown field {unknown[0]!r}", where=str(unknown[0]), fix=SEND)
        smiles = item.get("smiles")
        if not isinstance(smiles, str):
            problem = "is missing" if "smiles" not in item else f"must be a string, not {type(smiles).__name__}"
            raise DataError(f"smiles {problem}", where="smiles", fix=SEND)
        molecules.prepare(smiles)
        return {"smiles": smiles.strip()}

    def encoder(self, folder: Path) -> Encoder:
        """Model inputs, and for each row its similarity to the training molecules, where the folder has these."""
        from budwood.engine.molecule_inputs import open_encoder

        return open_encoder(folder, describe=True)

    def decode(self, outputs: Arrays, calibration: Calibration, top: int) -> list[Answer]:
        """One answer a row; `top` has no meaning here, since a property has one value or two classes."""
        values = self.values(outputs, calibration)
        spread = outputs["spread"].astype(np.float64) if "spread" in outputs else np.zeros_like(values)
        each = [
            [self.part(float(value), float(width), index, calibration) for index, (value, width) in enumerate(pairs)]
            for pairs in (zip(*rows, strict=True) for rows in zip(values, spread, strict=True))
        ]
        if self.properties == (SINGLE,):
            return [parts[0] for parts in each]
        return [{"properties": dict(zip(self.properties, parts, strict=True))} for parts in each]

    def values(self, outputs: Arrays, calibration: Calibration) -> NDArray[np.float64]:
        """Calibrated probabilities of the positive class, or predicted numbers, shape (rows, properties)."""
        logits = outputs["logits"].astype(np.float64)
        if self.kind == NUMBERS:
            return np.asarray(logits)
        return np.asarray(0.5 * (1 + np.tanh(0.5 * logits / calibration.get("temperature", 1.0))))

    def part(self, value: float, spread: float, index: int, calibration: Calibration) -> dict[str, Any]:
        """The answer for one property."""
        if self.kind == NUMBERS:
            half = calibration.get(f"interval_90_{index}")
            interval = {} if half is None else {"interval": [round(value - half, 6), round(value + half, 6)]}
            return {"value": round(value, 6), "uncertainty": round(spread, 6), **interval}
        negative, positive = self.labels
        label, score = (positive, value) if value >= 0.5 else (negative, 1 - value)
        scores = {positive: round(value, 6), negative: round(1 - value, 6)}
        return {"label": label, "score": round(score, 6), "scores": scores, "uncertainty": round(spread, 6)}

    def drawing(self, row: Row) -> str:
        from budwood.engine.molecule_drawing import draw_molecule

        return draw_molecule(row["smiles"])

    def lengths(self, rows: Sequence[Row]) -> list[int]:
        return [len(row["smiles"]) for row in rows]

    @classmethod
    def request_schema(cls) -> dict[str, Any]:
        smiles = {"type": "string", "minLength": 1, "maxLength": molecules.MAX_CHARACTERS, "description": "as SMILES"}
        return {
            "type": "object",
            "properties": {"smiles": smiles},
            "required": ["smiles"],
            "additionalProperties": False,
        }

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        probability = {"type": "number", "minimum": 0, "maximum": 1}
        number = {"type": "number"}
        one = {
            "label": {"type": "string"},
            "score": probability,
            "scores": {"type": "object", "additionalProperties": probability},
            "value": number,
            "interval": {"type": "array", "items": number, "description": "it holds 9 of 10 true values"},
            "uncertainty": {"type": "number", "minimum": 0, "description": "how far the model's members disagree"},
        }
        several = {"type": "object", "additionalProperties": {"type": "object", "properties": one}}
        domain = {
            "similarity": probability | {"description": "Tanimoto similarity to the nearest training molecule"},
            "in_domain": {"type": "boolean", "description": "whether that is as near as training molecules are"},
            "in_training": {"type": "boolean", "description": "whether the model learnt from this very molecule"},
            "stripped": {"type": "boolean", "description": "whether salts or solvents were removed"},
        }
        return {"type": "object", "properties": {**one, "properties": several, **domain}}

    # Data half

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> Self:
        columns = columns_of([row["label"] for row in rows])
        if not columns or not any(columns.values()):
            raise DataError("there are no labelled rows", where="the label column", fix="name it with --target")
        kinds = {name: kind_of(values, name) for name, values in columns.items()}
        if len(set(kinds.values())) > 1:
            numbers = ", ".join(name for name, kind in kinds.items() if kind == NUMBERS)
            fix = "make two models, naming the columns of each with --target"
            raise DataError(f"some columns are classes and some are numbers ({numbers})", where="the labels", fix=fix)
        if set(kinds.values()) == {NUMBERS}:
            numeric = [[float(value) for value in values] for values in columns.values()]
            return cls(NUMBERS, tuple(columns), ranges=tuple((min(values), max(values)) for values in numeric))
        return cls(CLASSES, tuple(columns), labels_of(columns))

    @classmethod
    def split(cls, dataset: Dataset, *, test: Dataset | None, seed: int, shots: int | None) -> Splits:
        """By scaffold: the test molecules are of other kinds than those learnt from, as those of tomorrow will be."""
        from budwood.engine.scaffold_split import given_splits, scaffold_splits

        if shots is not None:
            raise UsageError("molecules are not drawn by class", where="--shots", fix="leave it out")
        if any("group" in row for row in dataset):
            raise UsageError("molecules are grouped by their scaffold", where="--group", fix="leave it out")
        if test is not None or any("split" in row for row in dataset):
            return given_splits(dataset, test, seed)
        return scaffold_splits(dataset, seed=seed)

    @classmethod
    def split_by(cls, kind: str, dataset: Dataset, *, seed: int) -> Splits:
        from budwood.engine.scaffold_split import scaffold_splits

        return scaffold_splits(dataset, kind, seed=seed)

    def identity(self, row: Row) -> str:
        """The canonical SMILES without salts, the same for all spellings of a molecule; rows of a split carry it."""
        if "canonical" in row:
            return str(row["canonical"])
        found = molecules.prepared(row["smiles"])
        return row["smiles"].strip() if found is None else molecules.canonical(found.molecule)

    @classmethod
    def new_base(cls, stage: Path) -> None:
        from budwood.engine.smiles_model import write_new_base

        write_new_base(stage)

    def targets(self, rows: Sequence[Row]) -> NDArray[Any]:
        """0 and 1, or numbers, shape (rows, properties) float32; NaN where a label is unknown."""
        result = np.full((len(rows), len(self.properties)), np.nan, np.float32)
        for number, row in enumerate(rows):
            for column, name in enumerate(self.properties):
                value = property_of(row["label"], name)
                if value is not None:
                    result[number, column] = self.number(value, number)
        return result

    def number(self, value: Any, row: int) -> float:
        if self.kind == CLASSES:
            text = as_class(value)
            if text in self.labels:
                return float(self.labels.index(text))
            fix = f"known labels: {', '.join(self.labels)}"
        else:
            found = as_number(value)
            if found is not None:
                return found
            fix = "labels of this model are numbers"
        raise DataError(f"label {value!r} is unknown to the model", where=f"row {row + 1}", fix=fix)

    # Measuring half

    def row_scores(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        """Classes: the share of the known properties that are right. Numbers: one less the error over the range."""
        truth = self.targets(rows)
        given = np.asarray([[self.given(answer, name) for name in self.properties] for answer in answers])
        if self.kind == CLASSES:
            right = (given == truth).astype(np.float64)
        else:
            widths = np.asarray([max(high - low, 1e-12) for low, high in self.ranges])
            right = 1 - np.minimum(np.abs(given - truth) / widths, 1)
        known = np.isfinite(truth)
        return np.asarray(np.where(known, right, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1))

    def given(self, answer: Answer, name: str) -> float:
        """The class number or the value that an answer states for a property."""
        part = answer.get("properties", {}).get(name, answer)
        return float(part["value"]) if self.kind == NUMBERS else float(self.labels.index(as_class(part["label"])))

    def column(self, name: str | None) -> int:
        """The number of a property, the first one for None. Raises UsageError when there is none of that name."""
        if name is None:
            return 0
        if name not in self.properties:
            known = ", ".join(self.properties[:20])
            raise UsageError(f"the model has no property {name!r}", where="--by", fix=f"choose one of: {known}")
        return self.properties.index(name)

    def quality(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        """How good each answer is, in [0, 1], by a proper score: what models of one data set are compared by.

        One less the squared error of the probability (Brier 1950), or less the error over the range; the mean over the
        known properties. It sees differences that the accuracy of a small or lopsided set cannot show.
        """
        truth = self.targets(rows)
        given = np.asarray([[self.confidence(answer, name) for name in self.properties] for answer in answers])
        if self.kind == NUMBERS:
            return self.row_scores(answers, rows)
        known = np.isfinite(truth)
        right = np.where(known, 1 - (given - truth) ** 2, 0)
        return np.asarray(right.sum(axis=1) / np.maximum(known.sum(axis=1), 1))

    def confidence(self, answer: Answer, name: str) -> float:
        """What molecules are ranked by: the positive class's probability, or the value."""
        part = answer.get("properties", {}).get(name, answer)
        return float(part["value"] if self.kind == NUMBERS else part["scores"][self.labels[1]])

    def metrics(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, float]:
        """Standard metrics, as means over the properties; for several also `roc_auc` or `rmse` of each by its name."""
        truth = self.targets(rows)
        measure, main = (ranking_metrics if self.kind == CLASSES else regression_metrics), MAIN[self.kind]
        found: dict[str, list[float]] = {}
        each: dict[str, float] = {}
        for column, name in enumerate(self.properties):
            known = np.flatnonzero(np.isfinite(truth[:, column])).tolist()
            if not known:
                continue
            scores = [self.confidence(answers[row], name) for row in known]
            for key, value in measure(scores, truth[known, column]).items():
                found.setdefault(key, []).append(value)
                if key == main and len(self.properties) > 1:
                    each[f"{main} {name}"] = value
        return {key: float(np.mean(values)) for key, values in found.items()} | each

    def intervals(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
        """DeLong's interval of `roc_auc`; for `rmse`, and for the mean of several properties, molecules resampled."""
        truth = self.targets(rows)
        scores = np.asarray([[self.confidence(answer, name) for name in self.properties] for answer in answers])
        if self.kind == CLASSES and len(self.properties) == 1:
            known = np.isfinite(truth[:, 0])
            area = roc_auc_interval(scores[known, 0], truth[known, 0])
            return {} if area is None else {"roc_auc": area}
        found = bootstrap_interval(scores, truth, MAIN[self.kind])
        return {} if found is None else {MAIN[self.kind]: found}

    # Training half

    @classmethod
    def take_base(cls, folder: Path, stage: Path) -> None:
        from budwood.engine.smiles_model import take_base

        take_base(folder, stage)

    def build(self, folder: Path) -> Any:
        from budwood.engine.smiles_model import load_model

        centres = [(low + high) / 2 for low, high in self.ranges] or [0.0] * len(self.properties)
        scales = [max(high - low, 1e-6) / 4 for low, high in self.ranges] or [1.0] * len(self.properties)
        return load_model(folder, centres, scales, classification=self.kind == CLASSES)

    def save(self, model: Any, folder: Path) -> None:
        from budwood.engine.smiles_model import save_model

        save_model(model, folder)

    def loss(self, outputs: Any, targets: Any) -> Any:
        """Cross-entropy, or squared error in units of a quarter of the range, over the known labels."""
        import torch
        from torch.nn import functional

        known = torch.isfinite(targets)
        filled = torch.where(known, targets, torch.zeros_like(targets))
        if self.kind == CLASSES:
            each = functional.binary_cross_entropy_with_logits(outputs["logits"], filled, reduction="none")
        else:
            widths = torch.tensor([max(high - low, 1e-6) / 4 for low, high in self.ranges])
            each = ((outputs["logits"] - filled) / widths) ** 2
        return (each * known).sum() / known.sum().clamp(min=1)

    def calibrate(self, logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """The temperature of probabilities, or the half width of the interval that holds 90 % of the held-out rows."""
        from budwood.engine.calibrate import fit_temperature
        from budwood.engine.risk_calibration import conformal_width

        known = np.isfinite(targets) & np.isfinite(logits)
        if self.kind == CLASSES:
            return (
                {"temperature": fit_temperature(logits[known][:, None], targets[known][:, None])} if known.any() else {}
            )
        halves = {}
        for column in range(targets.shape[1]):
            errors = np.abs(logits - targets)[known[:, column], column]
            if fitted := conformal_width(errors):
                halves[f"interval_90_{column}"] = fitted["half_90"]
        return halves

    @classmethod
    def example(cls) -> tuple[Self, list[Row]]:
        rows = [{"smiles": "CCO", "label": "1"}, {"smiles": "c1ccccc1", "label": "0"}] * 4
        return cls(CLASSES, (SINGLE,), ("0", "1")), [dict(row) for row in rows]
