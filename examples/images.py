"""Images in Python: draw some signs, learn to tell them apart, and ask about signs that were never seen.

Run it from anywhere with `.venv/bin/python examples/images.py`; it takes about ten seconds on two CPU cores.
The pictures and the model go to a temporary folder that is removed at the end.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import budwood

EDGE = 80
EACH = 24
SIGNS = ("cross", "ring", "triangle")


def main() -> None:
    chance = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sign in SIGNS:
            (folder / "signs" / sign).mkdir(parents=True)
            for number in range(EACH):
                draw(sign, chance).save(folder / "signs" / sign / f"{number}.png")
        (folder / "new").mkdir()
        for sign in SIGNS:
            draw(sign, chance).save(folder / "new" / f"some_{sign}.png")

        # The signs have no up and down. Without `method`, few-shot tuning would be tried as well, which takes minutes.
        store = folder / "models"
        model = budwood.adapt(folder / "signs", method="head", options={"rotate": True}, store=store)
        low, high = model.ci
        print(f"{model.name}:{model.version} on {model.n_test} images: {model.score:.2f}, 95 % {low:.2f}-{high:.2f}")

        files = sorted((folder / "new").iterdir())
        for file, answer in zip(files, budwood.predict(model.name, files, store=store), strict=True):
            print(f"{file.name:<20} {answer['label']:<10} {answer['score']:.2f}")


def draw(sign: str, chance: np.random.Generator) -> Image.Image:
    """A sign of random colour, size, place and turn on a pale ground."""
    pale, ink = tuple(chance.integers(200, 256, 3).tolist()), tuple(chance.integers(0, 141, 3).tolist())
    x, y, r = chance.integers((32, 32, 16), (49, 49, 29)).tolist()
    image = Image.new("RGB", (EDGE, EDGE), pale)
    pen = ImageDraw.Draw(image)
    if sign == "cross":
        pen.line((x - r, y, x + r, y), ink, 8)
        pen.line((x, y - r, x, y + r), ink, 8)
    elif sign == "ring":
        pen.ellipse((x - r, y - r, x + r, y + r), outline=ink, width=7)
    else:
        pen.polygon((x, y - r, x + r, y + r, x - r, y + r), ink)
    return image.rotate(float(chance.uniform(0, 360)), Image.Resampling.BILINEAR, fillcolor=pale)


if __name__ == "__main__":
    main()
