"""Unstructured pruning of any torch module: the smallest weights of all layers become zero, at once or step by step.

Zeros save room in a packed file; ordinary runtimes multiply by them like by any number. Import only inside functions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from budwood.core.errors import StepError, UsageError

__all__ = [
    "GradualPruning",
    "Masks",
    "check_sparsity",
    "cubic",
    "global_masks",
    "prune_and_rewind",
    "prune_once",
    "prunable",
    "sparsity_report",
]

MULTIPLYING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TABLES = (nn.Embedding, nn.EmbeddingBag)
MASK = "pruning_mask"


def check_sparsity(sparsity: float) -> None:
    """Raise UsageError when no model can have this share of zeros."""
    if not 0.0 < sparsity < 1.0:
        raise UsageError(
            f"the sparsity is {sparsity:g}, and it is the share of weights that become zero",
            where="sparsity",
            fix="give a number above 0 and below 1, such as 0.8",
        )


def prunable(model: nn.Module, *, embeddings: bool = False, leave: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The modules whose `weight` counts, by name: convolutions and linear layers; never norms and biases.

    Args:
        embeddings: count embedding tables too.
        leave: beginnings of the names of modules that stay as they are, such as `head`.

    Raises:
        StepError: there is none.
    """
    kinds = MULTIPLYING + (TABLES if embeddings else ())
    left = tuple(leave)
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        counts = isinstance(module, kinds) or is_transposed_linear(module)
        if not counts or (left and name.startswith(left)) or id(module.weight) in seen:
            continue  # a tied weight counts once
        seen.add(id(module.weight))
        found[name] = module
    if not found:
        raise StepError("the model has no convolution or linear layer to prune", where="pruning", fix="leave it out")
    return found


def is_transposed_linear(module: nn.Module) -> bool:
    """The linear layer of GPT-2 has a class of its own in transformers."""
    return type(module).__name__ == "Conv1D" and isinstance(getattr(module, "weight", None), nn.Parameter)


def global_masks(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """True where a weight stays: all but the smallest by magnitude, counted over all layers together (Han et al. 2015,
    arXiv:1506.02626). Exactly `round(sparsity * n)` weights go, also among equal ones.

    Raises:
        StepError: a weight is not a finite number.
    """
    flat = torch.cat([item.detach().abs().flatten().float() for item in weights.values()])
    if not torch.isfinite(flat).all():
        bad = [name for name, item in weights.items() if not torch.isfinite(item).all()]
        raise StepError(f"{len(bad)} layers hold weights that are not finite numbers", where=bad[0], fix="train again")
    n_zero = round(sparsity * len(flat))
    if n_zero == 0:
        return {name: torch.ones_like(item, dtype=torch.bool) for name, item in weights.items()}
    threshold = flat.kthvalue(n_zero).values
    keep = flat > threshold
    spare = len(flat) - n_zero - int(keep.sum())
    if spare:
        keep[(flat == threshold).nonzero().flatten()[-spare:]] = True
    parts = torch.split(keep, [item.numel() for item in weights.values()])
    return {name: part.view_as(item) for (name, item), part in zip(weights.items(), parts, strict=True)}


def cubic(progress: float, final: float) -> float:
    """Sparsity at a share of the schedule, from 0 to `final`: steep first, flat at the end (Zhu and Gupta 2017,
    arXiv:1710.01878, equation 1)."""
    return final * (1.0 - (1.0 - min(1.0, max(0.0, progress))) ** 3)


class Masks:
    """Keeps zeros: called after each optimizer step, it makes zero again what was chosen to be zero.

    The masks are buffers of the modules, so a checkpoint of the model holds them and a resumed run goes on with the
    very same ones. `release` takes them out again.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        """`modules` as `prunable` gives them. Masks that are there stay; new ones prune nothing."""
        self.modules = dict(modules)
        for module in self.modules.values():
            if not hasattr(module, MASK):
                module.register_buffer(MASK, torch.ones_like(weight_of(module), dtype=torch.bool))

    def __call__(self, model: nn.Module, step: int, steps: int) -> None:
        """After `step` of `steps` updates."""
        self.apply()

    def choose(self, sparsity: float) -> None:
        """Let the masks take this share of the smallest weights. What is zero already is the smallest."""
        masks = global_masks({name: weight_of(module) for name, module in self.modules.items()}, sparsity)
        for name, module in self.modules.items():
            getattr(module, MASK).copy_(masks[name])

    def apply(self) -> None:
        with torch.no_grad():
            for module in self.modules.values():
                weight_of(module).masked_fill_(~getattr(module, MASK), 0.0)  # times False, -1 is -0.0

    def release(self) -> None:
        """Take the masks out; the zeros stay in the weights."""
        for module in self.modules.values():
            if hasattr(module, MASK):
                delattr(module, MASK)


class GradualPruning(Masks):
    """Zeros grow along the cubic schedule while the model learns, and what is zero stays zero.

    Args:
        modules: as `prunable` gives them.
        sparsity: the final share of zeros, in (0, 1).
        begin, end: when zeros start and stop growing, as shares of all steps.
        updates: how often the masks are chosen anew in between.

    Raises:
        UsageError: the sparsity, or the begin and end, are out of range.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        sparsity: float,
        *,
        begin: float = 0.0,
        end: float = 0.6,
        updates: int = 60,
    ) -> None:
        check_sparsity(sparsity)
        if not 0.0 <= begin < end <= 1.0:
            raise UsageError(
                f"pruning from {begin:g} to {end:g} of the steps",
                where="begin, end",
                fix="give two shares of the run in order, from 0 to 1",
            )
        super().__init__(modules)
        self.sparsity, self.begin, self.end, self.updates = sparsity, begin, end, max(1, updates)

    def __call__(self, model: nn.Module, step: int, steps: int) -> None:
        """After `step` of `steps` updates."""
        if self.due(step, steps):
            share = (step / steps - self.begin) / (self.end - self.begin)
            self.choose(cubic(share, self.sparsity))
        self.apply()

    def due(self, step: int, steps: int) -> bool:
        first, last = self.begin * steps, self.end * steps
        every = max(1, int((last - first) / self.updates))
        final = step - 1 < last <= step
        return final or (first <= step <= last and (step - int(first)) % every == 0)


def prune_once(modules: Mapping[str, nn.Module], sparsity: float) -> Masks:
    """Zero the smallest weights at once; gives the masks that keep the zeros.

    Raises:
        UsageError: the sparsity is outside (0, 1).
    """
    check_sparsity(sparsity)
    masks = Masks(modules)
    masks.choose(sparsity)
    masks.apply()
    return masks


def prune_and_rewind(
    model: nn.Module, modules: Mapping[str, nn.Module], sparsity: float, early: Mapping[str, Tensor]
) -> Masks:
    """One round of the search for a lottery ticket (Frankle and Carbin 2019, arXiv:1803.03635): the smallest weights of
    the trained model become zero, all others go back to their `early` values. Gives the masks that keep the zeros.

    Args:
        early: the model's state from early in the training (its start, or a little later: arXiv:1912.05671).

    Raises:
        UsageError: the sparsity is outside (0, 1).
    """
    masks = prune_once(modules, sparsity)
    chosen = {name: getattr(module, MASK).clone() for name, module in modules.items()}
    model.load_state_dict(dict(early), strict=False)  # an early state may know no masks, or others
    for name, module in modules.items():
        getattr(module, MASK).copy_(chosen[name])
    masks.apply()
    return masks


def weight_of(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def sparsity_report(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Shares of zeros: in each layer, in all that were pruned, in all parameters; and the layers that are all zero."""
    layers = {name: float((weight_of(module) == 0).float().mean()) for name, module in modules.items()}
    zeros = sum(int((weight_of(module) == 0).sum()) for module in modules.values())
    pruned = sum(weight_of(module).numel() for module in modules.values())
    parameters = sum(item.numel() for item in model.parameters())
    return {
        "sparsity": zeros / pruned,
        "sparsity_of_all_parameters": sum(int((item == 0).sum()) for item in model.parameters()) / parameters,
        "weights": pruned,
        "nonzero": pruned - zeros,
        "layers": {name: round(share, 4) for name, share in layers.items()},
        "emptied": [name for name, share in layers.items() if share == 1.0],
    }
