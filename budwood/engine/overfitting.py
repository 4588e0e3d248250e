"""The self-test before a detector is trained: can it learn eight images by heart? Import only inside functions.

Where it cannot, images, boxes, labels, loss or answers do not fit together, and hours of training would be wasted.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from budwood.core.errors import StepError
from budwood.core.step import Context
from budwood.core.task import Row
from budwood.engine.detector_training import Features, Pictures, freeze

__all__ = ["by_heart"]

IMAGES = 8
UPDATES = 480
LOOKS = 8
"""Times at most that the images are looked at meanwhile."""
RATE = 3e-3
PASSED = 0.9
"""AP50 on these images from which on the parts are believed to fit together."""
REFUSED = 0.3
"""AP50 below which they certainly do not. Between the two, objects may be crowded or tiny."""
HUB_UPDATES = 12
HUB_RATE = 1e-4
HUB_PASSED, HUB_REFUSED = 0.9, 0.99
"""The mean of the last three losses by the first, below which it falls, and above which it certainly does not."""

Ap50 = Callable[[Any, Sequence[Row]], float]


def by_heart(
    model: Any, pictures: Pictures, ap50: Ap50, context: Context, seconds: float | None = None
) -> dict[str, float]:
    """Learn a few images and give what came of it; the weights are then what they were.

    Our own head should find their objects again (AP50 above 0.9, and never below 0.3). A detector of transformers
    learns too slowly for that; there the loss has to fall. With fewer than 8 images that have an object, nothing is
    tested; where `seconds` are over before the end, nothing is refused. `updates` are those that were made.

    Raises:
        StepError: not even these images were learnt.
    """
    order = np.random.default_rng(context.seed).permutation(len(pictures)).tolist()
    shown = [number for number in order if len(pictures.scene(number).boxes)][:IMAGES]
    if len(shown) < IMAGES:
        return {}
    before = {name: item.detach().clone() for name, item in model.state_dict().items()}
    torch.manual_seed(context.seed)
    end = math.inf if seconds is None else time.monotonic() + seconds
    try:
        if model.pretrained_boxes:
            return falling_loss(model, pictures, shown, context, end)
        return found_again(model, pictures, shown, ap50, context, end)
    finally:
        model.load_state_dict(before)
        model.eval()


def found_again(
    model: Any, pictures: Pictures, shown: Sequence[int], ap50: Ap50, context: Context, end: float
) -> dict[str, float]:
    """The AP50 on the images after the head has learnt them. Raises StepError when it stays near nothing."""
    freeze(model, everything=True)
    memory, random = Features(model, pictures, flip=False), np.random.default_rng(context.seed)
    rows = [pictures.rows[number] for number in shown]
    each, best, done = UPDATES // LOOKS, 0.0, 0
    optimizer = torch.optim.AdamW([item for item in model.parameters() if item.requires_grad], lr=RATE)
    while done < LOOKS * each:
        model.train()
        for _ in range(each):
            if time.monotonic() < end:
                update(model, optimizer, model.learn_from(*memory.batch(shown, random)), 10.0)
                done += 1
        model.eval()
        best = max(best, ap50(model, rows))
        context.progress("self-test", done, UPDATES, f"AP50 {best:.2f} on {len(rows)} images")
        if best > PASSED:
            break
        if time.monotonic() >= end:
            context.progress("self-test", done, UPDATES, f"its time is over at AP50 {best:.2f}, which proves nothing")
            break
    else:
        context.progress("self-test", UPDATES, UPDATES, doubt(best, len(rows)))
    return {"ap50": best, "updates": float(done)}


def doubt(best: float, n_images: int) -> str:
    """What to say of a low AP50. Raises StepError when it is near nothing."""
    fix = "look at the boxes with budwood doctor DATA; where they are right but tiny, raise --image-size"
    problem = f"{n_images} images could not be learnt by heart: AP50 {best:.2f}, above {PASSED} is expected"
    if best < REFUSED:
        raise StepError(problem, where="the self-test of the detector", fix=fix)
    return f"{problem}; {fix}"


def falling_loss(
    model: Any, pictures: Pictures, shown: Sequence[int], context: Context, end: float
) -> dict[str, float]:
    """The last three losses by the first one, each with the same noise. Raises StepError when they did not fall."""
    freeze(model, everything=False)
    values, targets = pictures.batch([pictures.scene(number) for number in shown])
    optimizer = torch.optim.AdamW(model.parameters(), lr=HUB_RATE)
    model.train()
    losses: list[float] = []
    while len(losses) < HUB_UPDATES and (len(losses) < 2 or time.monotonic() < end):
        torch.manual_seed(context.seed)  # else losses would differ by the noise that these networks learn to remove
        losses.append(update(model, optimizer, model.learn(values, targets), 0.1))
        context.progress("self-test", len(losses), HUB_UPDATES, f"loss {losses[-1]:.3f}")
    ratio = float(np.mean(losses[1:][-3:])) / losses[0]
    if len(losses) == HUB_UPDATES and not ratio < HUB_PASSED:
        context.progress("self-test", HUB_UPDATES, HUB_UPDATES, hub_doubt(ratio, len(shown)))
    return {"loss_ratio": ratio, "updates": float(len(losses))}


def hub_doubt(ratio: float, n_images: int) -> str:
    """What to say of a loss that hardly fell. Raises StepError when it did not fall at all."""
    fix = "look at the boxes with budwood doctor DATA, or take another base"
    problem = f"the loss on {n_images} images did not clearly fall: {ratio:.2f} of the first, {HUB_PASSED} is expected"
    if not ratio < HUB_REFUSED:
        raise StepError(problem, where="the self-test of the detector", fix=fix)
    return f"{problem}; {fix}"


def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, clip: float) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([item for item in model.parameters() if item.requires_grad], clip)
    optimizer.step()
    return loss.item()
