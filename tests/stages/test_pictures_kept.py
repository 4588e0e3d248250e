"""Heat maps and drawings in a folder: one for each answer, under a name of its own, and nothing is overwritten."""

import base64
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pictures
import pytest

from budwood.core.errors import UsageError
from budwood.stages import drawing, explaining

FINDER: Any = SimpleNamespace(finds_objects=True, to_json=lambda: {"labels": ["a"]})


def maps(folder: Path, *images: str) -> dict[str, bytes]:
    """The content of the map that each answer names, where each map holds its own image's name."""
    answers: list[Mapping[str, Any]] = [
        {"image": name, "explanation": "data:image/png;base64," + base64.b64encode(name.encode()).decode()}
        for name in images
    ]
    found = list(explaining.kept(iter(answers), folder))
    assert len({answer["explanation"] for answer in found}) == len(images)
    return {answer["image"]: Path(answer["explanation"]).read_bytes() for answer in found}


def test_maps_of_images_with_like_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    images = (
        "x/a.png",
        "y/a.png",
        "z/a-2.png",
        f"{'long' * 63}.png",
        f"{'länge' * 50}.png",
        "data:image/png;base64,AA",
    )
    assert maps(tmp_path, *images) == {name: name.encode() for name in images}
    # Nor those of an earlier run, or of an earlier part of the same one.
    maps(tmp_path, "other/a.png")
    assert (tmp_path / "a.heat.png").read_bytes() == b"x/a.png"


def test_a_folder_that_cannot_be_used_is_refused_before_the_first_answer(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be used"):
        explaining.kept(iter([]), tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be used"):
        drawing.drawn(FINDER, iter([]), [], tmp_path / "file" / "below")


def test_drawings_have_names_of_their_own_too(tmp_path: Path) -> None:
    path = tmp_path / f"{'é' * 110}.png"
    pictures.scene("green", 1).save(path)
    for _ in range(2):
        (answer,) = drawing.drawn(FINDER, iter([{"objects": []}]), [{"image": str(path)}], tmp_path / "drawn")
        assert Path(answer["drawing"]).is_file()
    assert len(list((tmp_path / "drawn").iterdir())) == 2
