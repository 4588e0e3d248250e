"""ResNet-56 for 32-pixel images, the CIFAR-10 photos as JPEG, and one training loop with distillation.

The network is the one of He et al. 2015 (arXiv:1512.03385), section 4.2, with parameter-free shortcuts (option A).
"""

import io
import math
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PADDING = 4
TEMPERATURE, HARD = 4.0, 0.1
"""Soft targets at this temperature; the labels weigh this much, the teacher the rest."""

AfterStep = Callable[[nn.Module, int, int], None]


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.missing = stride, width - inputs

    def forward(self, images: Tensor) -> Tensor:
        found = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(images)))))
        if self.stride > 1:
            below = self.missing // 2
            images = functional.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, below, below))
        return functional.relu(found + images)


class ResNet(nn.Module):
    """6 n + 2 layers: three stages of n blocks, 16, 32 and 64 channels wide."""

    def __init__(self, blocks: int = 9, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, 1, blocks)
        self.layer2 = stage(16, 32, 2, blocks)
        self.layer3 = stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        found = functional.relu(self.bn1(self.conv1(images)))
        found = self.layer3(self.layer2(self.layer1(found)))
        logits: Tensor = self.linear(found.mean((2, 3)))
        return logits


def stage(inputs: int, width: int, stride: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, width, stride), *(Block(width, width, 1) for _ in range(blocks - 1)))


@dataclass(frozen=True)
class Photos:
    """`images` of shape (n, 3, 32, 32), uint8; `labels` of shape (n,), numbers of the sorted class names."""

    images: Tensor
    labels: Tensor


def read_photos(archive: Path, work: Path) -> dict[str, Photos]:
    """The `train` and `test` photos of the archive, which has `…/SPLIT/CLASS/NAME.jpg`; decoded once."""
    path = work / "photos.safetensors"
    if not path.exists():
        save_file(decode(archive), path)
    found = load_file(path)
    return {split: Photos(found[f"{split}.images"], found[f"{split}.labels"]) for split in ("train", "test")}


def decode(archive: Path) -> dict[str, Tensor]:
    photos: dict[str, list[tuple[str, NDArray[np.uint8]]]] = {"train": [], "test": []}
    with tarfile.open(archive) as file:
        for member in file:
            if member.isfile() and member.name.endswith(".jpg"):
                _, split, kind, _ = member.name.rsplit("/", 3)
                content = file.extractfile(member)
                assert content is not None
                photos[split].append((kind, np.asarray(Image.open(io.BytesIO(content.read())).convert("RGB"))))
    kinds = sorted({kind for kind, _ in photos["train"]})
    found = {}
    for split, items in photos.items():
        found[f"{split}.images"] = torch.from_numpy(
            np.stack([image for _, image in items]).transpose(0, 3, 1, 2).copy()
        )
        found[f"{split}.labels"] = torch.tensor([kinds.index(kind) for kind, _ in items])
    return found


def normalise(images: Tensor) -> Tensor:
    scaled = images.float() / 255
    wanted = (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    return wanted.contiguous(memory_format=torch.channels_last)


def view(images: Tensor, seed: int, epoch: int) -> Tensor:
    """The photos as an epoch sees them: moved by up to four pixels, half of them mirrored. The same for each run."""
    random = np.random.default_rng([seed, epoch])
    n, _, height, width = images.shape
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    rows = random.integers(0, 2 * PADDING + 1, n)[:, None] + np.arange(height)
    columns = random.integers(0, 2 * PADDING + 1, n)[:, None] + np.arange(width)
    mirrored = random.random(n) < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    moved = padded[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return torch.from_numpy(np.ascontiguousarray(moved.transpose(0, 3, 1, 2)))


def answer(model: nn.Module, images: Tensor, *, reduced: bool = False, batch_size: int = 250) -> Tensor:
    """Logits, shape (n, classes); `reduced` computes in bfloat16, as training does."""
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        parts = [model(normalise(images[start : start + batch_size])) for start in range(0, len(images), batch_size)]
    return torch.cat(parts).float()


@dataclass(frozen=True)
class Schedule:
    """SGD with Nesterov momentum; the rate rises for `warm` of the steps and falls to zero as a cosine."""

    epochs: int
    rate: float
    batch_size: int = 128
    weight_decay: float = 5e-4
    warm: float = 0.1
    seed: int = 0
    views: int = 1000
    """How many ways to see the photos there are; then they come again."""

    def factor(self, done: float) -> float:
        if done < self.warm:
            return done / self.warm
        return 0.5 * (1 + math.cos(math.pi * (done - self.warm) / (1 - self.warm)))


def tune(
    model: nn.Module,
    photos: Photos,
    schedule: Schedule,
    *,
    teach: Callable[[int, Tensor], Tensor] | None = None,
    after_step: AfterStep | None = None,
    state: Path,
) -> float:
    """Train in place, and go on from `state` where an earlier run has left one; gives the seconds of all runs.

    `teach` gives a teacher's logits for the photos in one of the views, in their order.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(), schedule.rate, momentum=0.9, nesterov=True, weight_decay=schedule.weight_decay
    )
    first, spent = resume(model, optimizer, state)
    per_epoch = len(photos.labels) // schedule.batch_size
    steps = schedule.epochs * per_epoch
    for epoch in range(first, schedule.epochs):
        began = time.monotonic()
        seen = view(photos.images, schedule.seed, epoch % schedule.views)
        taught = teach(epoch % schedule.views, seen) if teach else None
        order = torch.from_numpy(np.random.default_rng([schedule.seed, epoch, 1]).permutation(len(photos.labels)))
        model.train()
        running = 0.0
        for index in range(per_epoch):
            rows = order[index * schedule.batch_size : (index + 1) * schedule.batch_size]
            step = epoch * per_epoch + index
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate * schedule.factor((step + 1) / steps)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(normalise(seen[rows]))
            value = loss(logits.float(), photos.labels[rows], None if taught is None else taught[rows])
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if after_step:
                after_step(model, step + 1, steps)
            running += value.item() / per_epoch
        spent += time.monotonic() - began
        keep(model, optimizer, state, epoch + 1, spent)
        print(f"{state.stem}: epoch {epoch + 1} of {schedule.epochs}, loss {running:.4f}, {spent:.0f} s", flush=True)
    return spent


def loss(logits: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
    hard = functional.cross_entropy(logits, labels)
    if taught is None:
        return hard
    soft = functional.kl_div(
        functional.log_softmax(logits / TEMPERATURE, 1),
        functional.softmax(taught / TEMPERATURE, 1),
        reduction="batchmean",
    )
    return HARD * hard + (1 - HARD) * TEMPERATURE**2 * soft


def keep(model: nn.Module, optimizer: torch.optim.Optimizer, state: Path, epoch: int, spent: float) -> None:
    tensors: dict[str, Any] = {f"model.{name}": item.contiguous() for name, item in model.state_dict().items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors[f"momentum.{number}"] = slots["momentum_buffer"].contiguous()
    temporary = state.with_suffix(".part")
    save_file(tensors, temporary, {"epoch": str(epoch), "spent": str(spent)})
    temporary.replace(state)


def resume(model: nn.Module, optimizer: torch.optim.SGD, state: Path) -> tuple[int, float]:
    """Put what `keep` wrote back; epochs done and seconds spent."""
    if not state.exists():
        return 0, 0.0
    from safetensors import safe_open

    with safe_open(state, "pt") as file:
        facts = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    parameters = [item for group in optimizer.param_groups for item in group["params"]]
    for number, parameter in enumerate(parameters):
        optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum.{number}"].to(
            memory_format=torch.channels_last if parameter.ndim == 4 else torch.preserve_format
        )
    return int(facts["epoch"]), float(facts["spent"])
