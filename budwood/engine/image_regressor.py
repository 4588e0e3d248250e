"""The torch side of an image regression: a classifier's network with a linear head, or one with a hidden layer.

With a hidden layer the folder stays a transformers directory: its own classifier gives the units of the hidden layer,
and `head.safetensors` holds what comes after them (ReLU, then linear). Import only inside functions.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from budwood.engine.image_model import ImageClassifier, load_classifier, save_classifier

__all__ = ["HEAD_FILE", "deepened", "load_regressor", "save_regressor"]

HEAD_FILE = "head.safetensors"


def load_regressor(folder: Path, names: Sequence[str], attention: str | None = None) -> ImageClassifier:
    """The regressor of a folder, with one output for each name. Outputs start at zero where it was made for others."""
    from safetensors.torch import load_file

    path = folder / HEAD_FILE
    if not path.exists():
        return load_classifier(folder, names, attention)
    tensors = load_file(path)
    weight, bias = tensors["weight"], tensors["bias"]
    model = load_classifier(folder, units(weight.shape[1]), attention)
    first = model.head
    last = nn.Linear(weight.shape[1], weight.shape[0])
    last.load_state_dict({"weight": weight, "bias": bias})
    if weight.shape[0] != len(names):
        return load_classifier(folder, names, attention)
    model.head = nn.Sequential(first, nn.ReLU(), nn.Dropout(0.0), last)  # type: ignore[assignment]
    return model.eval()


def deepened(model: ImageClassifier, hidden: int, dropout: float, seed: int = 0) -> ImageClassifier:
    """The same model with a hidden layer of ReLU units and dropout before its outputs, which compute what they did.

    Half of the units start as the linear head's direction, half as its opposite, each with some noise of its own; so
    training starts where the fitted head ends, and dropout leaves enough of them. Lu et al. 2019 (CXR-Risk) put 37
    units and a dropout of 0.75 there.
    """
    linear = model.head
    if not isinstance(linear, nn.Linear):
        linear[2].p = dropout
        return model
    random = torch.Generator().manual_seed(seed)
    signs = torch.where(torch.arange(hidden) % 2 == 0, 1.0, -1.0)
    counts = torch.where(signs > 0, (signs > 0).sum(), (signs < 0).sum())
    first, last = nn.Linear(linear.in_features, hidden), nn.Linear(hidden, linear.out_features)
    with torch.no_grad():
        direction = linear.weight.mean(dim=0)
        noise = torch.randn(hidden, linear.in_features, generator=random) * 0.1 * direction.std()
        first.weight.copy_(signs[:, None] * direction + noise)
        first.bias.zero_()
        last.weight.copy_((signs / counts).expand(linear.out_features, hidden))
        last.bias.copy_(linear.bias)
    model.head = nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), last)  # type: ignore[assignment]
    return model


def save_regressor(model: ImageClassifier, folder: Path, names: Sequence[str]) -> None:
    """Write a transformers directory whose classifier is the head, or the hidden layer beside `head.safetensors`."""
    from safetensors.torch import save_file

    head = model.head
    if isinstance(head, nn.Linear):
        save_classifier(model, folder, names)
        return
    first, last = head[0], head[3]
    model.head = first
    try:
        save_classifier(model, folder, units(first.out_features))
    finally:
        model.head = head
    save_file({name: value.contiguous() for name, value in last.state_dict().items()}, str(folder / HEAD_FILE))


def units(count: int) -> list[str]:
    return [f"hidden {number}" for number in range(1, count + 1)]
