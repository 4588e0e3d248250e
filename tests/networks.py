"""Small convolutional networks, one for each way in which channels hang together. They import torch."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["batch", "gated", "layer_norms", "mobile", "residual"]


def batch() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def made(seed: int, kind: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = kind()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.running_mean, std=0.1)
        return network


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters, which pads what it lacks (He et al. 2015, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, images: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(images)))
        inner = self.second_norm(self.second(inner))
        sides = (0, 0, 0, 0, self.missing // 2, self.missing // 2)
        shortcut = functional.pad(images[:, :, :: self.stride, :: self.stride], sides)
        return functional.relu(inner + shortcut)


class Residual(nn.Module):
    """The shape of CIFAR's ResNets: a stem, stages of blocks, a mean and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1))
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Any:
        states = self.blocks(functional.relu(self.stem_norm(self.stem(images))))
        return self.head(states.mean((2, 3)))


class Mobile(nn.Module):
    """An inverted residual: widened, each channel by itself, narrowed, and added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.expand = nn.Conv2d(8, 32, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, 1, 1, groups=32, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(32)
        self.project = nn.Conv2d(32, 8, 1)
        self.head = nn.Linear(8, 4)

    def inner(self, states: Tensor) -> Tensor:
        wide = functional.relu6(self.expand_norm(self.expand(states)))
        return functional.relu6(self.depthwise_norm(self.depthwise(wide)))

    def forward(self, images: Tensor) -> Any:
        states = self.stem(images)
        return self.head((states + self.project(self.inner(states))).mean((2, 3)))


class Gated(Mobile):
    """The same with a squeeze-and-excite gate."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(32, 4, 1)
        self.excite = nn.Conv2d(4, 32, 1)

    def inner(self, states: Tensor) -> Tensor:
        wide = super().inner(states)
        gate = self.excite(functional.relu(self.squeeze(wide.mean((2, 3), keepdim=True))))
        return wide * gate.sigmoid()


class LayerNorms(nn.Module):
    """ConvNeXt's block: a norm across the channels of the shortcut, so that only the wide layer can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.expand = nn.Linear(8, 32)
        self.project = nn.Linear(32, 8)
        self.scale = nn.Parameter(torch.full((8,), 0.5))
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Any:
        states = self.stem(images)
        inner = self.norm(self.depthwise(states).permute(0, 2, 3, 1))
        inner = self.scale * self.project(functional.gelu(self.expand(inner)))
        return self.head((states + inner.permute(0, 3, 1, 2)).mean((2, 3)))


def residual(seed: int) -> Residual:
    return made(seed, Residual)  # type: ignore[no-any-return]


def mobile(seed: int) -> Mobile:
    return made(seed, Mobile)  # type: ignore[no-any-return]


def gated(seed: int) -> Gated:
    return made(seed, Gated)  # type: ignore[no-any-return]


def layer_norms(seed: int) -> LayerNorms:
    return made(seed, LayerNorms)  # type: ignore[no-any-return]
