"""The torch side of an image classifier: any transformers model for it, with its last linear layer taken out as `head`.

On disk it stays an ordinary transformers directory whose own classifier is that head. Import only inside functions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from budwood.core.errors import BundleError
from budwood.engine.channel_cuts import write_cuts
from budwood.engine.threads import keep_memory
from budwood.engine.transformers_import import load_pretrained

__all__ = ["ImageClassifier", "keep_still", "load_classifier", "load_network", "save_classifier"]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
OPEN = 17.0
"""From here on a sigmoid is 1.0 in float32."""


class ImageClassifier(nn.Module):
    """A network and a linear head. Input: float32 of shape (batch, 3, height, width).

    Gives `logits` (batch, labels) and `embedding` (batch, width), what the head reads. BatchNorm statistics stay still
    in training: small batches would blur what millions of images have set.
    """

    inputs = ("pixel_values",)

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.place = last_linear(network)
        self.head: nn.Linear = network.get_submodule(self.place)
        self.encoder = network
        self.encoder.set_submodule(self.place, nn.Identity())
        self.idle = take_out_idle_gates(self.encoder)
        plain_pooling(self.encoder)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        if not torch.onnx.is_in_onnx_export():
            # Convolutions keep this order of the channels; on CPUs they train in two thirds of the time with it.
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        embedding: Tensor = self.encoder(pixel_values=pixel_values).logits
        return {"logits": self.head(embedding), "embedding": embedding}

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        keep_still(self)
        return self


def keep_still(network: nn.Module, *others: type[nn.Module]) -> None:
    """Put BatchNorm, and modules of the `others`, into evaluation mode: their statistics and noise stay as they are."""
    for module in network.modules():
        if isinstance(module, (*NORMS, *others)):
            module.eval()


def last_linear(network: Any) -> str:
    """The name of the one linear layer that gives the logits.

    Raises:
        BundleError: the network ends in another way, or in two such layers.
    """
    wanted, body = int(network.config.num_labels), f"{network.base_model_prefix}."
    found = [
        str(name)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == wanted and not name.startswith(body)
    ]
    if len(found) != 1:
        raise BundleError(
            f"{type(network).__name__} does not end in one linear layer",
            where="config.json",
            fix="pass another base, such as EfficientNet, ResNet, ConvNeXt or ViT",
        )
    return found[0]


def take_out_idle_gates(network: nn.Module) -> dict[str, nn.Module]:
    """Replace squeeze-and-excite gates that are always open by nothing, and return them by name for saving.

    EfficientNet-Lite has no such gates, and transformers' EfficientNet has one in each block. A gate whose last weights
    are zero and whose bias is large multiplies by exactly 1, and no gradient reaches it.
    """
    idle = {name: module for name, module in network.named_modules() if is_idle(module)}
    for name in idle:
        network.set_submodule(name, nn.Identity())
    return idle


def plain_pooling(network: Any) -> None:
    """EfficientNet's mean over an image, as other networks write it: theirs is a window of 1,280 pixels, cut at the
    edges, and what a cut window divides by differs between runtimes."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.AvgPool2d) and module.kernel_size == getattr(network.config, "hidden_dim", 0):
            network.set_submodule(name, nn.AdaptiveAvgPool2d(1))


def is_idle(module: nn.Module) -> bool:
    if type(module).__name__ != "EfficientNetSqueezeExciteLayer":
        return False
    gate: Any = module.get_submodule("expand")
    return not bool(gate.weight.detach().any()) and bool((gate.bias.detach() >= OPEN).all())


def load_network(folder: Path, attention: str | None = None) -> Any:
    """The transformers model of a folder in float32, in evaluation mode. No code of the folder runs.

    Raises:
        BundleError: the folder holds no model for image classification, or transformers cannot load it.
    """
    try:
        return load_pretrained("AutoModelForImageClassification", folder, attention)
    except BundleError:
        raise
    except Exception as error:  # each model's code in transformers raises its own kinds
        raise BundleError(
            f"transformers cannot load the image classifier: {str(error).splitlines()[0]}",
            where=str(folder),
            fix="pass a folder that AutoModelForImageClassification loads",
        ) from error


def load_classifier(folder: Path, labels: Sequence[str], attention: str | None = None) -> ImageClassifier:
    """The classifier of a folder. Its head is kept when it was made for the same labels; else every label is equal."""
    keep_memory()
    network = load_network(folder, attention)
    known = [name for _, name in sorted(network.config.id2label.items())]
    model = ImageClassifier(network)
    if known != list(labels):
        model.head = nn.Linear(model.head.in_features, len(labels))
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
    return model.eval()


def save_classifier(model: ImageClassifier, folder: Path, labels: Sequence[str]) -> None:
    """Write an ordinary transformers directory: the head is the network's own classifier, with its labels' names.

    Where channels were cut, their list goes beside it, and only Budwood loads the folder.
    """
    network = model.encoder
    network.config.id2label = dict(enumerate(labels))
    network.config.label2id = {name: number for number, name in enumerate(labels)}
    removed = {**model.idle, model.place: model.head}
    for name, module in removed.items():
        network.set_submodule(name, module)
    try:
        network.save_pretrained(str(folder))
        write_cuts(network, folder)
    finally:
        for name in removed:
            network.set_submodule(name, nn.Identity())
