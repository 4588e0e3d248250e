"""Train a detector: the frozen backbone first, then all of it, through the one training loop.

Import only inside functions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from budwood.core.step import Context
from budwood.core.task import Row
from budwood.engine.box_augment import Scene, Variation, varied
from budwood.engine.box_frame import Frame
from budwood.engine.detector_loss import Targets
from budwood.engine.detector_recipe import Recipe
from budwood.engine.planning import CHEAPER, within
from budwood.engine.train import Plan, Trained, train

__all__ = ["Features", "Learn", "Pictures", "fit_detector", "freeze"]

CACHED_BYTES = 2 << 30
"""Of decoded squares, and of features, that are kept in memory; what is beyond is computed each time."""
EVALUATIONS = 10
PLAIN_SHARE = 0.1
"""Share of the training at its end without mosaics."""

Evaluate = Callable[[nn.Module], float]
Learn = Callable[[Any, Sequence[Scene]], Tensor]
"""The loss of a network on varied images, a scalar."""


class Pictures:
    """Labelled images as a detector learns them: squares in memory, with their boxes in pixels of the square."""

    def __init__(self, frame: Frame, rows: Sequence[Row], labels: Sequence[str]) -> None:
        self.frame, self.rows = frame, rows
        self.numbers = {label: number for number, label in enumerate(labels)}
        self.kept: dict[int, Scene] = {}
        self.room = CACHED_BYTES // (3 * frame.size**2)

    def __len__(self) -> int:
        return len(self.rows)

    def scene(self, number: int) -> Scene:
        """An image as it is, with all its boxes; crowds have the label -1."""
        if number in self.kept:
            return self.kept[number]
        row = self.rows[number]
        pixels, laid = self.frame.pixels(row["image"])
        factor = np.asarray([laid.scale_x, laid.scale_y] * 2)
        boxes = np.asarray([item["box"] for item in row["label"]], np.float64).reshape(-1, 4)
        labels = [-1 if item.get("crowd") else self.numbers[item["label"]] for item in row["label"]]
        moved = boxes * factor + np.asarray([laid.left, laid.top] * 2)
        scene = Scene(pixels, moved.astype(np.float32), np.asarray(labels, np.int64))
        if len(self.kept) < self.room:
            self.kept[number] = scene
        return scene

    def batch(self, scenes: Sequence[Scene]) -> tuple[Tensor, list[Targets]]:
        """Pixel values and targets."""
        values = np.empty((len(scenes), 3, self.frame.size, self.frame.size), np.float32)
        for scene, out in zip(scenes, values, strict=True):
            self.frame.normalise(scene.pixels, out)
        return torch.from_numpy(values), [targets_of(scene) for scene in scenes]

    def drawn(self, seed: int, batch_size: int, step: int) -> list[int]:
        """The images of a step: each is seen once before any is seen again."""
        first = step * batch_size
        return [self.order(seed, place // len(self))[place % len(self)] for place in range(first, first + batch_size)]

    def order(self, seed: int, turn: int) -> list[int]:
        return [int(number) for number in np.random.default_rng([seed, turn, 1]).permutation(len(self))]


def targets_of(scene: Scene) -> Targets:
    boxes, labels = torch.from_numpy(scene.boxes), torch.from_numpy(scene.labels)
    crowd = labels < 0
    return Targets(boxes[~crowd], labels[~crowd], boxes[crowd])


def fit_detector(
    model: Any,
    pictures: Pictures,
    recipe: Recipe,
    how: Variation,
    context: Context,
    what: str,
    *,
    evaluate: Evaluate | None,
    looks: int = EVALUATIONS,
    cached: bool = False,
    learn: Learn | None = None,
) -> Trained:
    """Train in place; the weights are those of the best `evaluate`, or the last. `context.seconds` is kept.

    Args:
        looks: how often `evaluate` is asked, evenly spread.
        cached: the backbone is not to learn: its features of the images, as they are and mirrored where `how` allows
            that, are computed once.
        learn: the loss on varied images, where it is not the network's own.
    """
    plan = plan_of(model, recipe, context.seed, looks)
    freeze(model, everything=cached)
    memory = Features(model, pictures, how.flip) if cached else None
    length = [plan.steps]

    def batches(number: int) -> Iterator[int]:
        first = number * plan.steps_per_epoch
        yield from range(first, first + plan.steps_per_epoch)

    def loss(network: Any, step: int) -> Tensor:
        # Images are varied in here, so that the time that this takes is counted as time of the training.
        random = np.random.default_rng([context.seed, step, 2])
        chosen = pictures.drawn(context.seed, recipe.batch_size, step)
        if memory is not None:
            found: Tensor = network.learn_from(*memory.batch(chosen, random))
            return found
        now = how._replace(mosaic=how.mosaic and step < (1 - PLAIN_SHARE) * length[0])
        scenes = [varied(pictures.scene, number, len(pictures), now, random) for number in chosen]
        value: Tensor = network.learn(*pictures.batch(scenes)) if learn is None else learn(network, scenes)
        return value

    # The frozen backbone is what `head` learns too, and a student has no other method.
    cheaper = "" if cached or learn is not None else CHEAPER
    plan = evenly(within(plan, context.seconds, model, batches, loss, context.work, cheaper=cheaper), looks)
    length[0] = plan.steps
    return train(
        model,
        plan,
        batches,
        loss,
        evaluate=evaluate,
        checkpoints=context.work / "checkpoints",
        progress=context.progress,
        seconds=context.seconds,
        what=what,
    )


def plan_of(model: Any, recipe: Recipe, seed: int, looks: int = EVALUATIONS) -> Plan:
    """The recipe as steps of the training loop, before the granted time is known.

    Each is an epoch of its own, because whole epochs are cut off where the time is too short for all.
    """
    steps = max(looks, -(-recipe.images // recipe.batch_size))
    return Plan(
        epochs=steps,
        steps_per_epoch=1,
        learning_rate=recipe.rate or recipe.head_rate,
        head_learning_rate=recipe.head_rate,
        weight_decay=recipe.weight_decay,
        warmup=0.05,
        clip=recipe.clip,
        patience=looks,
        seed=seed,
        average=recipe.average,
        head_names=model.head_names,
    )


def evenly(plan: Plan, looks: int) -> Plan:
    """The same number of steps, looked at so many times."""
    return replace(plan, epochs=looks, steps_per_epoch=max(1, plan.steps // looks))


def freeze(model: Any, *, everything: bool) -> None:
    """Keep the backbone; or else its first layers, which know edges and colours and cost the most."""
    kept = tuple(model.body_names) if everything else tuple(model.first_names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (kept and name.startswith(kept)))


class Features:
    """What a frozen backbone makes of each image, as it is and mirrored, in half precision; kept while there is room.

    Nothing of the backbone is left to chance meanwhile, whatever the model's mode.
    """

    def __init__(self, model: Any, pictures: Pictures, flip: bool) -> None:
        self.pictures, self.model = pictures, model
        self.views = (False, True) if flip else (False,)
        self.kept: dict[tuple[int, bool], list[Tensor]] = {}
        self.room = 0 if model.pretrained_boxes else CACHED_BYTES  # those have no features but the image itself

    def batch(self, numbers: Sequence[int], random: np.random.Generator) -> tuple[list[Tensor], list[Targets]]:
        """Features of each level for these images, and their targets."""
        keys = [(number, bool(self.views[int(random.integers(len(self.views)))])) for number in numbers]
        levels = zip(*(self.features(*key) for key in keys), strict=True)
        return [torch.stack(level).float() for level in levels], [targets_of(self.scene(*key)) for key in keys]

    def scene(self, number: int, mirrored: bool) -> Scene:
        scene = self.pictures.scene(number)
        if not mirrored:
            return scene
        size = scene.pixels.shape[0]
        boxes = scene.boxes[:, [2, 1, 0, 3]] * np.asarray([-1, 1, -1, 1], np.float32)
        return Scene(scene.pixels[:, ::-1], boxes + np.asarray([size, 0, size, 0], np.float32), scene.labels)

    def features(self, number: int, mirrored: bool) -> list[Tensor]:
        if (number, mirrored) in self.kept:
            return self.kept[number, mirrored]
        values, _ = self.pictures.batch([self.scene(number, mirrored)])
        training = self.model.training
        self.model.eval()
        with torch.inference_mode():
            found = [level[0].half() for level in self.model.features(values)]
        self.model.train(training)
        if self.room > 0:
            self.kept[number, mirrored] = found
            self.room -= sum(level.nbytes for level in found)
        return found
