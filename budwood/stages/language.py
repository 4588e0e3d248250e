"""Learning to write: one fit, compared with the base model, or for a new one with the frequencies of the words."""

from typing import Any

from budwood.core import registry
from budwood.core.dataset import Splits
from budwood.core.errors import StepError, UsageError
from budwood.stages.results import Baseline
from budwood.stages.workbench import Bench, Learned

__all__ = ["METHODS", "learn"]

METHODS = ("auto", "full", "lora")


def learn(bench: Bench, splits: Splits) -> Learned:
    """The way to learn of `TextGeneration`.

    Raises:
        UsageError: there is no such method.
        StepError: with `auto`, the base model was significantly better than what was learnt.
    """
    asked = bench.job.method
    if asked not in METHODS:
        raise UsageError(
            f"no method {asked!r} for text generation", where="--method", fix=f"one of: {', '.join(METHODS)}"
        )
    bench.share_time(1)
    with bench.stage("learning"):
        model = bench.make(splits, (registry.get("steps/adapt", "language")(method=asked),))
    facts: dict[str, Any] = model.manifest.report
    found = facts["perplexity"]
    name, prefix = ("unigram", "unigram_") if facts["new"] else ("base", "")
    low, high = found[f"{prefix}ratio_ci"]
    where = f"{found['documents']:,} documents of {found['tokens']:,} tokens that were not learnt"
    why = (
        f"perplexity {found['adapted']:.2f} against {found[name]:.2f} of the {name} model on {where}: "
        f"{found[f'{prefix}ratio']:.3f} of it [{low:.3f}, {high:.3f}]"
    )
    bench.say("method", f"method={facts['way']}  # {why}")
    if low > 1 and asked == "auto":
        raise StepError(f"nothing was learnt: {why}", where="adapt", fix="use the base as it is, or give more text")
    return Learned(
        method=facts["way"],
        why=why,
        model=model,
        calibration={},
        baseline=baseline(facts["baseline"]),
        histories=[facts["history"]],
        n_train=len(splits.train),
    )


def baseline(found: dict[str, Any]) -> Baseline:
    """The baseline on the same tokens as the model, in the task's metric."""
    return Baseline(
        found["name"],
        found["score"],
        tuple(found["ci"]),
        metrics={"perplexity": found["perplexity"]},
        intervals={"perplexity": tuple(found["perplexity_ci"])},
    )
