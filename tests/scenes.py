"""Generated images with bright and dark squares in them, in every annotation format; and tiny detectors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 72
COLOURS = {"dark": (25, 20, 40), "light": (235, 230, 215)}
GROUND = 128

Objects = list[dict[str, Any]]


def scene(seed: int, labels: Sequence[str] = tuple(COLOURS)) -> tuple[Image.Image, Objects]:
    """A noisy grey image with one or two plain rectangles that do not overlap, and what they are."""
    random = np.random.default_rng(seed)
    pixels = GROUND + random.normal(0, 10, (HEIGHT, WIDTH, 3))
    objects: Objects = []
    for number in range(int(random.integers(1, 3))):
        label = labels[int(random.integers(len(labels)))]
        wide, high = (int(side) for side in random.integers(22, 36, 2))
        left = int(random.integers(0, WIDTH // 2 - wide)) + number * WIDTH // 2
        top = int(random.integers(0, HEIGHT - high))
        pixels[top : top + high, left : left + wide] = np.asarray(COLOURS[label]) + random.normal(0, 6, (high, wide, 3))
        objects.append({"label": label, "box": [float(v) for v in (left, top, left + wide, top + high)]})
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), objects


def scenes(count: int, first: int = 0, **more: Any) -> list[tuple[Image.Image, Objects]]:
    return [scene(first + number, **more) for number in range(count)]


def voc(path: Path, count: int = 6, splits: Mapping[str, int] | None = None, first: int = 0, **more: Any) -> Path:
    """Annotations/, JPEGImages/ and, where `splits` names counts, the official lists."""
    for name in ("Annotations", "JPEGImages"):
        (path / name).mkdir(parents=True)
    total = sum(splits.values()) if splits else count
    names = [f"{number:03}" for number in range(total)]
    for name, (image, objects) in zip(names, scenes(total, first, **more), strict=True):
        image.save(path / "JPEGImages" / f"{name}.jpg", quality=95)
        (path / "Annotations" / f"{name}.xml").write_text(xml(f"{name}.jpg", objects))
    if splits:
        (path / "ImageSets" / "Main").mkdir(parents=True)
        rest = iter(names)
        for split, amount in splits.items():
            lines = "".join(f"{next(rest)}\n" for _ in range(amount))
            (path / "ImageSets" / "Main" / f"{split}.txt").write_text(lines)
    return path


def xml(filename: str, objects: Sequence[Mapping[str, Any]], size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    parts = [
        f"<object><name>{item['label']}</name><bndbox>"
        + "".join(f"<{k}>{v:g}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), item["box"], strict=True))
        + "</bndbox></object>"
        for item in objects
    ]
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{stated}{''.join(parts)}</annotation>"


def coco(path: Path, count: int = 6, first: int = 0, **more: Any) -> Path:
    """annotations.json beside images/; category ids have gaps, as real ones do. Further keys go into the file."""
    (path / "images").mkdir(parents=True)
    ids = {label: 7 * number + 3 for number, label in enumerate(COLOURS)}
    images, annotations = [], []
    for number, (image, objects) in enumerate(scenes(count, first)):
        image.save(path / "images" / f"{number:03}.png")
        images.append({"id": 100 + number, "file_name": f"{number:03}.png", "width": WIDTH, "height": HEIGHT})
        for item in objects:
            x1, y1, x2, y2 = item["box"]
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": ids[item["label"]], "iscrowd": 0}
            annotations.append({"id": len(annotations), "image_id": 100 + number, **box})
    categories = [{"id": number, "name": label} for label, number in ids.items()]
    content = {"images": images, "annotations": annotations, "categories": categories, **more}
    (path / "annotations.json").write_text(json.dumps(content))
    return path


def yolo(path: Path, splits: Mapping[str, int] | None = None, first: int = 0) -> Path:
    """data.yaml, images/[split/] and labels/[split/]."""
    names = list(COLOURS)
    number = first
    for split, count in (splits or {"": 6}).items():
        for folder in ("images", "labels"):
            (path / folder / split).mkdir(parents=True)
        for image, objects in scenes(count, number):
            image.save(path / "images" / split / f"{number:03}.jpg", quality=95)
            lines = [
                f"{names.index(item['label'])} {(x1 + x2) / 2 / WIDTH:.6f} {(y1 + y2) / 2 / HEIGHT:.6f} "
                f"{(x2 - x1) / WIDTH:.6f} {(y2 - y1) / HEIGHT:.6f}\n"
                for item in objects
                for x1, y1, x2, y2 in [item["box"]]
            ]
            (path / "labels" / split / f"{number:03}.txt").write_text("".join(lines))
            number += 1
    (path / "data.yaml").write_text("path: .\nnames:\n  0: dark\n  1: light\n")
    return path


def backbone(path: Path) -> Path:
    """A transformers directory of a tiny convolutional classifier with maps of strides 8, 16 and 32."""
    import pictures

    from budwood.engine.transformers_import import quiet_transformers

    transformers = quiet_transformers()
    import torch

    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    network = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=3))
    network.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(pictures.PROCESSOR))
    return path


def detector(path: Path, kind: str) -> Path:
    """A transformers directory of a tiny detector with random weights, `d_fine` or `rt_detr_v2`, for squares of 96."""
    from budwood.engine.transformers_import import quiet_transformers

    transformers = quiet_transformers()
    import torch

    small: dict[str, Any] = {
        "d_model": 32,
        "encoder_hidden_dim": 32,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "num_queries": 30,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "decoder_layers": 2,
        "num_denoising": 10,
        "decoder_in_channels": [32, 32, 32],
        "feat_strides": [8, 16, 32],
        "num_labels": 5,
    }
    torch.manual_seed(0)
    if kind == "d_fine":
        body = transformers.HGNetV2Config(
            stage_in_channels=[16, 16, 32, 64],
            stage_mid_channels=[16, 16, 32, 32],
            stage_out_channels=[16, 32, 64, 64],
            stage_num_blocks=[1] * 4,
            stage_numb_of_layers=[1] * 4,
            stem_channels=[3, 8, 16],
            hidden_sizes=[16, 32, 64, 64],
            embedding_size=16,
            out_features=["stage2", "stage3", "stage4"],
        )
        more = {"encoder_in_channels": [32, 64, 64], "decoder_n_points": [2] * 3, "hidden_expansion": 0.5}
        network = transformers.DFineForObjectDetection(transformers.DFineConfig(backbone_config=body, **small, **more))
    else:
        sizes = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 32], "depths": [1] * 4, "layer_type": "basic"}
        body = transformers.RTDetrResNetConfig(**sizes, out_features=["stage2", "stage3", "stage4"])
        more = {"encoder_in_channels": [24, 32, 32], "decoder_n_points": 2}
        config = transformers.RTDetrV2Config(backbone_config=body, **small, **more)
        network = transformers.RTDetrV2ForObjectDetection(config)
    for module in network.modules():  # as after training: what is seen reaches the queries
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
        elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
    network.save_pretrained(path)
    processor = {"image_processor_type": "RTDetrImageProcessor", "size": {"height": 96, "width": 96}, "resample": 2}
    processor |= {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path
