"""Numbers and risks in Python: draw some leaves with spots, and learn how sick they are and which of them will fall.

Run it from anywhere with `.venv/bin/python examples/risk.py`; it takes about half a minute on two CPU cores.
The pictures, the heat maps and the models go to a temporary folder that is removed at the end.
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import budwood

EDGE = 80
TREES = 40
LEAVES = 6


def main() -> None:
    chance = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        leaves(folder / "leaves", chance)
        store = folder / "models"

        # A number: the share of a leaf that is brown. Leaves of one tree are never on both sides of the split.
        turned = {"rotate": True}
        area = budwood.adapt(folder / "leaves", target="brown", group="tree", name="area", options=turned, store=store)
        error, held = area.metrics["mae"], area.metrics["coverage_90"]
        print(f"{area.name}: error {error:.1f} points, {held:.0%} of the intervals hold")

        # A yes or no: the probability that the leaf falls within the week, in bins of our own.
        fall = budwood.adapt(
            folder / "leaves",
            task="image_regression",
            target="falls",
            group="tree",
            name="fall",
            options={**turned, "bins": "0.2,0.5,0.8"},
            store=store,
        )
        low, high = fall.intervals["roc_auc"]
        print(f"{fall.name}: ROC AUC {fall.metrics['roc_auc']:.2f}, 95 % {low:.2f}-{high:.2f}")

        files = [folder / "leaves" / f"{number}.png" for number in range(3)]
        areas = budwood.predict("area", files, store=store)
        risks = budwood.predict("fall", files, explain=folder / "maps", store=store)
        for file, one, two in zip(files, areas, risks, strict=True):
            span = "{:.0f} to {:.0f} %".format(*one["interval"])
            print(f"{file.name}: {one['value']:.0f} % brown ({span}); risk {two['value']:.2f}, {two['bin']}")
        print(f"{len(list((folder / 'maps').iterdir()))} heat maps show what the risks rest on")


def leaves(folder: Path, chance: np.random.Generator) -> None:
    """Leaves of several trees, and a table with how brown each is and whether it falls."""
    folder.mkdir()
    with (folder / "leaves.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "tree", "brown", "falls"])
        for number in range(TREES * LEAVES):
            image, brown = leaf(chance)
            image.save(folder / f"{number}.png")
            falls = chance.random() < 1 / (1 + np.exp(-(brown - 25) / 4))
            table.writerow([f"{number}.png", number // LEAVES, f"{brown:.1f}", "yes" if falls else "no"])


def leaf(chance: np.random.Generator) -> tuple[Image.Image, float]:
    """A leaf on a pale ground, and how many hundredths of it are brown."""
    image = Image.new("RGB", (EDGE, EDGE), tuple(chance.integers(215, 250, 3).tolist()))
    green = (int(chance.integers(50, 110)), int(chance.integers(130, 180)), int(chance.integers(50, 90)))
    shape = Image.new("L", (EDGE, EDGE), 0)
    ImageDraw.Draw(shape).ellipse((18, 8, 62, 72), fill=255)
    body = Image.new("RGB", (EDGE, EDGE), green)
    pen = ImageDraw.Draw(body)
    for _ in range(int(chance.integers(0, 16))):
        x, y, r = chance.integers((18, 8, 3), (62, 72, 9)).tolist()
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(125, 85, 45))
    image.paste(body, mask=shape)
    inside = np.asarray(shape) > 0
    brown = (np.asarray(body)[..., 0] == 125) & inside
    return image.rotate(
        float(chance.uniform(0, 360)), fillcolor=image.getpixel((0, 0))
    ), 100 * brown.sum() / inside.sum()


if __name__ == "__main__":
    main()
