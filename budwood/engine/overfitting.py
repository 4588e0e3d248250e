"""The self-test before a detector is trained: can it learn eight images by heart? Import only inside functions.

Where it cannot, images, boxes, labels, loss or answers do not fit together, and hours of training would be wasted.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

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


def by_heart(
    model: Any, pictures: Pictures, ap50: Callable[[Any, Sequence[Row]], float], context: Context
) -> dict[str, float]:
    """Learn a few images and give what came of it; the weights are then what they were.

    Our own head should find their objects again (AP50 above 0.9, and never below 0.3). A detector of transformers
    learns too slowly for that; there the loss has to fall. With fewer than 8 images that have an object, nothing is
    tested.

    Raises:
        StepError: not even these images were learnt.
    """
    order = np.random.default_rng(context.seed).permutation(len(pictures)).tolist()
    shown = [number for number in order if len(pictures.scene(number).boxes)][:IMAGES]
    if len(shown) < IMAGES:
        return {}
    before = {name: item.detach().clone() for name, item in model.state_dict().items()}
    torch.manual_seed(context.seed)
    try:
        if model.pretrained_boxes:
            return {"loss_ratio": falling_loss(model, pictures, shown, context)}
        return {"ap50": found_again(model, pictures, shown, ap50, context)}
    finally:
        model.load_state_dict(before)
        model.eval()


def found_again(
    model: Any, pictures: Pictures, shown: Sequence[int], ap50: Callable[[Any, Sequence[Row]], float], context: Context
) -> float:
    """The AP50 on the images after the head has learnt them. Raises StepError when it stays near nothing."""
    freeze(model, everything=True)
    memory, random = Features(model, pictures, flip=False), np.random.default_rng(context.seed)
    rows = [pictures.rows[number] for number in shown]
    each, best = UPDATES // LOOKS, 0.0
    optimizer = torch.optim.AdamW([item for item in model.parameters() if item.requires_grad], lr=RATE)
    for look in range(LOOKS):
        model.train()
        for _ in range(each):
            update(model, optimizer, model.learn_from(*memory.batch(shown, random)), 10.0)
        model.eval()
        best = max(best, ap50(model, rows))
        context.progress("self-test", (look + 1) * each, UPDATES, f"AP50 {best:.2f} on {len(rows)} images")
        if best > PASSED:
            return best
    context.progress("self-test", UPDATES, UPDATES, doubt(best, len(rows)))
    return best


def doubt(best: float, n_images: int) -> str:
    """What to say of a low AP50. Raises StepError when it is near nothing."""
    fix = "look at the boxes with budwood doctor DATA; where they are right but tiny, raise --image-size"
    problem = f"{n_images} images could not be learnt by heart: AP50 {best:.2f}, above {PASSED} is expected"
    if best < REFUSED:
        raise StepError(problem, where="the self-test of the detector", fix=fix)
    return f"{problem}; {fix}"


def falling_loss(model: Any, pictures: Pictures, shown: Sequence[int], context: Context) -> float:
    """The last loss by the first one. Raises StepError when it did not fall."""
    freeze(model, everything=False)
    values, targets = pictures.batch([pictures.scene(number) for number in shown])
    optimizer = torch.optim.AdamW(model.parameters(), lr=HUB_RATE)
    model.train()
    losses = []
    for number in range(HUB_UPDATES):
        losses.append(update(model, optimizer, model.learn(values, targets), 0.1))
        context.progress("self-test", number + 1, HUB_UPDATES, f"loss {losses[-1]:.3f}")
    if not min(losses[1:]) < losses[0]:
        raise StepError(
            f"the loss on {len(shown)} images did not fall: {losses[0]:.3f}, then at best {min(losses[1:]):.3f}",
            where="the self-test of the detector",
            fix="look at the boxes with budwood doctor DATA, or take another base",
        )
    return min(losses[1:]) / losses[0]


def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, clip: float) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([item for item in model.parameters() if item.requires_grad], clip)
    optimizer.step()
    return loss.item()
