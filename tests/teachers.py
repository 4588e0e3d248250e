"""Small adapted models that tests distil from; float weights only, so they are made in a second or two."""

import hashlib
from pathlib import Path

import pictures
import tiny

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset, Splits
from budwood.core.recipe import Recipe
from budwood.core.step import Context
from budwood.core.task import Row, Task
from budwood.engine.base_model import import_base
from budwood.engine.bases import Found


def adapted(folder: Path, base: Path, kind: str, splits: Splits) -> Bundle:
    """A linear head on the frozen network in `base`."""
    rule: type[Task] = registry.get("tasks", kind)
    start = import_base(Found(base, "tiny", "asked for"), folder, rule)
    task = rule.from_rows(splits.train.rows).fit_to(start.path)
    context = Context(out=folder / "unused", work=folder / "work", splits=splits, task=task)
    return Recipe((registry.get("steps/adapt", "head")(),)).run(start, context, folder / "steps")


def texts(folder: Path, tiny_bert: Path) -> Bundle:
    return adapted(folder, tiny_bert, "text_classification", tiny.splits())


def images(folder: Path, network: str) -> tuple[Bundle, Splits]:
    """A classifier of images of one of `pictures.CONFIGS`, and its rows."""
    scenes = [(label, 20 * number + index) for number, label in enumerate(pictures.COLOURS) for index in range(12)]
    files = [(pictures.encoded(pictures.scene(*scene)), scene[0]) for scene in scenes]
    rows: list[Row] = [
        {"image": content, "sha256": hashlib.sha256(content).hexdigest(), "label": label} for content, label in files
    ]
    splits = Splits(*(Dataset.of(part, "tiny") for part in (rows[0::2], rows[1::4], rows[3::4])), seed=0)
    return adapted(folder, pictures.base(folder / "base", network), "image_classification", splits), splits
