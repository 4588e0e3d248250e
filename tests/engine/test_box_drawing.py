"""Drawings: boxes where the objects are, in the size of the image, whatever the label is called."""

import numpy as np
import pytest
import scenes
from PIL import Image

from budwood.engine.box_drawing import draw_boxes, thumbnail


def test_a_box_is_drawn_where_the_object_is(tmp_path):
    image, _ = scenes.scene(0)
    image.save(tmp_path / "a.png")
    thing = {"label": "dark", "score": 0.7, "box": [30.0, 30.0, 60.0, 60.0]}
    drawn = draw_boxes(str(tmp_path / "a.png"), [thing], ("dark", "light"))
    assert drawn.size == image.size
    changed = (np.asarray(drawn) != np.asarray(image)).any(axis=2)
    assert changed[45, 30]
    assert changed[45, 59]
    assert changed[59, 45]
    assert not changed[45, 45], "what is inside stays to be seen"
    assert not changed[66:].any()


@pytest.mark.parametrize("label", ["普通話", "a" * 200, "", "<b>"])
def test_any_label_can_be_drawn(tmp_path, label):
    scenes.scene(0)[0].save(tmp_path / "a.png")
    thing = {"label": label, "score": 1.0, "box": [0.0, 0.0, 96.0, 72.0]}
    assert draw_boxes(tmp_path / "a.png", [thing], (label,)).size == (96, 72)


def test_a_thumbnail_is_small_and_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (800, 600)).save(tmp_path / "a.jpg", exif=exif)
    content = thumbnail(tmp_path / "a.jpg", [], [{"label": "a", "box": [0, 0, 300, 400]}], ("a",), 200)
    (tmp_path / "b.jpg").write_bytes(content)
    with Image.open(tmp_path / "b.jpg") as small:
        assert small.size == (150, 200)
        assert np.asarray(small)[60, 72:77].min(axis=1).max() > 128, "the true box ends in the middle"
