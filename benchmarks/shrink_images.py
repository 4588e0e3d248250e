"""Static int8 makes MobileNetV2 and EfficientNet-Lite0 8 times as fast as transformers with torch, as right.

    python benchmarks/shrink_images.py DATA_FOLDER --work FOLDER [STAGE]

First `budwood adapt` fits heads on galaxies (half of the images are kept for the test) and on hymenoptera (the split of
its authors); models that are there are not made again. Then stages, from the one that is named on: `compare`
quantizes each model and scores it on the test images beside its float parent. `race` runs batches of 16 through int8,
float, torch with channels last, and transformers with torch in eager mode, in turns. `rates` counts images a minute at
160 pixels, of the network alone and of `budwood predict` from JPEG files, process start included.
DATA_FOLDER has images/galaxy_spiral_212, images/hymenoptera_256 and weights/mobilenet_v2_1.0_224.
Result: benchmarks/results/shrink_images.json
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from images import shuffled
from PIL import Image
from runs import budwood

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.step import Context
from budwood.core.store import Store
from budwood.engine.machine import describe
from budwood.engine.measure import ratio_of, score
from budwood.engine.predictor import Predictor, task_of
from budwood.engine.statistics import non_inferiority

RESULT = Path(__file__).parent / "results" / "shrink_images.json"
PEER = "transformers + torch eager"
MAX_DROP = 0.01
BATCH, ROUNDS, SMALL = 16, 9, 160
FILES = {"160_px": (SMALL, 3000), "256_px": (0, 3000)}
"""Edge of the JPEG files that `predict` reads, 0 for as they are, and how many."""
Forward = Callable[[np.ndarray], np.ndarray]


class Work:
    """Where everything is: the data, the store, and the options of each model."""

    def __init__(self, data: Path, home: Path) -> None:
        self.data, self.home, self.store = data, home, Store.default(home / "store")
        bases = {"mobilenet_v2": ["--base", str(data / "weights/mobilenet_v2_1.0_224")], "efficientnet_lite0": []}
        sets = {"galaxies": self.galaxies, "hymenoptera": self.hymenoptera}
        self.models = {
            f"{base}-{rows}": (get, [*options, *(["--rotate"] if rows == "galaxies" else [])])
            for base, options in bases.items()
            for rows, get in sets.items()
        }
        self.small = {
            f"{base}-{SMALL}": (self.hymenoptera, [*options, "--image-size", str(SMALL)])
            for base, options in bases.items()
        }

    def hymenoptera(self) -> tuple[Path, Path]:
        folder = self.data / "images/hymenoptera_256"
        return folder / "train", folder / "val"

    def galaxies(self) -> tuple[Path, Path]:
        """Every second image, in an order that is the same in every run."""
        parts = self.home / "galaxies/train", self.home / "galaxies/test"
        for number, path in enumerate(shuffled(self.data / "images/galaxy_spiral_212/train", 0)):
            place = parts[number % 2] / path.parent.name
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / path.name)
        return parts

    def float_model(self, name: str) -> Bundle:
        return self.store.resolve(name).bundle

    def int8_model(self, name: str) -> tuple[Bundle, float | None]:
        """The quantized child, with the seconds that it took if it was made now."""
        out = self.home / "int8" / name
        if out.exists():
            return Bundle.open(out), None
        parent, began = self.float_model(name), time.monotonic()
        assert parent.manifest.data is not None
        splits = self.store.load_splits(parent.manifest.data.fingerprint)
        step = registry.get("steps/shrink", "quantize_static")()
        made = step.apply(parent, Context(out=out, work=self.home / "work", splits=splits))
        return made, round(time.monotonic() - began, 1)


def adapt(work: Work) -> None:
    """One `budwood adapt` for each model that is not in the store."""
    for name, (rows, options) in {**work.models, **work.small}.items():
        if name not in work.store.names():
            train, test = rows()
            fixed = ["--method", "head", "--seed", "0", "--store", str(work.home / "store"), "--name", name]
            budwood("adapt", str(train), "--test", str(test), *fixed, *options)


def compare(work: Work) -> dict[str, Any]:
    """Accuracy on the test images before and after, with the paired interval of the drop; of each base on both sets."""
    found: dict[str, Any] = {}
    every: dict[str, list[list[float]]] = {}
    for name in work.models:
        parent = work.float_model(name)
        child, seconds = work.int8_model(name)
        assert parent.manifest.data is not None
        rows = work.store.load_splits(parent.manifest.data.fingerprint).test.rows
        scores = []
        for bundle in (parent, child):
            with closing(Predictor.open(bundle)) as predictor:
                scores.append(score(predictor, rows))
        report = child.manifest.report
        both = every.setdefault(name.partition("-")[0], [[], []])
        for kept, own in zip(both, scores, strict=True):
            kept.extend(own.per_row.tolist())
        found[name] = {
            **judged(scores[0].per_row.tolist(), scores[1].per_row.tolist()),
            "size_mb": [size(parent, "onnx"), size(child, "onnx-int8")],
            "quantize_seconds": seconds,
            **{key: report[key] for key in ("scheme", "reduce_range", "kept_float", "fell_back", "noise")},
        }
    return found | {f"{base}, both sets": judged(*both) for base, both in every.items()}


def judged(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """Accuracies, and the drop with its interval, of the same rows in the same order."""
    verdict = non_inferiority(before, after, MAX_DROP)
    facts = {key: getattr(verdict, key) for key in ("n", "drop", "drop_ci", "upper", "verdict", "flips")}
    return {"float": float(np.mean(before)), "int8": float(np.mean(after)), **facts}


def size(bundle: Bundle, format: str) -> float:
    return bundle.model_file(format).stat().st_size / 1e6


def eager(bundle: Bundle) -> Forward:
    """What the documents of transformers show."""
    import torch
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(str(bundle.path), local_files_only=True).eval()

    def forward(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(model(pixel_values=torch.from_numpy(pixels)).logits.numpy())

    return forward


def channels_last(bundle: Bundle) -> Forward:
    """The module that Budwood trains: channels last, and without gates that are always open."""
    import torch

    model = task_of(bundle).build(bundle.path).eval()

    def forward(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(model(pixel_values=torch.from_numpy(pixels))["logits"].numpy())

    return forward


def graph(bundle: Bundle, threads: int) -> Forward:
    runtime = registry.get("runtimes", "onnxruntime").open(bundle, threads)
    return lambda pixels: np.asarray(runtime.run({"pixel_values": pixels})["logits"])


def race(work: Work) -> dict[str, Any]:
    """Milliseconds a batch of 16, and how many times as fast as the peer; the peer runs twice, as a control."""
    import torch

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    found: dict[str, Any] = {"threads": threads, "batch": BATCH, "rounds": ROUNDS}
    for name in work.models:
        parent = work.float_model(name)
        peer = eager(parent)
        contestants = {
            PEER: peer,
            "control": peer,
            "torch channels last": channels_last(parent),
            "onnxruntime float": graph(parent, threads),
            "onnxruntime int8": graph(work.int8_model(name)[0], threads),
        }
        pixels = photos(work, parent, BATCH)
        times = take_turns(contestants, pixels)
        found[name] = {
            who: {
                "ms": round(1e3 * float(np.median(own)), 2),
                "images_per_s": round(BATCH / float(np.median(own)), 1),
                "ratio": ratio_of(times[PEER], own)[0],
                "ratio_ci": ratio_of(times[PEER], own)[1],
            }
            for who, own in times.items()
        }
    return found


def photos(work: Work, bundle: Bundle, count: int) -> np.ndarray:
    assert bundle.manifest.data is not None
    rows = work.store.load_splits(bundle.manifest.data.fingerprint).test.rows[:count]
    return np.asarray(task_of(bundle).encoder(bundle.path)(rows).inputs["pixel_values"])


def take_turns(contestants: Mapping[str, Forward], pixels: np.ndarray) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, in a new order each time; what a cache has to learn is not timed."""
    random = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name in random.permutation(list(contestants)).tolist():
            contestants[name](pixels)
            began = time.perf_counter()
            contestants[name](pixels)
            times[name].append(time.perf_counter() - began)
    return times


def rates(work: Work) -> dict[str, Any]:
    """Images a minute at 160 pixels: the network alone, and the whole command."""
    threads = len(os.sched_getaffinity(0))
    found: dict[str, Any] = {}
    for name in work.small:
        child, _ = work.int8_model(name)
        pixels = photos(work, work.float_model(name), BATCH)
        times = take_turns({"int8": graph(child, threads)}, pixels)["int8"]
        minute = sorted(60 * BATCH / np.asarray(times))
        found[name] = {"forward_per_minute": spread(minute)}
        published = f"{name}-int8"
        if published not in work.store.names():
            work.store.publish(published, child)
        for kind in FILES:
            folder = jpegs(work, kind)
            taken = [end_to_end(work, published, folder) for _ in range(3)]
            found[name][f"predict_{kind}_per_minute"] = spread(taken)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(float(np.median(values))), "least": round(min(values)), "most": round(max(values))}


def jpegs(work: Work, kind: str) -> Path:
    """A folder of photos of ants and bees, each mirrored and turned until there are enough."""
    edge, count = FILES[kind]
    folder = work.home / "photos" / kind
    if not folder.exists():
        folder.mkdir(parents=True)
        files = shuffled(work.data / "images/hymenoptera_256/train", 0)
        for number in range(count):
            with Image.open(files[number % len(files)]) as image:
                photo = image.convert("RGB")
            photo = photo.resize((edge, edge)) if edge else photo
            photo.rotate(number // len(files)).save(folder / f"{number:05}.jpg", quality=90)
    return folder


def end_to_end(work: Work, name: str, folder: Path) -> float:
    """Images a minute of one `budwood predict MODEL --file FOLDER`, from the start of the process to its end."""
    out = work.home / "answers.csv"
    out.unlink(missing_ok=True)
    began = time.monotonic()
    budwood("predict", name, "--file", str(folder), "-o", str(out), "--store", str(work.home / "store"))
    return 60 * len(list(folder.iterdir())) / (time.monotonic() - began)


STAGES = {"compare": compare, "race": race, "rates": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("stage", nargs="?", default="compare", choices=STAGES)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_intermixed_args()
    work = Work(given.data, given.work)
    adapt(work)
    for stage in list(STAGES)[list(STAGES).index(given.stage) :]:
        found = STAGES[stage](work)
        result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        result |= {"machine": describe(), "seed": 0, "max_drop": MAX_DROP, stage: found}
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({stage: found}, indent=1))


if __name__ == "__main__":
    main()
