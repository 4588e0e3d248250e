"""Which way to learn suits the data, and whether it beat the baseline: the decisions of `adapt`, with reasons."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from budwood.core import registry
from budwood.core.dataset import Dataset, ReadOptions, Splits
from budwood.core.errors import DataError, UsageError
from budwood.core.task import Row, Task
from budwood.engine.splits import keep_together, labels_of
from budwood.engine.statistics import Comparison, better

__all__ = [
    "METHODS",
    "Decision",
    "choose",
    "decide",
    "folds",
    "merged",
    "of_one_group",
    "small",
    "split_rows",
    "task_for",
]

METHODS = ("auto", "head", "few_shot", "full", "lora")
FEW_PER_CLASS = 64
FEW_ROWS = 2000
TINY_ROWS = 200
"""Below this a fifth of the rows tells nothing, so every row is held out once."""
TINY_HELD = 50
"""Nor do fewer held-out rows than this, as long as fitting several times is cheap."""
FOLDS = 4
SURE = 0.1
"""p value below which a difference on held-out rows counts."""
LARGE_ENCODER = 300_000_000
"""Parameters from which low-rank updates replace full fine-tuning."""


@dataclass(frozen=True)
class Decision:
    """A choice and the reason that is printed with it."""

    method: str
    why: str


def task_for(name: str, rows: Sequence[Row]) -> type[Task]:
    """The task of that name; `auto` takes the one that suits the rows' fields and labels best.

    Raises:
        NotFoundError: there is no such task.
        DataError: the rows lack the fields of the task, or no task reads rows of these fields.
    """
    fields = set(rows[0])
    if name != "auto":
        kind: type[Task] = registry.get("tasks", name)
        if not set(kind.inputs) <= fields:
            found = ", ".join(sorted(fields - {"label", "split", "group", "sha256"}))
            raise DataError(f"{name} learns from {', '.join(kind.inputs)}, and the data has {found}", where="--task")
        return kind
    kinds: list[type[Task]] = [registry.get("tasks", other) for other in registry.names("tasks")]
    fitting = [kind for kind in kinds if set(kind.inputs) <= fields]
    if not fitting:
        raise DataError(f"no task reads rows of {', '.join(sorted(fields))}", where="the data", fix="name one: --task")
    return max(fitting, key=lambda kind: kind.suits(rows))


def split_rows(task: type[Task], rows: Dataset, test: Dataset | None, options: ReadOptions, seed: int) -> Splits:
    """The rows set aside as the task does it, or in the way that `options.split` names.

    Raises:
        UsageError: the task has no such way, or the test rows are given.
    """
    kind = options.split
    if kind is None:
        return task.split(rows, test=test, seed=seed, shots=options.shots)
    if kind not in task.split_kinds:
        fix = f"choose one of: {', '.join(task.split_kinds)}" if task.split_kinds else "leave it out"
        raise UsageError(f"{task.name} has no split {kind!r}", where="--split", fix=fix)
    if test is not None or options.shots is not None:
        other = "--test" if test is not None else "--shots"
        raise UsageError(f"--split and {other} both say which rows are for testing", where="--split", fix="keep one")
    return task.split_by(kind, rows, seed=seed)


def choose(method: str, rows: Sequence[Row], n_parameters: int, advised: tuple[str, str] | None = None) -> Decision:
    """The method to try beside the baseline; `auto` decides by the rows per class and the encoder's size.

    `advised` is what a task knows better (`Task.method_for`): the method and why.

    Raises:
        UsageError: there is no such method.
    """
    if method not in METHODS:
        raise UsageError(f"no method {method!r}", where="--method", fix=f"choose one of: {', '.join(METHODS)}")
    if advised is not None:
        return Decision(*advised)
    multi_label = any(isinstance(row["label"], list | tuple) for row in rows)
    if method == "few_shot" and multi_label:
        fix = "use --method full, or auto"
        raise UsageError("few_shot contrasts rows of one label each; these have several", where="--method", fix=fix)
    if method != "auto":
        return Decision(method, "asked for")
    counts = Counter(label for row in rows for label in labels_of(row))
    typical = median(counts.values())
    facts = f"{len(rows):,} rows, typically {typical:g} a class"
    if n_parameters > LARGE_ENCODER:
        return Decision("lora", f"{facts}; the encoder has {n_parameters / 1e6:.0f} M parameters")
    if typical <= FEW_PER_CLASS and len(rows) <= FEW_ROWS and not multi_label:
        return Decision("few_shot", f"{facts}: few examples")
    return Decision("full", facts)


def small(splits: Splits) -> bool:
    """Whether the chosen model is fitted once more on train and validation rows together: there every row counts."""
    return len(splits.train) + len(splits.validation) <= FEW_ROWS


def merged(splits: Splits) -> Splits:
    """All rows but the test rows to learn from."""
    return replace(splits, train=joined(splits), validation=Dataset((), splits.validation.sources))


def folds(splits: Splits) -> list[Splits]:
    """The splits to compare methods on: the validation split, or for tiny data a stratified cross-validation.

    Rows of one text or one group are held out together.

    Raises:
        DataError: all rows but the test rows belong together, so that none can be held out.
    """
    pool = joined(splits)
    enough = len(splits.validation) >= (TINY_HELD if len(pool) <= FEW_ROWS else 1)
    if len(pool) >= TINY_ROWS and enough:
        return [splits]
    units: dict[str, list[int]] = {}
    for i, item in enumerate(keep_together(pool.rows)):
        units.setdefault(item.unit, []).append(i)
    members = list(units.values())
    if len(members) < 2:
        one = "group" if any(row.get("group") is not None for row in pool) else "input"
        raise DataError(
            f"all {len(pool):,} rows to learn from are of one {one}, so that none can be held out to choose by",
            where=", ".join(pool.sources) or "the data",
            fix="give rows of three groups or more, or leave out --group" if one == "group" else "add other rows",
        )
    order = np.random.default_rng(splits.seed).permutation(len(members))
    order = order[np.argsort([str(pool.rows[members[i][0]]["label"]) for i in order], kind="stable")]
    result = []
    for number in range(min(FOLDS, len(members))):
        held = {row for unit in order[number::FOLDS] for row in members[unit]}
        train = Dataset(tuple(row for i, row in enumerate(pool.rows) if i not in held), pool.sources)
        validation = Dataset(tuple(row for i, row in enumerate(pool.rows) if i in held), pool.sources)
        result.append(replace(splits, train=train, validation=validation))
    return result


def of_one_group(trials: Sequence[Splits]) -> bool:
    """Whether all rows of a trial to learn from have a group, and the same one."""
    found = [{row.get("group") for row in trial.train} for trial in trials]
    return any(len(groups) == 1 and None not in groups for groups in found)


def joined(splits: Splits) -> Dataset:
    return Dataset((*splits.train.rows, *splits.validation.rows), splits.train.sources)


def decide(
    method: str,
    head: NDArray[np.float64],
    adapted: NDArray[np.float64],
    *,
    asked: bool = False,
    needs_gain: bool = False,
    of: str = "",
) -> Decision:
    """Baseline or adapted model, by their scores on the same held-out rows.

    The adapted one is kept unless it is worse: published comparisons favour it at these sizes, so that a draw of few
    rows is no reason to drop it; a significant loss, or a loss on many rows, is. Where a task `needs_gain`, only better
    answers are a reason to keep it, by more than chance would give. A method that was `asked` for is kept. `of` is what
    the scores are called where they are not the headline metric, as in `Task.quality_name`.
    """
    found = better(head, adapted)
    facts = describe(method, found, "held-out rows", of)
    worse = found.difference < 0 and (found.p < SURE or len(head) >= TINY_ROWS)
    worse = worse or (needs_gain and (found.difference <= 0 or found.p >= SURE))
    if worse and asked:
        return Decision(method, f"{facts}, and kept because it was asked for")
    if worse:
        return Decision("head", f"{facts}, so the baseline is kept")
    return Decision(method, facts)


def describe(method: str, found: Comparison, where: str, of: str = "") -> str:
    """A difference in words; `of` names the score where it is not the headline metric, lest it is read as that."""
    unit = f"points of {of}" if of else "points"
    points = f"{100 * found.difference:+.1f} {unit} [{100 * found.ci[0]:+.1f}, {100 * found.ci[1]:+.1f}]"
    return f"{method} {points} against head on {found.n:,} {where} (p={found.p:.2g})"
