"""Detectors of transformers (D-FINE, RT-DETRv2, RT-DETR, YOLOS, …) behind the same three methods as our own.

Import only inside functions.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from budwood.core.errors import BundleError
from budwood.engine.box_frame import Frame
from budwood.engine.detector_loss import Targets
from budwood.engine.detector_recipe import hub_recipe
from budwood.engine.image_model import keep_still
from budwood.engine.pixels import FILE, MAX_EDGE
from budwood.engine.transformers_import import quiet_transformers

__all__ = ["HubDetector", "is_detector", "load", "save", "take_base"]

SQUARE = "RTDetr"
"""How the image processors are called that stretch images to a square of 640 and do not normalise them."""
SIZE = 640
SHORT_SIDE = 800
"""Of all others, where they do not say."""
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
NEW_DEVIATION = 0.02
CLASS_LAYERS = ("class_embed", "enc_score_head", "denoising_class_embed", "class_labels_classifier")
"""What the layers are called, in all of these families, that know the classes."""


class HubDetector(nn.Module):
    """Input and outputs as of `Detector`; places are the network's queries. BatchNorm statistics stay still."""

    inputs = ("pixel_values",)
    outputs = ("logits", "boxes", "embedding")
    pretrained_boxes = True
    fusible = False
    recipe = staticmethod(hub_recipe)

    def __init__(self, network: Any, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size
        names = [name for name, _ in self.named_parameters()]
        self.body_names = tuple(name for name in names if not any(part in name for part in CLASS_LAYERS))
        body = [name for name in names if "backbone" in name or ".vit." in name]
        self.head_names = tuple(name for name in names if name not in set(body))
        self.first_names: tuple[str, ...] = ()

    @property
    def encoder(self) -> Any:
        return self.network

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        found = self.network(pixel_values=pixel_values)
        logits, centre, side = found.logits, found.pred_boxes[..., :2], found.pred_boxes[..., 2:]
        if logits.shape[-1] == self.network.config.num_labels + 1:  # with a class for nothing, and a softmax
            share = logits.softmax(-1)[..., :-1].clamp(1e-7, 1 - 1e-7)
            logits = (share / (1 - share)).log()
        boxes = torch.cat([centre - side / 2, centre + side / 2], dim=-1) * self.size
        return {"logits": logits, "boxes": boxes, "embedding": found.last_hidden_state.mean(1)}

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        """The images themselves: there is no part before the classes whose result could be kept."""
        return [pixel_values]

    def learn(self, pixel_values: Tensor, targets: Sequence[Targets]) -> Tensor:
        """The network's own loss, a scalar. Crowds are left out."""
        labels = []
        for target in targets:
            low, high = target.boxes[:, :2], target.boxes[:, 2:]
            boxes = torch.cat([(low + high) / 2, high - low], dim=1) / self.size
            labels.append({"class_labels": target.labels, "boxes": boxes.clamp(0, 1)})
        found: Tensor = self.network(pixel_values=pixel_values, labels=labels).loss
        return found

    def learn_from(self, features: Sequence[Tensor], targets: Sequence[Targets]) -> Tensor:
        return self.learn(features[0], targets)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        keep_still(self)
        return self


def is_detector(folder: Path) -> bool:
    """Whether the folder's configuration is that of a detector."""
    try:
        kinds = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return False
    return any(str(kind).endswith("ForObjectDetection") for kind in kinds)


def load(folder: Path, labels: Sequence[str], size: int) -> HubDetector:
    """The detector of a folder; the layers that know the classes are made anew where the labels are others.

    Raises:
        BundleError: transformers cannot load it.
    """
    transformers = quiet_transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        known = [name for _, name in sorted(config.id2label.items())]
        if labels and known != list(labels):
            config.id2label = dict(enumerate(labels))
            config.label2id = {name: number for number, name in enumerate(labels)}
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the new layers, the same for all
            network = transformers.AutoModelForObjectDetection.from_pretrained(
                str(folder),
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
            )
            if known != list(labels or known):
                unequal_scores(network)
    except Exception as error:  # each model's code in transformers raises its own kinds
        raise BundleError(
            f"transformers cannot load the detector: {str(error).splitlines()[0]}",
            where=str(folder),
            fix="pass a folder that AutoModelForObjectDetection loads",
        ) from error
    return HubDetector(network, size).eval()


def unequal_scores(network: nn.Module) -> None:
    """Let new class layers tell places apart from the start.

    transformers starts some with zeros: then all places score alike, and which are taken is left to chance.
    """
    for name, item in network.named_parameters():
        if any(part in name for part in CLASS_LAYERS) and item.ndim > 1:
            nn.init.normal_(item, std=NEW_DEVIATION)


def take_base(folder: Path, stage: Path) -> Frame:
    """Write the detector to `stage`, and give how it sees images."""
    frame = frame_of(folder)
    model = load(folder, (), frame.size)
    save(model, stage, [name for _, name in sorted(model.network.config.id2label.items())], frame)
    return frame


def frame_of(folder: Path) -> Frame:
    """The square of the folder's image processor; with bars where that keeps the proportions of images.

    What the file leaves open is what its class in transformers takes.

    Raises:
        BundleError: it says something that is not understood.
    """
    path = folder / FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        frame = understood(config)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise BundleError(f"{FILE} cannot be used: {error}", where=str(path), fix="take another base") from error
    if frame is None:
        raise BundleError(
            "the detector does not read squares in three colours", where=str(path), fix="take another base"
        )
    return frame


def understood(config: dict[str, Any]) -> Frame | None:
    """The square that an image processor's settings mean; None where they mean none."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or SQUARE)
    stretches = kind.startswith(SQUARE)
    size = config.get("size") or ({"height": SIZE, "width": SIZE} if stretches else {"shortest_edge": SHORT_SIDE})
    size = size if isinstance(size, dict) else {"shortest_edge": size}
    letterbox = "height" not in size
    edge = int(size["shortest_edge"] if letterbox else size["height"])
    edge = 32 * round(edge / 32) if letterbox else edge
    scale = float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 1.0
    normal = config.get("do_normalize")
    normal = not stretches if normal is None else bool(normal)
    mean = [float(value) for value in config.get("image_mean") or IMAGENET[0]] if normal else [0.0] * 3
    std = [float(value) for value in config.get("image_std") or IMAGENET[1]] if normal else [1.0] * 3
    if size.get("width", edge) != edge or not 32 <= edge <= MAX_EDGE or len(mean) != 3 or len(std) != 3:
        return None
    factor = tuple(scale / value for value in std)
    summand = tuple(-m / s for m, s in zip(mean, std, strict=True))
    resample = config.get("resample")
    return Frame(edge, letterbox, factor, summand, 2 if resample is None else int(resample))


def save(model: HubDetector, folder: Path, labels: Sequence[str], frame: Frame) -> None:
    """An ordinary transformers directory with its image processor."""
    config = model.network.config
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: number for number, name in enumerate(labels)}
    model.network.save_pretrained(str(folder))
    normal = {"image_mean": [-s / f / 255 for f, s in zip(frame.factor, frame.summand, strict=True)]}
    normal["image_std"] = [1 / (255 * factor) for factor in frame.factor]
    side = {"height": frame.size, "width": frame.size}
    size = {"shortest_edge": frame.size, "longest_edge": frame.size} if frame.letterbox else side
    processor = {
        "image_processor_type": f"{'Detr' if frame.letterbox else SQUARE}ImageProcessor",
        "do_resize": True,
        "size": size,
        "resample": frame.resample,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": normal != {"image_mean": [0.0] * 3, "image_std": [1.0] * 3},
        "do_pad": frame.letterbox,
        **({"pad_size": side} if frame.letterbox else {}),
        **normal,
    }
    (folder / FILE).write_text(json.dumps(processor, indent=2, sort_keys=True) + "\n", encoding="utf-8")
