"""Object detection in Python: draw desks with cups and books on them, learn to find these, and draw what was found.

Run it from anywhere with `.venv/bin/python examples/detection.py`; it takes about half a minute on two CPU cores.
The pictures and the model go to a temporary folder that is removed at the end.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import budwood

WIDTH, HEIGHT = 160, 120
DESKS = 80
KINDS = ("cup", "book")


def main() -> None:
    chance = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_coco(folder / "desks", chance)
        desk(chance)[0].save(folder / "new.png")

        # A book has no up and down on a desk. 96 pixels are few, and fast; without the option the objects decide.
        store, options = folder / "models", {"rotate": True, "image_size": 96}
        model = budwood.adapt(folder / "desks", method="head", options=options, store=store)
        low, high = model.ci
        score = f"F1 {model.score:.2f}, 95 % {low:.2f}-{high:.2f}, AP50 {model.metrics['ap50']:.2f}"
        print(f"{model.name}:{model.version} on {model.n_test} images: {score}")

        (answer,) = budwood.predict(model.name, [folder / "new.png"], draw=folder / "drawn", store=store)
        for item in answer["objects"]:
            print(f"{item['label']:<6} {item['score']:.2f}  {item['box']}")
        with Image.open(answer["drawing"]) as drawing:
            print(f"drawn on an image of {drawing.width} x {drawing.height} pixels")


def write_coco(folder: Path, chance: np.random.Generator) -> None:
    """Images with one COCO file, as annotation tools export them."""
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number in range(DESKS):
        image, things = desk(chance)
        image.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT})
        for kind, box in things:
            objects.append({"id": len(objects), "image_id": number, "category_id": kind, "bbox": box})
    categories = [{"id": number, "name": name} for number, name in enumerate(KINDS)]
    content = {"images": images, "annotations": objects, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


def desk(chance: np.random.Generator) -> tuple[Image.Image, list[tuple[int, list[int]]]]:
    """A brown desk with up to three things; their kinds, and their boxes as left, top, width and height."""
    brown = np.asarray((150, 110, 70)) + chance.integers(-20, 20, 3)
    image = Image.new("RGB", (WIDTH, HEIGHT), tuple(brown.tolist()))
    pen = ImageDraw.Draw(image)
    things = []
    for place in range(int(chance.integers(1, 4))):
        kind = int(chance.integers(len(KINDS)))
        wide, high = (30, 30) if kind == 0 else chance.integers((28, 36), (40, 50)).tolist()
        left = place * WIDTH // 3 + int(chance.integers(0, WIDTH // 3 - wide)) if wide < WIDTH // 3 else 0
        top = int(chance.integers(2, HEIGHT - high - 2))
        corners = (left, top, left + wide, top + high)
        if kind == 0:
            pen.ellipse(corners, fill="white", outline="grey", width=4)
        else:
            ink = tuple(chance.integers(0, 120, 3).tolist())
            pen.rectangle(corners, fill=ink)
            pen.line((left + 5, top, left + 5, top + high), fill="white", width=2)
        things.append((kind, [left, top, wide, high]))
    return image, things


if __name__ == "__main__":
    main()
