"""Claim: ResNet-56 keeps its accuracy on CIFAR-10 without 90 % of its weights, and with half of its multiplications.

    python benchmarks/resnet56.py STAGE DATA_FOLDER --work FOLDER

The network is written in `cifar_resnet.py`, and the techniques are called on the module. Stages: `parent` fine-tunes
the checkpoint on the photos as JPEG; `teach-even` and `teach-odd` ask it about them; `control` trains it on, dense, as
long and with the same distillation as all others; `sparse90`, `sparse80` and `narrow` are pruned; `compare` measures
all on the test photos and races them in two runtimes. Each stage goes on where it was.
DATA_FOLDER has `images/cifar10_jpeg` and `weights/resnet56_cifar10.safetensors`.
Result: benchmarks/results/resnet56.json
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar_resnet import ResNet, Schedule, answer, normalise, read_photos, tune, view
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from budwood.core import registry
from budwood.core.packed import expand
from budwood.engine.machine import describe
from budwood.engine.statistics import interval, non_inferiority

RESULT = Path(__file__).parent / "results" / "resnet56.json"
PARENT = Schedule(epochs=8, rate=0.05)
CHILD = Schedule(epochs=6, rate=0.05, seed=1, views=4)
PRUNED_BY = 0.45
"""Share of the schedule after which no further weight becomes zero."""
BITS = 8
CALIBRATION = 300
BATCH, ROUNDS, REPEATS = 64, 20, 2
BARS = {"sparse90": 0.010, "sparse80": 0.003, "narrow": 0.015}
"""How far the accuracy may lie below the dense control's."""


class Workshop:
    """What the stages share: the photos, and models by their names in the work folder."""

    def __init__(self, data: Path, work: Path, child: Schedule = CHILD) -> None:
        self.data, self.work, self.child = data, work, child
        work.mkdir(parents=True, exist_ok=True)
        self.photos = read_photos(data / "images" / "cifar10_jpeg" / "cifar10_jpeg_25k.tar.xz", work)

    def load(self, name: str) -> nn.Module:
        from budwood.engine.channel_cuts import apply_cuts

        model = ResNet()
        if name == "narrow":
            apply_cuts(model, self.facts("narrow")["cuts"])
        model.load_state_dict(load_file(self.work / f"{name}.safetensors"))
        return model.eval()

    def facts(self, name: str) -> dict[str, Any]:
        path = self.work / f"{name}.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def note(self, name: str, **facts: Any) -> None:
        (self.work / f"{name}.json").write_text(json.dumps(self.facts(name) | facts))

    def train(self, name: str, model: nn.Module, schedule: Schedule, **changes: Any) -> None:
        seconds = tune(model, self.photos["train"], schedule, state=self.work / f"{name}.state", **changes)
        self.note(name, seconds=seconds, schedule=vars(schedule))

    def save(self, name: str, model: nn.Module) -> None:
        save_file(
            {key: item.contiguous() for key, item in model.state_dict().items()}, self.work / f"{name}.safetensors"
        )

    def taught(self, number: int, seen: Tensor) -> Tensor:
        """The parent's logits for the training photos in one of the views, asked once."""
        path = self.work / f"taught-{number}.safetensors"
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}.part")
            save_file({"logits": answer(self.load("parent"), seen, reduced=True)}, part)
            part.replace(path)
        return load_file(path)["logits"]


def parent(shop: Workshop) -> None:
    model = ResNet()
    model.load_state_dict(load_file(shop.data / "weights" / "resnet56_cifar10.safetensors"))
    shop.train("parent", model, PARENT)
    shop.save("parent", model)


def teach(shop: Workshop, first: int) -> None:
    """Every second view, so that two processes share them."""
    for number in range(first, shop.child.views, 2):
        shop.taught(number, view(shop.photos["train"].images, shop.child.seed, number))


def control(shop: Workshop) -> None:
    model = shop.load("parent")
    shop.train("control", model, shop.child, teach=shop.taught)
    shop.save("control", model)


def sparse(shop: Workshop, name: str, sparsity: float) -> None:
    from budwood.engine.weight_pruning import GradualPruning, prunable, sparsity_report

    model = shop.load("parent")
    modules = prunable(model)
    hook = GradualPruning(modules, sparsity, end=PRUNED_BY)
    shop.train(name, model, shop.child, teach=shop.taught, after_step=hook)
    hook.release()
    shop.note(name, pruned=sparsity_report(model, modules))
    shop.save(name, model)


def narrow(shop: Workshop) -> None:
    from budwood.engine.channel_cuts import apply_cuts
    from budwood.engine.channel_pruning import cut_channels

    if "cuts" not in shop.facts("narrow"):
        model = shop.load("parent")
        cutting = cut_channels(
            model, torch.zeros(1, 3, 32, 32), macs=0.5, gradients=lambda model: gradients(shop, model)
        )
        shop.note("narrow", cuts=cutting.cuts, macs=[cutting.macs_before, cutting.macs_after])
    model = shop.load("parent")
    apply_cuts(model, shop.facts("narrow")["cuts"])
    shop.train("narrow", model, shop.child, teach=shop.taught)
    shop.save("narrow", model)


def gradients(shop: Workshop, model: nn.Module) -> None:
    photos = shop.photos["train"]
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(photos.labels))[:1024])
    model.zero_grad(set_to_none=True)
    for part in rows.split(128):
        logits = model(normalise(photos.images[part]))
        nn.functional.cross_entropy(logits, photos.labels[part]).backward()  # type: ignore[no-untyped-call]


def compare(shop: Workshop) -> None:
    names = ("parent", "control", *BARS)
    graphs = {name: exported(shop, name) for name in names}
    packed = {name: packing(graphs[name], BITS) for name in ("parent", "sparse90", "sparse80")}
    graphs |= {f"{name} packed": item.pop("graph") for name, item in packed.items()}
    for name in ("parent", "narrow"):
        graphs |= {f"{name} int8 {kind}": graph for kind, graph in quantized(shop, graphs[name]).items()}
    correct = {name: right(shop, graph) for name, graph in graphs.items()}
    judged = {name: judge(correct, name, BARS[name.split()[0]]) for name in graphs if name.split()[0] in BARS}
    result = {
        "machine": describe(),
        "n_test": len(shop.photos["test"].labels),
        "training": {
            name: {k: v for k, v in shop.facts(name).items() if k not in ("cuts", "pruned")} for name in names
        },
        "accuracy": {name: {"value": float(item.mean()), "ci": interval(item)} for name, item in correct.items()},
        "against_control": judged,
        "zeros": {name: shop.facts(name)["pruned"] for name in ("sparse90", "sparse80")},
        "size": {"onnx_bytes": {name: len(graph) for name, graph in graphs.items()}, "packed": packed},
        "speed": race(graphs),
    }
    RESULT.write_text(json.dumps(result | {"bars": bars(result)}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"accuracy": result["accuracy"], "bars": bars(result)}, indent=1))


def exported(shop: Workshop, name: str) -> bytes:
    from budwood.engine.onnx_graph import write_graph

    path = shop.work / f"{name}.onnx"
    axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
    write_graph(shop.load(name), {"images": torch.zeros(1, 3, 32, 32)}, ["logits"], axes, path)
    return path.read_bytes()


def packing(graph: bytes, bits: int) -> dict[str, Any]:
    from budwood.engine.packed import find_tensors, pack

    found = pack(graph, find_tensors(graph), bits)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        expanded = expand(found.content)
        seconds.append(time.perf_counter() - began)
    return {"graph": expanded, "bits": bits, "load_seconds": float(np.median(seconds)), **found.report}


def quantized(shop: Workshop, graph: bytes) -> dict[str, bytes]:
    """Static int8 by ONNX Runtime and by NNCF, from training photos."""
    import nncf
    import onnx

    from budwood.engine import quantized_graph as graphs

    rows = np.random.default_rng(0).permutation(len(shop.photos["train"].labels))[:CALIBRATION]
    images = normalise(shop.photos["train"].images[rows]).contiguous().numpy()
    feeds = [{"images": images[start : start + 10]} for start in range(0, CALIBRATION, 10)]
    model = graphs.prepared(onnx.load_from_string(graph), shop.work)
    ranges = graphs.calibrated(model, feeds, "minmax", 99.99, shop.work)
    other = nncf.quantize(onnx.load_from_string(graph), nncf.Dataset(feeds), subset_size=len(feeds))
    return {
        "static": graphs.static_graph(model, ranges, graphs.final_layers(model)),
        "nncf": other.SerializeToString(),
    }


def right(shop: Workshop, graph: bytes) -> NDArray[np.float64]:
    """1 where the test photo's class is found, else 0."""
    runtime = registry.get("runtimes", "onnxruntime")(graph)
    photos = shop.photos["test"]
    parts = [
        runtime.run({"images": normalise(part).contiguous().numpy()})["logits"] for part in photos.images.split(100)
    ]
    runtime.close()
    return (np.concatenate(parts).argmax(1) == photos.labels.numpy()).astype(np.float64)


def judge(correct: dict[str, NDArray[np.float64]], name: str, bar: float) -> dict[str, Any]:
    against = {other: non_inferiority(correct[other], correct[name], bar) for other in ("control", "parent")}
    keys = ("verdict", "drop", "drop_ci", "upper", "p", "flips")
    return {other: {key: getattr(found, key) for key in keys} for other, found in against.items()} | {"max_drop": bar}


def race(graphs: dict[str, bytes]) -> dict[str, Any]:
    """Photos a second in batches, all taking turns; ratios to the parent in its better runtime, round by round."""
    wanted = {
        name: graph for name, graph in graphs.items() if name in ("parent", "narrow", "sparse90") or "int8" in name
    }
    runners: dict[str, Any] = {}
    for name, graph in (*wanted.items(), ("parent again", graphs["parent"])):
        for kind in ("onnxruntime", "openvino"):
            runners[f"{name}, {kind}"] = registry.get("runtimes", kind)(graph, 0)
    images = {"images": np.random.default_rng(0).normal(size=(BATCH, 3, 32, 32)).astype(np.float32)}
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(ROUNDS + 1):
        for name, runner in runners.items():
            began = time.perf_counter()
            for _ in range(REPEATS):
                runner.run(images)
            if turn:
                speeds[name].append(BATCH * REPEATS / (time.perf_counter() - began))
    peer = max((f"parent, {kind}" for kind in ("onnxruntime", "openvino")), key=lambda name: np.median(speeds[name]))
    return {
        "batch": BATCH,
        "rounds": ROUNDS,
        "peer": peer,
        "models": {name: spread(speeds[name], speeds[peer]) for name in speeds},
    }


def spread(own: Sequence[float], peer: Sequence[float]) -> dict[str, Any]:
    ratios = np.asarray(own) / np.asarray(peer)
    low, middle, high = np.percentile(ratios, [10, 50, 90])
    return {"photos_per_s": float(np.median(own)), "ratio": float(middle), "ratio_10_90": [float(low), float(high)]}


def bars(result: dict[str, Any]) -> dict[str, Any]:
    """Each bar with what was found."""
    speeds = {name: item["ratio"] for name, item in result["speed"]["models"].items()}
    best = {
        "narrow": max(value for name, value in speeds.items() if name.startswith("narrow,")),
        "narrow int8": max(value for name, value in speeds.items() if name.startswith("narrow int8")),
    }
    drops = {name: result["against_control"][name]["control"]["drop"] for name in BARS}
    found = {
        f"{name}: drop <= {100 * bar:.1f} points": {"found": drops[name], "met": bool(drops[name] <= bar)}
        for name, bar in BARS.items()
    }
    least = {
        "sparse90 packed: file >= 8 x smaller": (result["size"]["packed"]["sparse90"]["ratio"], 8.0),
        "narrow: >= 1.5 x the photos a second": (best["narrow"], 1.5),
        "narrow int8: >= 3.5 x the photos a second": (best["narrow int8"], 3.5),
    }
    return found | {name: {"found": value, "met": bool(value >= bar)} for name, (value, bar) in least.items()}


STAGES: dict[str, Callable[[Workshop], None]] = {
    "parent": parent,
    "teach-even": lambda shop: teach(shop, 0),
    "teach-odd": lambda shop: teach(shop, 1),
    "control": control,
    "sparse90": lambda shop: sparse(shop, "sparse90", 0.9),
    "sparse80": lambda shop: sparse(shop, "sparse80", 0.8),
    "narrow": narrow,
    "compare": compare,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1, help="of training; two runs of one thread beat one of two")
    parser.add_argument("--epochs", type=int, default=CHILD.epochs, help="of the control and of what is pruned")
    parser.add_argument("--views", type=int, default=CHILD.views, help="ways in which they see the photos")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    child = replace(CHILD, epochs=options.epochs, views=options.views)
    STAGES[options.stage](Workshop(options.data, options.work, child))


if __name__ == "__main__":
    main()
