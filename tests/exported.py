"""Bundles as `budwood adapt` makes them, of networks that were not trained: torch weights, a graph and golden rows."""

from pathlib import Path

import pictures
import tiny
import tiny_language

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset, Splits
from budwood.core.recipe import Recipe
from budwood.core.step import Context
from budwood.core.task import Task
from budwood.engine import conformance, graft
from budwood.engine.base_model import import_base
from budwood.engine.bases import Found
from budwood.engine.predictor import Predictor


def classifier(folder: Path, base: Path, kind: str, splits: Splits) -> Bundle:
    """A linear head on the frozen network in `base`, with its graph."""
    rule: type[Task] = registry.get("tasks", kind)
    start = import_base(Found(base, "tiny", "asked for"), folder, rule)
    task = rule.from_rows(splits.train.rows).fit_to(start.path)
    context = Context(out=folder / "unused", work=folder / "work", splits=splits, task=task)
    steps = (registry.get("steps/adapt", "head")(), registry.get("steps/export", "onnx")())
    return Recipe(steps).run(start, context, folder / "steps")


def text(folder: Path, tiny_bert: Path) -> Bundle:
    """A classifier of texts, whose graph has fused attention."""
    return classifier(folder, tiny_bert, "text_classification", tiny.splits())


def image(folder: Path, network: str = "mobilenet_v2", base: Path | None = None) -> Bundle:
    """A classifier of images, of one of `pictures.CONFIGS` or of a network that is given."""
    rows = [
        {"image": pictures.encoded(pictures.scene(label, 20 * number + index)), "label": label}
        for number, label in enumerate(pictures.COLOURS)
        for index in range(12)
    ]
    parts = (rows[0::2], rows[1::4], rows[3::4])
    splits = Splits(*(Dataset.of(part, "tiny") for part in parts), seed=0)
    base = base or pictures.base(folder / "base", network)
    return classifier(folder, base, "image_classification", splits)


def writer(folder: Path) -> Bundle:
    """A GPT-2 that continues texts, with a graph that has a cache."""
    plain = tiny_language.bundle(folder / "bundle")
    reference = Predictor.open(plain, "torch")
    items = conformance.choose(reference.task, [{"text": item} for item in tiny_language.CORPUS])
    outputs = reference.outputs(conformance.parsed(reference.task, {"inputs": items}))

    def write(stage: Path) -> None:
        graft.copy_files(plain, plain.names, stage)
        conformance.write(stage, items, outputs, conformance.FLOAT_TOLERANCE)

    return Bundle.create(folder / "golden", plain.draft("base"), write)
