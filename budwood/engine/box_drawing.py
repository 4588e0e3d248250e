"""Images with boxes drawn on them: what a detector found, beside what is there. Pillow only."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from budwood.engine.images import Source, open_upright

__all__ = ["TRUE", "draw_boxes", "save_drawing", "thumbnail"]

COLOURS = ("#e6550d", "#3182bd", "#31a354", "#c51b8a", "#8c6d31", "#756bb1", "#17becf", "#636363")
"""Of the labels in alphabetical order, from the start again where there are more."""
TRUE = "#ffffff"
SHADOW = "#000000"
SMALLEST_TEXT, LARGEST_TEXT = 11, 40
TEXT_SHARE = 0.022
"""Height of letters by the longer side of the image."""
QUALITY = 92


def draw_boxes(
    source: Source,
    objects: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    truth: Sequence[Mapping[str, Any]] = (),
    longest: int = 0,
) -> Image.Image:
    """The upright image with a box, label and score for each object; true objects in thin white, without words.

    Args:
        labels: all labels, each of which has its colour.
        longest: pixels of the longer side that the drawing may have, 0 for those of the image.

    Raises:
        DataError: as `open_image`.
    """
    image, width, height = open_upright(source, longest)
    scale = min(1.0, longest / max(width, height)) if longest else 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = image.resize(size) if image.size != size else image.copy()
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(min(LARGEST_TEXT, max(SMALLEST_TEXT, TEXT_SHARE * max(size))))
    line = max(1, round(max(size) / 300))
    for item in truth:
        corners = placed(item["box"], scale)
        pen.rectangle(corners, outline=SHADOW, width=line + 1)
        pen.rectangle(corners, outline=TRUE, width=line)
    for item in sorted(objects, key=lambda item: float(item.get("score", 1.0))):
        colour = COLOURS[list(labels).index(item["label"]) % len(COLOURS)] if item["label"] in labels else COLOURS[-1]
        corners = placed(item["box"], scale)
        pen.rectangle(corners, outline=colour, width=line + 1)
        words = written(item)
        left, top, right, bottom = pen.textbbox((0, 0), words, font=font)
        x = min(corners[0], max(0.0, size[0] - (right - left) - 4))
        y = corners[1] - (bottom - top) - 4 if corners[1] > bottom - top + 4 else corners[1]
        pen.rectangle((x, y, x + right - left + 4, y + bottom - top + 4), fill=colour)
        pen.text((x + 2 - left, y + 2 - top), words, fill="#ffffff", font=font)
    return image


def placed(box: Sequence[float], scale: float) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (scale * float(value) for value in box)
    return x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)


def written(item: Mapping[str, Any]) -> str:
    """The label, in letters that the built-in font has, and the score."""
    label = str(item["label"]).encode("latin-1", "replace").decode("latin-1")
    return f"{label} {100 * item['score']:.0f} %" if "score" in item else label


def save_drawing(source: Source, objects: Sequence[Mapping[str, Any]], labels: Sequence[str], path: Path) -> None:
    """Write the drawing as JPEG."""
    draw_boxes(source, objects, labels).save(path, "JPEG", quality=QUALITY)


def thumbnail(
    source: Source,
    objects: Sequence[Mapping[str, Any]],
    truth: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    size: int,
) -> bytes:
    """A small JPEG with both kinds of boxes."""
    stream = BytesIO()
    draw_boxes(source, objects, labels, truth, size).save(stream, "JPEG", quality=80)
    return stream.getvalue()
