"""A small detector on any convolutional transformers backbone: a feature pyramid and one head for all of its levels.

The parts are the usual ones: a feature pyramid (Lin et al. 2017, arXiv:1612.03144), an anchor-free head that gives
each place class scores and the distances to the four sides of its box (FCOS: Tian et al. 2019, arXiv:1904.01355), and
scores that mean the overlap to be expected (Zhang et al. 2021, arXiv:2008.13367). Import only inside functions.
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from budwood.core.errors import BundleError
from budwood.engine.detector_loss import STRIDES, Targets, detection_loss
from budwood.engine.detector_recipe import own_recipe
from budwood.engine.image_model import keep_still, take_out_idle_gates

__all__ = ["Detector", "places"]

WIDTH = 96
DEPTH = 2
"""Blocks of each of the head's two towers."""
GROUPS = 8
PRIOR = 0.01
"""Score that every place has at first, so that the empty ones do not swamp the first updates (Lin et al. 2017)."""
START = 4.0
"""Half the side of the boxes at first, in strides."""


class Detector(nn.Module):
    """Input: float32 of shape (batch, 3, size, size).

    Gives `logits` (batch, places, labels), `boxes` (batch, places, 4) in pixels of the square, and `embedding`
    (batch, channels), the mean of the coarsest features. The places are those of `places`. In training, BatchNorm and
    dropout of the backbone stay as in use: what short trainings need least is noise.
    """

    centres: Tensor
    strides: Tensor
    inputs = ("pixel_values",)
    head_names = ("head.",)
    body_names = ("encoder.",)
    outputs = ("logits", "boxes", "embedding")
    pretrained_boxes = False
    fusible = False
    recipe = staticmethod(own_recipe)

    def __init__(self, network: Any, n_labels: int, size: int) -> None:
        super().__init__()
        self.encoder = network
        self.idle = take_out_idle_gates(self.encoder)
        self.size = size
        self.levels, channels = feature_levels(network)
        self.first_names = first_layers(network)
        self.head = Head(channels, n_labels)
        centres, strides = places(size)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        """The backbone's maps at strides 8, 16 and 32."""
        if not torch.onnx.is_in_onnx_export():
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        found = self.encoder(pixel_values=pixel_values, output_hidden_states=True).hidden_states
        return [found[level] for level in self.levels]

    def decide(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the head makes of the maps."""
        logits, distances = self.head(features)
        reach = distances * self.strides[:, None]
        boxes = torch.cat([self.centres - reach[..., :2], self.centres + reach[..., 2:]], dim=-1)
        return {"logits": logits, "boxes": boxes, "embedding": features[-1].mean((2, 3))}

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return self.decide(self.features(pixel_values))

    def learn(self, pixel_values: Tensor, targets: Sequence[Targets]) -> Tensor:
        """The loss on images, a scalar."""
        return self.learn_from(self.features(pixel_values), targets)

    def learn_from(self, features: Sequence[Tensor], targets: Sequence[Targets]) -> Tensor:
        """The loss on maps of the backbone, a scalar."""
        return detection_loss(self.decide(features), targets, self.centres, self.strides)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        keep_still(self.encoder, nn.Dropout)
        return self


def places(size: int) -> tuple[Tensor, Tensor]:
    """The centres of all cells of all levels, shape (places, 2) as x and y in pixels, and their strides (places,)."""
    centres, strides = [], []
    for stride in STRIDES:
        line = (torch.arange(-(-size // stride), dtype=torch.float32) + 0.5) * stride
        y, x = torch.meshgrid(line, line, indexing="ij")
        centres.append(torch.stack([x, y], dim=-1).reshape(-1, 2))
        strides.append(torch.full((len(centres[-1]),), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def feature_levels(network: Any) -> tuple[list[int], list[int]]:
    """Which hidden states have the strides 8, 16 and 32 (the last one of each), and their channels.

    Raises:
        BundleError: the network has no such maps, as transformers over patches have not.
    """
    size = 4 * STRIDES[-1]
    try:
        with torch.inference_mode():
            found = network(pixel_values=torch.zeros(1, 3, size, size), output_hidden_states=True).hidden_states
    except (ValueError, RuntimeError, TypeError):  # it reads images of one size only
        found = ()
    shapes = [tuple(state.shape) for state in found or ()]
    levels = [max((i for i, s in enumerate(shapes) if s[2:] == (size // k,) * 2), default=-1) for k in STRIDES]
    if -1 in levels:
        raise BundleError(
            f"{type(network).__name__} has no feature maps of strides 8, 16 and 32",
            where="config.json",
            fix="pass a convolutional base, such as EfficientNet, MobileNet or ResNet, or a transformers detector",
        )
    return levels, [shapes[level][1] for level in levels]


def first_layers(network: Any) -> tuple[str, ...]:
    """The names of the parameters up to the last map of stride 4, with `encoder.` in front; none where there is none.

    They see edges and colours, and cost the most, because their maps are large.
    """
    size = 4 * STRIDES[-1]
    named = list(network.named_parameters())
    network.requires_grad_(True)
    with torch.enable_grad():
        states = network(pixel_values=torch.zeros(1, 3, size, size), output_hidden_states=True).hidden_states
        early = [state for state in states if state.shape[2:] == (size // 4,) * 2]
        if not early:
            return ()
        reached = torch.autograd.grad(early[-1].sum(), [item for _, item in named], allow_unused=True)
    return tuple(f"encoder.{name}" for (name, _), found in zip(named, reached, strict=True) if found is not None)


class Head(nn.Module):
    """The pyramid and the two towers, shared by all levels."""

    def __init__(self, channels: Sequence[int], n_labels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Sequential(nn.Conv2d(c, WIDTH, 1, bias=False), norm()) for c in channels])
        self.smooth = nn.ModuleList([block() for _ in channels])
        self.classes = nn.Sequential(*(block() for _ in range(DEPTH)))
        self.sides = nn.Sequential(*(block() for _ in range(DEPTH)))
        self.score = nn.Conv2d(WIDTH, n_labels, 1)
        self.distance = nn.Conv2d(WIDTH, 4, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.normal_(self.distance.weight, std=0.01)
        self.score.bias = nn.Parameter(torch.full((n_labels,), -math.log((1 - PRIOR) / PRIOR)))
        self.distance.bias = nn.Parameter(torch.full((4,), math.log(START)))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (batch, places, labels), and distances to left, top, right and bottom in strides."""
        if not torch.onnx.is_in_onnx_export():
            features = [item.contiguous(memory_format=torch.channels_last) for item in features]
        maps = [lateral(item) for lateral, item in zip(self.lateral, features, strict=True)]
        for fine in range(len(maps) - 2, -1, -1):
            coarse = nn.functional.interpolate(maps[fine + 1], size=maps[fine].shape[2:], mode="nearest")
            maps[fine] = maps[fine] + coarse
        logits, distances = [], []
        for smooth, item in zip(self.smooth, maps, strict=True):
            level = smooth(item)
            logits.append(self.score(self.classes(level)).flatten(2).transpose(1, 2))
            raw = self.distance(self.sides(level)).flatten(2).transpose(1, 2)
            distances.append(raw.clamp(-6.0, 6.0).exp())
        return torch.cat(logits, dim=1), torch.cat(distances, dim=1)


def norm() -> nn.Module:
    return nn.GroupNorm(GROUPS, WIDTH)


def block() -> nn.Module:
    """A 5 x 5 convolution of each channel by itself, then one across channels."""
    return nn.Sequential(
        nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH, bias=False),
        nn.Conv2d(WIDTH, WIDTH, 1, bias=False),
        norm(),
        nn.SiLU(),
    )
