"""The last touch before a version is published: what was measured, the reference statistics, and the model card."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from budwood.core.bundle import Bundle, Metric
from budwood.core.dataset import Splits
from budwood.core.report import ShrinkReport
from budwood.engine.card import CardFacts, model_card, per_class
from budwood.engine.graft import copy_files, data_record
from budwood.engine.machine import Energy, describe
from budwood.engine.measure import Scores
from budwood.engine.predictor import task_of
from budwood.engine.reference import statistics

__all__ = ["release"]


def release(
    bundle: Bundle,
    out: Path,
    *,
    name: str,
    scores: Scores,
    splits: Splits,
    report: Mapping[str, Any],
    energy: Energy,
    seconds: float,
    shrink: ShrinkReport | None = None,
    calibration: Mapping[str, float] | None = None,
    pictures: Mapping[str, Path] | None = None,
) -> Bundle:
    """A child of `bundle` with the same model, and with its test scores, report, drift reference and README.md.

    `pictures` maps file names in the bundle to files that are copied there.
    """
    task = task_of(bundle)
    found = {scores.metric: Metric(value=scores.value, ci=scores.ci, n=len(scores), split="test")}
    reference = statistics(task, splits.train.rows, scores.answers)  # a parent's confidence is not its child's
    machine = describe()
    draft = bundle.draft(
        "describe",
        data=data_record(splits),  # the last fit may have learnt from train and validation rows together
        metrics=found,
        reference=reference,
        report={**bundle.manifest.report, **report, "further_metrics": dict(scores.metrics)},
        environment={key: str(value) for key, value in machine.items()},
        calibration=dict(bundle.manifest.calibration if calibration is None else calibration),
    )

    pooling = json.loads(bundle.file("pooling.json").read_bytes()) if "pooling.json" in bundle.manifest.files else {}
    facts = CardFacts(
        name=name,
        metric=scores.metric,
        pipeline_tag=task.pipeline_tag,
        formats=bundle.formats,
        size_mb=bundle.serving_bytes / 1e6,
        classes=per_class(scores.answers, splits.test.rows) if "labels" in task.to_json() else (),
        energy=energy,
        seconds=seconds,
        machine=machine,
        pooling=pooling.get("pooling"),
        normalize=pooling.get("normalize", False),
        shrink=shrink,
    )

    def write(stage: Path) -> None:
        copy_files(bundle, sorted(set(bundle.manifest.files) - {"README.md"}), stage)
        for file, source in (pictures or {}).items():
            shutil.copyfile(source, stage / file)
        (stage / "README.md").write_text(model_card(draft, facts), encoding="utf-8")

    return Bundle.create(out, draft, write)
