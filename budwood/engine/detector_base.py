"""Folders of detectors: a convolutional backbone with our head beside it, or a detector of transformers.

`detector.json` says which, how images are laid into the square, and for which labels the head was made. The backbone
is an ordinary transformers directory in both cases. Import only inside functions.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from budwood.core.cut_list import CUTS
from budwood.core.errors import BundleError
from budwood.engine import hub_detector, pixels
from budwood.engine.box_frame import FILE, Frame
from budwood.engine.channel_cuts import write_cuts
from budwood.engine.detector_network import Detector
from budwood.engine.threads import keep_memory
from budwood.engine.transformers_import import load_pretrained

__all__ = ["HEAD", "load_detector", "save_detector", "take_base"]

HEAD = "detector.safetensors"
"""Weights of our head, beside the backbone's `model.safetensors`."""
BASE_SIZE = 320
OWN, HUB = "budwood", "transformers"
SEED = 20


def take_base(folder: Path, stage: Path) -> None:
    """Write the pretrained model of a folder, or of a bundle, to `stage`.

    Raises:
        BundleError: it is neither an image classifier with maps of strides 8, 16 and 32 nor a detector.
    """
    stage.mkdir(parents=True, exist_ok=True)
    if (folder / FILE).exists():
        for name in ("config.json", "model.safetensors", CUTS, pixels.FILE, FILE, HEAD):
            if (folder / name).exists():
                shutil.copyfile(folder / name, stage / name)
    elif hub_detector.is_detector(folder):
        frame = hub_detector.take_base(folder, stage)
        describe(stage, HUB, frame, ())
    else:
        take_backbone(folder, stage)
    keep_memory()
    load_detector(stage, (), Frame.read(stage).size)


def take_backbone(folder: Path, stage: Path) -> None:
    """The body of an image classifier; how it sees pixels is stated in numbers."""
    from budwood.engine.image_base import write_base

    with tempfile.TemporaryDirectory() as name:
        write_base(folder, Path(name))
        network = load_backbone(Path(name))
        network.save_pretrained(str(stage))
        write_cuts(network, stage)
        shutil.copyfile(Path(name) / pixels.FILE, stage / pixels.FILE)
    found = pixels.Preprocessing.read(stage)
    if found.bgr:
        raise BundleError("the base reads blue before red", where=str(folder), fix="pass another base")
    factor, summand = (tuple(float(value) for value in part) for part in found.affine)
    describe(stage, OWN, Frame(BASE_SIZE, True, factor, summand), ())


def load_backbone(folder: Path) -> Any:
    try:
        return load_pretrained("AutoModel", folder)
    except BundleError:
        raise
    except Exception as error:  # each model's code in transformers raises its own kinds
        raise BundleError(
            f"transformers cannot load the backbone: {str(error).splitlines()[0]}",
            where=str(folder),
            fix="pass a folder that AutoModel loads",
        ) from error


def describe(folder: Path, kind: str, frame: Frame, labels: Sequence[str]) -> None:
    content = {"kind": kind, "frame": frame.to_json(), "labels": list(labels)}
    (folder / FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_detector(folder: Path, labels: Sequence[str], size: int) -> Any:
    """The detector of a folder for these labels. What was made for others is kept but for its last layer of classes.

    Raises:
        BundleError: the folder cannot be loaded.
    """
    keep_memory()
    try:
        stated = json.loads((folder / FILE).read_text(encoding="utf-8"))
        kind, known = stated["kind"], stated["labels"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{FILE} cannot be used: {error}", where=str(folder), fix="make the model again") from error
    if kind == HUB:
        return hub_detector.load(folder, labels or known, size)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)  # the first weights of the head, the same for all
        model = Detector(load_backbone(folder), max(1, len(labels or known)), size)
    if (folder / HEAD).exists():
        tensors = load_file(folder / HEAD)
        if list(labels or known) != known:
            tensors = {name: item for name, item in tensors.items() if not name.startswith("score.")}
        missing, unknown = model.head.load_state_dict(tensors, strict=False)
        if unknown or any(not name.startswith("score.") for name in missing):
            raise BundleError(f"{HEAD} does not fit the backbone", where=str(folder), fix="make the model again")
    return model.eval()


def save_detector(model: Any, folder: Path, labels: Sequence[str], frame: Frame) -> None:
    """Write the model, so that `load_detector` loads it again, and transformers loads its part."""
    if isinstance(model, hub_detector.HubDetector):
        hub_detector.save(model, folder, labels, frame)
        describe(folder, HUB, frame, labels)
        return
    for name, module in model.idle.items():
        model.encoder.set_submodule(name, module)
    try:
        model.encoder.save_pretrained(str(folder))
        write_cuts(model.encoder, folder)
    finally:
        for name in model.idle:
            model.encoder.set_submodule(name, torch.nn.Identity())
    save_file({name: item.contiguous() for name, item in model.head.state_dict().items()}, folder / HEAD)
    describe(folder, OWN, replace(frame, size=model.size), labels)
