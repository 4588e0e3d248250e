"""Generated images, and tiny transformers models that classify them; nothing is downloaded."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"dark": (40, 30, 50), "green": (60, 160, 70), "light": (220, 215, 230)}
SIZE = 32

PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 36},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIZE, "width": SIZE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "do_convert_rgb": True,
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mobilenet_v2": ("MobileNetV2", {"image_size": SIZE, "depth_multiplier": 0.35}),
    "efficientnet": (
        "EfficientNet",
        {"image_size": SIZE, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
    ),
    "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
    "convnext": ("ConvNext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
    "vit": (
        "ViT",
        {
            "image_size": SIZE,
            "patch_size": 8,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
    ),
    "bit": ("Bit", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_groups": 4}),
}
"""Tiny networks: the prefix of their transformers classes, and their sizes."""


def noise(height: int = 48, width: int = 60, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """An image of random pixels in any mode that numpy knows."""
    random = np.random.default_rng(seed)
    depth = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    return Image.fromarray(
        random.integers(0, 256, (height, width, *depth), np.uint8), mode=None if mode != "CMYK" else mode
    )


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def scene(label: str, seed: int) -> Image.Image:
    """A noisy patch of the label's colour."""
    random = np.random.default_rng(seed)
    pixels = np.asarray(COLOURS[label]) + random.normal(0, 25, (40, 44, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def greys(path: Path, rows: int = 60, seed: int = 0) -> Path:
    """A folder of grey patches, and `table.csv`, whose column `bright` says how bright each is, from 0 to 100."""
    random = np.random.default_rng(seed)
    path.mkdir()
    lines = ["image,bright"]
    for number in range(rows):
        bright = random.uniform(0, 100)
        pixels = 30 + 1.8 * bright + random.normal(0, 20, (40, 44, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path / f"{number}.png")
        lines.append(f"{number}.png,{bright:.2f}")
    (path / "table.csv").write_text("\n".join(lines) + "\n")
    return path


def folder(path: Path, each: int = 8, splits: Mapping[str, int] | None = None) -> Path:
    """Class folders of generated JPEG files, directly or in folders named by `splits` with so many files each."""
    for split, count in (splits or {"": each}).items():
        for number, label in enumerate(COLOURS):
            place = path / split / label
            place.mkdir(parents=True)
            for index in range(count):
                seed = 1000 * number + 10 * index + len(split)
                scene(label, seed).save(place / f"{label}-{index}.jpg", quality=92)
    return path


def base(path: Path, kind: str = "mobilenet_v2", labels: int = 5, processor: Mapping[str, Any] = PROCESSOR) -> Path:
    """A transformers directory of a tiny image classifier with random weights."""
    from budwood.engine.transformers_import import quiet_transformers

    transformers = quiet_transformers()
    import torch

    torch.manual_seed(0)
    prefix, sizes = CONFIGS[kind]
    config = getattr(transformers, f"{prefix}Config")(**sizes, num_labels=labels)
    network = getattr(transformers, f"{prefix}ForImageClassification")(config)
    for module in network.modules():  # as after training, so that forgetting them would show
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    network.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path
