"""How a detector of transformers wants its images, by what its image processor states and leaves open."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from budwood.core.errors import BundleError
from budwood.engine.hub_detector import frame_of

HALF = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
SQUARE = {"height": 640, "width": 640}


def frame(folder: Path, config: Any) -> Any:
    if config is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return frame_of(folder)


@pytest.mark.parametrize(
    ("config", "size", "letterbox"),
    [
        (None, 640, False),
        ({"size": SQUARE, "resample": None}, 640, False),
        ({"image_processor_type": "YolosImageProcessor"}, 800, True),
        ({"feature_extractor_type": "DetrFeatureExtractor", "size": 800, "max_size": 1333, **HALF}, 800, True),
        (
            {"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 600, "longest_edge": 1333}},
            608,
            True,
        ),
    ],
)
def test_squares_and_sides_are_told_apart(tmp_path: Path, config: Any, size: int, letterbox: bool) -> None:
    found = frame(tmp_path, config)
    assert (found.size, found.letterbox, found.resample) == (size, letterbox, 2)


def test_what_is_left_open_is_what_the_class_takes(tmp_path: Path) -> None:
    plain = frame(tmp_path, {"image_processor_type": "RTDetrImageProcessor", "size": SQUARE, **HALF})
    assert plain.factor == pytest.approx([1 / 255] * 3)
    normal = frame(tmp_path, {"image_processor_type": "YolosImageProcessor", "size": SQUARE, **HALF})
    assert normal.factor == pytest.approx([4 / 255] * 3)
    assert normal.summand == pytest.approx([-2.0] * 3)
    usual = frame(tmp_path, {"size": SQUARE, "do_normalize": True})
    assert usual.summand[0] == pytest.approx(-0.485 / 0.229)


@pytest.mark.parametrize(
    "config",
    [[], {"size": {"height": 8, "width": 8}}, {"size": {"height": 640, "width": 480}}, {"size": {"max": 9}}, 5],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, config: Any) -> None:
    with pytest.raises(BundleError):
        frame(tmp_path, config)
