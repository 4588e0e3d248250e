"""The last touch before a version is published: what was measured, the reference statistics, and the model card."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from budwood.core.bundle import Bundle, Draft, Metric
from budwood.core.cut_list import CUTS
from budwood.core.dataset import Splits
from budwood.core.packed import SUFFIX as PACKED
from budwood.core.page import REPORT
from budwood.core.report import ShrinkReport
from budwood.engine.card import CardFacts, model_card, title_of
from budwood.engine.drawing import Picture, inline
from budwood.engine.graft import copy_files, data_record
from budwood.engine.machine import Energy, describe
from budwood.engine.measure import Scores
from budwood.engine.predictor import task_of
from budwood.engine.reference import looked_at, statistics
from budwood.engine.report_facts import Outcome, outcome_of
from budwood.engine.report_page import report_page
from budwood.engine.report_plots import Compared, Progressed, draw_pictures

__all__ = ["REPORT", "release"]

FOLDER = "report"
"""Where the report's pictures lie in a bundle."""


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
    compared: Sequence[Compared] = (),
    progressed: Progressed | None = None,
    embedding: Picture | None = None,
) -> Bundle:
    """A child of `bundle` with the same model, and with its test scores, reports, drift reference and README.md.

    `pictures` are copied; the report shows `pareto.svg`, the models that came before (`compared`), and what is given.
    """
    task, machine, pooling = task_of(bundle), describe(), pooling_of(bundle)
    fitted = bundle.manifest.calibration if calibration is None else calibration
    outcome = outcome_of(task, splits.test.rows, scores, fitted)
    told = {**bundle.manifest.report, **report, **measured(scores, outcome)}
    draft = described(bundle, splits, scores, told, {key: str(value) for key, value in machine.items()}, fitted)
    models = (*compared, Compared("this model", scores.value, scores.ci))
    drawn = draw_pictures(title_of(scores.metric), models, outcome, progressed or Progressed(), embedding)
    facts = CardFacts(
        name=name,
        metric=scores.metric,
        pipeline_tag=task.pipeline_tag,
        formats=bundle.formats,
        size_mb=bundle.serving_bytes / 1e6,
        classes=outcome.classes,
        energy=energy,
        seconds=seconds,
        machine=machine,
        pooling=pooling.get("pooling"),
        normalize=pooling.get("normalize", False),
        cut=CUTS in bundle.manifest.files,
        packed=any(name.endswith(PACKED) for name in bundle.names),
        shrink=shrink,
        further=further(scores, outcome),
        pictures={f"{FOLDER}/{picture.name}.png": picture.title for picture in drawn.values()},
    )

    def write(stage: Path) -> None:
        copy_files(bundle, [name for name in bundle.manifest.files if not told_anew(name)], stage)
        write_pictures(drawn, pictures or {}, stage)
        page = report_page(draft, facts, outcome, models, drawn | pareto_of(stage))
        (stage / REPORT).write_text(page, encoding="utf-8")
        (stage / "README.md").write_text(model_card(draft, facts), encoding="utf-8")

    return Bundle.create(out, draft, write)


def described(
    bundle: Bundle,
    splits: Splits,
    scores: Scores,
    report: Mapping[str, Any],
    environment: Mapping[str, str],
    calibration: Mapping[str, float],
) -> Draft:
    """The draft of the same model with what was measured on the test rows."""
    least = float(calibration.get("threshold", 0.0))
    statement = statistics(task_of(bundle), splits.train.rows, scores.answers, least_score=least)
    looked = looked_at(bundle, splits.test.rows)
    statement |= looked | {"samples": statement["samples"] | looked.get("samples", {})}
    return bundle.draft(
        "describe",
        data=data_record(splits),  # the last fit may have learnt from train and validation rows together
        metrics={scores.metric: Metric(value=scores.value, ci=scores.ci, n=len(scores), split="test")},
        reference=statement,  # a parent's confidence is not its child's
        report=dict(report),
        environment=dict(environment),
        calibration=dict(calibration),
    )


def pooling_of(bundle: Bundle) -> dict[str, Any]:
    """How a text encoder's token states become one; empty for other models."""
    if "pooling.json" not in bundle.manifest.files:
        return {}
    found: dict[str, Any] = json.loads(bundle.file("pooling.json").read_bytes())
    return found


def measured(scores: Scores, outcome: Outcome) -> dict[str, Any]:
    """What the manifest keeps of the test, beside the headline metric."""
    pairs = (("before", outcome.before), ("after", outcome.after))
    return {
        "further_metrics": dict(scores.metrics),
        "further_intervals": {name: list(span) for name, span in outcome.intervals.items()},
        "calibration": {name: {"ece": found.ece, "brier": found.brier} for name, found in pairs if found},
    }


def write_pictures(drawn: Mapping[str, Picture], copied: Mapping[str, Path], stage: Path) -> None:
    for file, source in copied.items():
        shutil.copyfile(source, stage / file)
    (stage / FOLDER).mkdir()
    for picture in drawn.values():
        (stage / FOLDER / f"{picture.name}.png").write_bytes(picture.png)


def pareto_of(stage: Path) -> dict[str, Picture]:
    """The picture of a shrink as the page shows it, where there is one."""
    path = stage / "pareto.svg"
    if not path.exists():
        return {}
    title = "score against latency of the parent and every candidate"
    return {"pareto": Picture("pareto", title, inline(path.read_text(encoding="utf-8"), "pareto", title), b"")}


def told_anew(name: str) -> bool:
    """Whether a file tells of the bundle that it was in, and not of its child."""
    return name in ("README.md", REPORT) or name.startswith(f"{FOLDER}/")


def further(scores: Scores, outcome: Outcome) -> dict[str, Metric | float]:
    """The metrics beside the headline, with an interval where one was resampled."""
    return {
        name: Metric(value=value, ci=outcome.intervals[name], n=len(scores), split="test")
        if name in outcome.intervals
        else value
        for name, value in scores.metrics.items()
    }
