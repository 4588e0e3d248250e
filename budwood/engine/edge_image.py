"""Classifies images with nothing but onnxruntime and numpy: `python run.py photo.ppm`, a PPM, an .npy or raw pixels.

Other formats are read where Pillow is installed. Resizing is Pillow's own, to the last bit, written in numpy.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
FIXED = 22
"""Bits after the point: Pillow weighs pixels in whole numbers."""
PPM = re.compile(rb"P6\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s+255\s")
"""Each comment ends at its line's end, so that there is one way to read a header, however long."""


def cubic(x: Any) -> Any:
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0.0))


FILTERS: dict[int, tuple[float, Callable[[Any], Any]]] = {
    1: (3.0, lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)),  # Lanczos
    2: (1.0, lambda x: np.maximum(0.0, 1 - np.abs(x))),  # bilinear
    3: (2.0, cubic),
    4: (0.5, lambda x: np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)),  # box
    5: (1.0, lambda x: np.where(np.abs(x) < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0.0)),  # Hamming
}
"""By Pillow's numbers: how far a filter reaches, and its weight at a distance."""


def resized(pixels: Any, size: int, filter: int) -> Any:
    """Bytes of shape (n, …) resized along the first axis to (size, …)."""
    count = len(pixels)
    if count == size:
        return pixels
    scale = count / size
    if filter == 0:
        steps = np.add.accumulate(np.r_[0.5 * scale, np.full(size - 1, scale)])
        return pixels[np.minimum(steps.astype(int), count - 1)]
    reach, weight = FILTERS[filter]
    wide = max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    first = np.maximum((centres - reach * wide + 0.5).astype(int), 0)
    last = np.minimum((centres + reach * wide + 0.5).astype(int), count)
    places = first[:, None] + np.arange(int((last - first).max()))
    weights = weight((places - centres[:, None] + 0.5) / wide) * (places < last[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    whole = np.trunc(weights * (1 << FIXED) + np.copysign(0.5, weights)).astype(np.int64)
    total = np.full((size, *pixels.shape[1:]), 1 << (FIXED - 1), np.int64)
    for column in range(places.shape[1]):
        share = whole[:, column].reshape(-1, *[1] * (pixels.ndim - 1))
        total += share * pixels[np.minimum(places[:, column], count - 1)]
    return np.clip(total >> FIXED, 0, 255).astype(np.uint8)


def scaled(pixels: Any, rows: int, columns: int, filter: int) -> Any:
    """Bytes of shape (height, width, 3) resized to (rows, columns, 3), in the order of passes that Pillow 13 takes."""
    height, width = pixels.shape[:2]
    if height > rows and height - rows > 2 * (width - columns):
        pixels = resized(pixels, rows, filter)
    pixels = resized(pixels.transpose(1, 0, 2), columns, filter).transpose(1, 0, 2)
    return resized(pixels, rows, filter)


def cut(pixels: Any, rows: int, columns: int) -> Any:
    """The centre of an image, on black where the image is smaller."""
    framed = np.zeros((rows, columns, 3), np.uint8)
    top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
    inner = pixels[max(0, top) : top + rows, max(0, left) : left + columns]
    framed[max(0, -top) :, max(0, -left) :][: inner.shape[0], : inner.shape[1]] = inner
    return framed


def prepared(pixels: Any, facts: dict[str, Any]) -> Any:
    """Bytes of shape (height, width, 3) as float32 of shape (3, height, width): resized, cut out and normalised."""
    height, width = pixels.shape[:2]
    rows, columns = facts["size"] or (height, width)
    if facts["edge"]:
        long = int(facts["edge"] * max(width, height) / min(width, height))
        rows, columns = (long, facts["edge"]) if width <= height else (facts["edge"], long)
    pixels = scaled(pixels, rows, columns, facts["resample"])
    if facts["crop"]:
        pixels = cut(pixels, *facts["crop"])
    channels = pixels.transpose(2, 0, 1)[:: -1 if facts["bgr"] else 1]
    factor, summand = np.asarray(facts["affine"], np.float32)[:, :, None, None]
    return channels * factor + summand


def read_image(path: Path, raw: Sequence[int] = (), draft: int = 0) -> Any:
    """Pixels as bytes of shape (height, width, 3); `raw` is the width and height of a file without a header."""
    if raw:
        return np.frombuffer(path.read_bytes(), np.uint8).reshape(raw[1], raw[0], 3)
    if path.suffix == ".npy":
        return np.lib.format.open_memmap(path, mode="r")  # which never unpickles
    content = path.read_bytes()
    if header := PPM.match(content, 0, 1024):
        return np.frombuffer(content, np.uint8, offset=header.end()).reshape(int(header[2]), int(header[1]), 3)
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        sys.exit(f"{path.name}: give a PPM or .npy file, or install Pillow, which reads other formats")
    with Image.open(path) as image:
        if draft:
            image.draft("RGB", (draft, draft))  # a large JPEG is not decoded in full
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("LA", "PA", "RGBA") or "transparency" in upright.info:
            white = Image.new("RGBA", upright.size, "white")
            white.alpha_composite(upright.convert("RGBA"))
            upright = white
        return np.asarray(upright.convert("RGB"))


class Model:
    """`Model().answer([pixels])`; one model may be used from several threads."""

    def __init__(self, folder: Path = HERE, threads: int = 0) -> None:
        import onnxruntime

        self.facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)

    def logits(self, images: Sequence[Any]) -> Any:
        """Shape (images, labels), from pixels as bytes of shape (height, width, 3)."""
        pixels = np.stack([prepared(image, self.facts["image"]) for image in images])
        return self.session.run(["logits"], {"pixel_values": pixels})[0]

    def answer(self, images: Sequence[Any], top: int = 3) -> list[dict[str, Any]]:
        """For each image its label and the `top` best with their probabilities."""
        scaled = self.logits(images).astype(np.float64) / self.facts["temperature"]
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        answers = []
        for row in powers / powers.sum(axis=1, keepdims=True):
            best = np.argsort(-row, kind="stable")[:top]
            scores = {self.facts["labels"][i]: round(float(row[i]), 6) for i in best}
            answers.append({"label": next(iter(scores)), "score": next(iter(scores.values())), "scores": scores})
        return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument(
        "--raw", nargs=2, type=int, default=(), metavar=("WIDTH", "HEIGHT"), help="of a headerless file"
    )
    given = parser.parse_args()
    model = Model()
    for path in given.files:
        pixels = read_image(path, given.raw, model.facts["image"]["draft"])
        sys.stdout.write(json.dumps({"image": str(path), **model.answer([pixels])[0]}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
