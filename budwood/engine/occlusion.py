"""Which parts of an image an answer rests on: each part is covered in turn, and the answer is asked again.

Occlusion maps (Zeiler and Fergus 2014, arXiv:1311.2901) need outputs only, so the runtime that serves computes them.
"""

import base64
from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from budwood.core.task import Arrays, Run

__all__ = ["WINDOWS", "heat_map", "overlay", "png_uri"]

GRID = 8
"""Cells along each side of a map."""
REACH = 2
"""Cells along each side of a window; windows are a cell apart, so that neighbours overlap and the map is smooth."""
WINDOWS = (GRID - REACH + 1) ** 2
"""Passes through the model that a map costs, beside the answer's own."""
BATCH = 8
SHOWN_EDGE = 320
"""Pixels of the longer side that a shown image has at least."""
SUPPORTS, OPPOSES = (214, 40, 40), (40, 90, 200)
STRENGTH = 0.6
"""Share of the colour where the map is strongest."""

Evidence = Callable[[Arrays, Arrays], NDArray[np.float64]]
"""How strongly outputs speak for what the reference outputs say, one number a row."""


def heat_map(pixels: NDArray[np.float32], run: Run, evidence: Evidence, grid: int = GRID) -> NDArray[np.float64]:
    """What covering each cell of an image takes from the evidence, shape (grid, grid); negative where it adds to it.

    A cell has the mean of the windows that cover it.

    Args:
        pixels: the model's input for one image, shape (1, 3, height, width).
        run: one batch through the model.
    """
    reference = run({"pixel_values": pixels})
    whole = float(evidence(reference, reference)[0])
    height, width = pixels.shape[2:]
    # The image's own mean colour: a black patch would be a thing of its own.
    cover = pixels.mean(axis=(2, 3), keepdims=True)[0]
    rows, columns = (np.linspace(0, size, grid + 1).round().astype(int) for size in (height, width))
    places = [(row, column) for row in range(grid - REACH + 1) for column in range(grid - REACH + 1)]
    total, times = np.zeros((grid, grid)), np.zeros((grid, grid))
    for start in range(0, len(places), BATCH):
        chosen = places[start : start + BATCH]
        batch = np.repeat(pixels, len(chosen), axis=0)
        for image, (row, column) in zip(batch, chosen, strict=True):
            image[:, rows[row] : rows[row + REACH], columns[column] : columns[column + REACH]] = cover
        fallen = whole - evidence(run({"pixel_values": batch}), reference)
        for value, (row, column) in zip(fallen, chosen, strict=True):
            total[row : row + REACH, column : column + REACH] += value
            times[row : row + REACH, column : column + REACH] += 1
    return np.asarray(total / times)


def overlay(view: NDArray[np.uint8], heat: NDArray[np.float64]) -> bytes:
    """A PNG of the image as the model sees it, red where it supports the answer and blue where it speaks against it."""
    image = Image.fromarray(view)
    scale = max(1.0, SHOWN_EDGE / max(image.size))
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    strongest = float(np.abs(heat).max())
    shares = (heat / strongest if strongest > 0 else heat).astype(np.float32)
    smooth = np.asarray(Image.fromarray(shares).resize(image.size, Image.Resampling.BICUBIC)).clip(-1, 1)[..., None]
    colours = np.where(smooth > 0, np.asarray(SUPPORTS, np.float32), np.asarray(OPPOSES, np.float32))
    opacity = STRENGTH * np.abs(smooth)
    grey = np.asarray(image.convert("L").convert("RGB"), np.float32)
    mixed = Image.fromarray((grey * (1 - opacity) + colours * opacity).round().astype(np.uint8))
    stream = BytesIO()
    mixed.save(stream, "PNG")
    return stream.getvalue()


def png_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
