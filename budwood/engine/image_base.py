"""An image classifier as a base: checked, and written with its preprocessing spelled out. Import inside functions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from budwood.core.errors import BundleError
from budwood.engine.image_model import ImageClassifier, load_network, save_classifier
from budwood.engine.pixels import FILE, Decoder, Preprocessing
from budwood.engine.transformers_import import quiet_transformers

__all__ = ["write_base"]

SAMPLE_SIZES = ((180, 240), (260, 200))
"""Height and width of the generated images with which the preprocessing is compared."""
TOLERANCE = 1e-4


def write_base(folder: Path, stage: Path) -> None:
    """Write the image classifier of a transformers folder, or of a bundle, to `stage`.

    Raises:
        BundleError: it is not an image classifier that ends in a linear layer, or its preprocessing is not understood.
    """
    pixels = write_preprocessing(folder, stage)
    network = load_network(folder)
    labels = [name for _, name in sorted(network.config.id2label.items())]
    with torch.inference_mode():
        expected = network(pixel_values=torch.from_numpy(pixels)).logits
        model = ImageClassifier(network).eval()
        found = model(torch.from_numpy(pixels))["logits"]
    if expected.shape != found.shape or not torch.allclose(expected, found, atol=TOLERANCE, rtol=TOLERANCE):
        raise BundleError(
            f"the logits of {type(network).__name__} are more than its last linear layer gives",
            where=str(folder),
            fix="pass another base, such as EfficientNet, ResNet, ConvNeXt or ViT",
        )
    save_classifier(model, stage, labels)


def write_preprocessing(folder: Path, stage: Path) -> Any:
    """Write every number of the image processor, defaults included, and prove that serving computes the same.

    Gives pixel values of two images, float32 of shape (2, 3, height, width).
    """
    transformers = quiet_transformers()
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            str(folder), backend="pil", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # each processor in transformers raises its own kinds
        raise BundleError(
            f"transformers cannot load the image processor: {str(error).splitlines()[0]}",
            where=str(folder / FILE),
            fix="pass a base with a preprocessor_config.json",
        ) from error
    stage.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in processor.to_dict().items() if value is not None}
    (stage / FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)) for size in SAMPLE_SIZES]
    found = Decoder(Preprocessing.read(stage), threads=1)(images)
    expected = np.asarray(processor(images, return_tensors="np")["pixel_values"])
    if expected.shape != found.shape or not np.abs(expected - found).max() <= TOLERANCE:
        raise BundleError(
            f"the image processor {type(processor).__name__} does more than its configuration says",
            where=str(folder / FILE),
            fix="pass another base, such as EfficientNet, ResNet, ConvNeXt or ViT",
        )
    return found
