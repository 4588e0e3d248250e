"""Weights between those before and after fine-tuning: which share, and what is left in the model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from budwood.core.dataset import Dataset, Splits  # noqa: E402
from budwood.core.task import Encoded, Row  # noqa: E402
from budwood.engine import interpolation  # noqa: E402
from budwood.engine.graft import Lesson  # noqa: E402
from budwood.tasks.image_classification import ImageClassification  # noqa: E402


class Slope(torch.nn.Module):
    """Two logits: nothing, and the input times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(1, 2, bias=False)
        self.register_buffer("seen", torch.tensor(3))

    def forward(self, pixel_values: Any) -> dict[str, Any]:
        return {"logits": self.head(pixel_values), "embedding": pixel_values}


def encode(rows: Sequence[Row]) -> Encoded:
    return Encoded({"pixel_values": np.asarray([[row["image"]] for row in rows], np.float32)}, [{} for _ in rows])


def lesson(slope: float, held: int) -> Lesson:
    """Labels that follow the sign of the input; a weight of `slope` after training. So few rows fit no temperature."""
    model = Slope().eval()
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[0.0], [slope]]))
    rows = [{"image": float(x), "label": "yes" if x > 0 else "no"} for x in np.linspace(-1, 1, held)]
    empty = Dataset((), ())
    return Lesson(ImageClassification(("no", "yes")), encode, model, Splits(empty, Dataset.of(rows), empty, seed=0))


def slope_of(model: Any) -> float:
    return round(float(model.head.weight[1, 0].detach()), 5)


def test_the_share_that_answers_held_out_rows_best_is_left_in_the_model() -> None:
    good, bad = lesson(8.0, 10), lesson(-8.0, 10)
    before = interpolation.snapshot(good.model)
    assert interpolation.mix(bad, before, None) == 0.25
    assert slope_of(bad.model) == 4.0
    better = lesson(8.0, 10)
    assert interpolation.mix(better, interpolation.snapshot(lesson(-8.0, 1).model), None) == 1.0
    assert slope_of(better.model) == 8.0


@pytest.mark.parametrize(("share", "slope"), [(0.5, 2.0), (1.0, 4.0), (None, 4.0)])
def test_without_held_out_rows_the_share_is_what_was_said_or_all(share: float | None, slope: float) -> None:
    studied = lesson(4.0, 0)
    before = {name: torch.zeros_like(item) for name, item in interpolation.snapshot(studied.model).items()}
    assert interpolation.mix(studied, before, share) == (share or 1.0)
    assert slope_of(studied.model) == slope
    assert int(studied.model.seen) == 3, "a counter is not mixed"
