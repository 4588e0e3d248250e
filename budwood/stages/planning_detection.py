"""What `adapt` would cost for object detection: the parts of a training, each tried on a few images."""

from typing import Any

import numpy as np

from budwood.core import registry
from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import UsageError
from budwood.core.recipe import Recipe
from budwood.core.step import Context
from budwood.stages.detection import METHODS
from budwood.stages.planning import Foreseen, Survey, timed
from budwood.stages.workbench import ONNX

__all__ = ["foresee"]

IMAGES = 8
"""Images that are tried, as many as a step learns from."""


def foresee(survey: Survey) -> Foreseen:
    """The head on the frozen backbone, and unless `--method head` all of the network; seconds of each, at most.

    Raises:
        UsageError: there is no such method.
    """
    method, splits = survey.job.method, survey.splits
    if method not in METHODS:
        fix = f"one of: {', '.join(METHODS)}"
        raise UsageError(f"no method {method!r} for object detection", where="--method", fix=fix)
    survey.say("trying out", "the parts of a training on a few images")
    fixed = timed(lambda: rehearse(survey))
    probe = Probe(survey)
    stages = {"self-test": probe.self_test(), "head": probe.head(len(splits.train), len(splits.validation))}
    if method != "head":
        stages["full"] = probe.full(len(splits.train), len(splits.validation))
    stages["test"] = len(stages) * len(splits.test) * probe.read_seconds
    stages["export and checks"] = fixed if method == "head" else 2 * fixed
    way = "head" if method == "head" else "full"
    why = "asked for" if method != "auto" else "the head first, then all of the network; the better one is kept"
    return Foreseen(way, why, probe.parameters, stages)


def rehearse(survey: Survey) -> None:
    """The head with its graph on a few images: what every run pays, however short."""
    few = Dataset(survey.splits.train.rows[:IMAGES], survey.splits.train.sources)
    splits = Splits(few, Dataset(()), few, survey.job.seed)
    step = registry.get("steps/adapt", "detector")(frozen=True, images=1, self_test=False)
    context = Context(survey.folder / "unused", survey.folder / "run", splits, survey.task, survey.job.seed)
    Recipe((step, ONNX)).run(survey.base, context, survey.folder / "steps")


class Probe:
    """The network with a few images: how long it reads one, and how long it learns from a batch."""

    def __init__(self, survey: Survey) -> None:
        from budwood.engine.detector_judge import Judge
        from budwood.engine.detector_training import Features, Pictures, freeze
        from budwood.engine.graft import Lesson

        task: Any = survey.task
        folder, rows = survey.base.path, survey.splits.train.rows[:IMAGES]
        self.model: Any = task.build(folder)
        self.parameters = sum(item.numel() for item in self.model.parameters())
        self.pictures = Pictures(task.frame(folder), rows, task.labels)
        self.numbers = list(range(len(rows)))
        self.random = np.random.default_rng(survey.job.seed)
        memory = Features(self.model, self.pictures, task.flip)
        self.views = len(memory.views)
        judge = Judge(Lesson(task, task.encoder(folder), self.model, survey.splits))
        self.read_seconds = timed(lambda: judge.ap50(self.model, rows)) / len(rows)
        freeze(self.model, everything=True)
        self.feature_seconds = timed(lambda: memory.batch(self.numbers, self.random)) / len(rows)
        self.head_step = self.step_seconds(lambda: self.model.learn_from(*memory.batch(self.numbers, self.random)))
        freeze(self.model, everything=False)
        self.full_step = self.step_seconds(lambda: self.model.learn(*self.pictures.batch(self.scenes(task))))

    def scenes(self, task: Any) -> list[Any]:
        from budwood.engine.box_augment import Variation, varied

        how = Variation(task.flip, task.rotate, mosaic=True)
        count = len(self.pictures)
        return [varied(self.pictures.scene, number, count, how, self.random) for number in self.numbers]

    def step_seconds(self, loss: Any) -> float:
        from budwood.engine import planning

        return planning.step_seconds(self.model, None, lambda model, batch: loss())

    def self_test(self) -> float:
        """Eight images learnt by heart."""
        from budwood.engine import overfitting

        if self.model.pretrained_boxes:
            return overfitting.HUB_UPDATES * self.full_step
        return overfitting.UPDATES * self.head_step + overfitting.LOOKS * IMAGES * self.read_seconds

    def head(self, n_train: int, n_held: int) -> float:
        features = n_train * self.views * self.feature_seconds
        return features + self.steps(n_train, frozen=True) * self.head_step + self.judged(n_held)

    def full(self, n_train: int, n_held: int) -> float:
        return self.steps(n_train, frozen=False) * self.full_step + self.judged(n_held)

    def steps(self, n_train: int, *, frozen: bool) -> int:
        """Updates of a training, which every batch of the recipe is one of."""
        recipe = self.model.recipe(n_train, frozen=frozen)
        return -(-int(recipe.images) // int(recipe.batch_size))

    def judged(self, n_held: int) -> float:
        from budwood.engine.detector_training import EVALUATIONS

        return (EVALUATIONS + 1) * n_held * self.read_seconds
