"""What rows of images with boxes decide: which are set aside, and how large the network's input has to be."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from budwood.core.dataset import Dataset, Splits
from budwood.core.task import Row
from budwood.engine.images import inspect_image
from budwood.engine.splits import make_splits

__all__ = ["box_splits", "fitting_size"]

LOOKED_AT = 200
"""Images whose size is looked up."""
NOTHING = "(none)"
"""What images without objects are split by where the others all have the same label, so that each part gets some."""
SMALL_SHARE = 0.1
LEAST_SIDE = 16.0
"""Pixels, two places of the finest map, that all but the smallest tenth of the objects must have on their side."""


def box_splits(dataset: Dataset, *, test: Dataset | None, seed: int) -> Splits:
    """Images in train, validation and test, stratified by the rarest label in each. Raises DataError as `make_splits`.

    The rules are those of all tasks: given splits and groups are kept, and equal images are never on two sides.
    """
    rows = [*dataset.rows, *(test.rows if test is not None else ())]
    classes = {name for row in dataset for name in labels_in(row)}
    stand_ins = [stand_in(row, number, with_labels=len(classes) > 1) for number, row in enumerate(rows)]
    own = Dataset(tuple(stand_ins[: len(dataset)]), dataset.sources)
    held = None if test is None else Dataset(tuple(stand_ins[len(dataset) :]), test.sources)
    made = make_splits(own, test=held, seed=seed)
    back = [
        Dataset(tuple(rows[row["number"]] for row in p), p.sources) for p in (made.train, made.validation, made.test)
    ]
    return replace(made, train=back[0], validation=back[1], test=back[2])


def stand_in(row: Row, number: int, *, with_labels: bool) -> Row:
    """The row with what it is split by in place of its boxes; with nothing where that is the same for all."""
    kept = {name: row[name] for name in ("image", "sha256", "split", "group") if name in row}
    return {**kept, "number": number, **({"label": labels_in(row)} if with_labels else {})}


def labels_in(row: Row) -> list[str]:
    return sorted({str(item["label"]) for item in row["label"]}) or [NOTHING]


def fitting_size(rows: Sequence[Row], sizes: Sequence[int]) -> int:
    """The smallest of these inputs at which all but the smallest tenth of the objects have 16 pixels, else the last."""
    shares: list[float] = []
    for row in rows[:: max(1, len(rows) // LOOKED_AT)]:
        longest = max(inspect_image(row["image"])[1:])
        for item in row["label"]:
            x1, y1, x2, y2 = item["box"]
            shares.append(float(np.sqrt((x2 - x1) * (y2 - y1))) / longest)
    small = float(np.quantile(shares, SMALL_SHARE)) if shares else 1.0
    return next((size for size in sizes if small * size >= LEAST_SIDE), sizes[-1])
