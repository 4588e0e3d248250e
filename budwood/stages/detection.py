"""Learning to find objects: the head on the frozen backbone first, then the whole network; the better one ships."""

from contextlib import closing

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Splits
from budwood.core.errors import UsageError
from budwood.core.task import Row
from budwood.engine.measure import Scores, score
from budwood.engine.predictor import Predictor
from budwood.engine.statistics import better
from budwood.stages import choosing
from budwood.stages.results import Baseline
from budwood.stages.workbench import ONNX, Bench, Learned, measured

__all__ = ["METHODS", "learn"]

METHODS = ("auto", "head", "full")
"""`head` keeps the backbone as it is; `full` trains on from there; `auto` does both and keeps the better."""
AP = "ap"


def learn(bench: Bench, splits: Splits) -> Learned:
    """The way to learn of `ObjectDetection`.

    Raises:
        UsageError: there is no such method. StepError: eight images could not be learnt by heart.
    """
    asked = bench.job.method
    if asked not in METHODS:
        fix = f"one of: {', '.join(METHODS)}"
        raise UsageError(f"no method {asked!r} for object detection", where="--method", fix=fix)
    bench.share_time(1)
    kind = registry.get("steps/adapt", "detector")
    frozen, full = (kind(frozen=True),), (kind(frozen=True), kind(frozen=False))
    with bench.stage("head"):
        head = bench.make(splits, (*frozen, ONNX))
    method, why, model = "head", "asked for", head
    if asked != "head":
        with bench.stage("full"):
            trained = bench.make(splits, (*full, ONNX))
        method, why = decide(head, trained, splits, asked=asked)
        bench.say("method", f"method={method}  # {why}")
        model = trained if method == "full" else head
    with bench.stage("test"):
        base = measured(head, splits)
        if method != "head":
            method, why = guarded(why, base, measured(model, splits), asked)
            model = model if method == "full" else head
    return Learned(
        method=method,
        why=why,
        model=model,
        calibration=model.manifest.calibration,
        baseline=Baseline(
            "head", base.value, base.ci, base.metrics, bench.task.intervals(base.answers, splits.test.rows)
        ),
        n_train=len(splits.train),
        histories=[model.manifest.report.get("history") or []],
    )


def decide(head: Bundle, full: Bundle, splits: Splits, *, asked: str) -> tuple[str, str]:
    """The method with the better average precision on the validation images, and why; what was asked for is kept."""
    if not any(not item.get("crowd") for row in splits.validation.rows for item in row["label"]):
        return "full", "there are no objects in validation images to choose by"
    first, second = (scored(bundle, splits.validation.rows).metrics[AP] for bundle in (head, full))
    facts = f"AP50:95 {second:.3f} against {first:.3f} of the head alone on {len(splits.validation)} held-out images"
    if second > first:
        return "full", facts
    if asked == "full":
        return "full", f"{facts}, and kept because it was asked for"
    return "head", f"{facts}, so the head alone is kept"


def guarded(why: str, head: Scores, full: Scores, asked: str) -> tuple[str, str]:
    """A last look at the test images: what is significantly worse there is not shipped by `auto`, which is told of."""
    found = better(head.per_row, full.per_row)
    why = f"{why}; {choosing.describe('full', found, 'test images')}"
    if found.difference < 0 and found.significant and asked == "auto":
        return "head", f"{why}, so the head alone is shipped"
    if asked == "auto":
        why += "; had these said it is surely worse, the head alone would ship, which flatters the score a little"
    return "full", why


def scored(bundle: Bundle, rows: tuple[Row, ...]) -> Scores:
    with closing(Predictor.open(bundle)) as predictor:
        return score(predictor, rows)
