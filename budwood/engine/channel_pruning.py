"""Taking whole channels out of a convolutional network, so that it is faster on any runtime, not only smaller.

Which channels belong together is found by tracing (DepGraph: Fang et al. 2023, arXiv:2301.12900, by Torch-Pruning);
what may be cut, how much of it, and the cutting itself are here. Import only inside functions.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite, log
from typing import Any

import torch
from torch import Tensor, nn

from budwood.core.errors import BundleError, StepError, require
from budwood.engine.batch_statistics import moments, restore_moments, run
from budwood.engine.channel_cuts import Cuts, apply_cuts, channels, composed, is_depthwise

__all__ = ["Cutting", "cut_channels", "multiplications"]

NAME = "shrink.prune_channels"
TOLERANCE = 1e-3
"""How far outputs may lie from those of the uncut network with the same channels unread, relative to the largest."""
CUTTABLE = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Cutting:
    """What was cut: the list that gives a fresh network the same shapes, and what it saves."""

    cuts: Cuts
    macs_before: int
    """Multiplications of one pass with the example inputs, in convolutions and linear layers."""
    macs_after: int
    ignored: dict[str, str]
    """First layer of each set of channels that was left whole, and why."""


@dataclass(frozen=True)
class Member:
    """One side of one module whose channels go with a group's."""

    name: str
    side: str
    numbers: tuple[int, ...]
    """The channels of the module."""
    roots: tuple[int, ...]
    """The group's channel that each of them goes with."""

    def gone(self, removed: set[int]) -> list[int]:
        return [number for number, root in zip(self.numbers, self.roots, strict=True) if root in removed]


@dataclass(frozen=True)
class Group:
    """Channels that can only be taken out together, named by the first layer that makes them."""

    name: str
    size: int
    members: tuple[Member, ...]
    importance: tuple[float, ...]
    """Of each channel, as a share of the group's whole."""


def check_sizes(macs: float, rounds: int, round_to: int) -> None:
    if not 0 < macs < 1 or rounds < 1 or round_to < 1:
        raise StepError(
            f"{macs} of the multiplications in {rounds} rounds, rounded to {round_to} channels, makes no sense",
            where=NAME,
            fix="give a share between 0 and 1, and 1 or more rounds and channels",
        )


def cut_channels(
    model: nn.Module,
    example_inputs: Any,
    *,
    macs: float = 0.5,
    rounds: int = 1,
    round_to: int = 8,
    ignored: Sequence[str] = (),
    gradients: Callable[[nn.Module], None] | None = None,
    settle: Any = None,
    recover: Callable[[nn.Module, int, Cuts], None] | None = None,
) -> Cutting:
    """Cut the channels that matter least, in place, until the network needs a share of its multiplications.

    Channels are cut only where taking them out computes the same as no longer reading them. So what feeds a
    parameter-free shortcut, a norm across channels or an output stays whole, and `Cutting.ignored` says so.

    Args:
        example_inputs: a tensor, a tuple of positional or a dictionary of keyword arguments; one row is enough.
        macs: the share of the multiplications to keep.
        rounds: how often to cut, each time by the same factor.
        round_to: channels that stay are a multiple of it, since processors work on 8 or 16 at a time.
        ignored: modules, by the beginning of their names, whose outputs stay whole.
        gradients: leaves the gradients of a loss on the weights; then importance is what the loss would change by,
            to first order (Molchanov et al. 2019, arXiv:1906.10771), else the weights' magnitude.
        settle: inputs of some hundred rows; BatchNorm is then set so that its channels keep their means and spreads.
        recover: training after each cut, called with the model, the round from 0 and all cuts so far.

    Raises:
        StepError: there is too little to cut, or the weights are not finite.
        MissingExtraError: Torch-Pruning is not installed.
    """
    check_sizes(macs, rounds, round_to)
    inputs = example_inputs if isinstance(example_inputs, dict | tuple) else (example_inputs,)
    model.eval()
    before = sum(multiplications(model, inputs).values())
    cuts: Cuts = {}
    reasons: dict[str, str] | None = None
    for number in range(rounds):
        if gradients is not None:
            gradients(model)
        found = groups_of(model, inputs, by_gradient=gradients is not None)
        if reasons is None:
            reasons = {group.name: reason for group in found if (reason := obstacle(model, inputs, group, ignored))}
        whole = reasons
        goal = macs ** ((number + 1) / rounds) * before
        new = chosen(model, inputs, [group for group in found if group.name not in whole], goal, round_to)
        seen = {} if settle is None else moments(model, settle)
        apply_cuts(model, new)
        if settle is not None:
            restore_moments(model, settle, seen, new)
        cuts = composed(cuts, new)
        model.zero_grad(set_to_none=True)
        if recover is not None:
            recover(model, number, cuts)
            model.eval()
    return Cutting(cuts, before, sum(multiplications(model, inputs).values()), reasons or {})


def multiplications(model: nn.Module, inputs: Any) -> dict[str, int]:
    """Multiplications of each convolution and linear layer in one pass, by the module's name."""
    counts: dict[str, int] = {}

    def count(name: str, module: Any, output: Tensor) -> None:
        by_channel = output.numel() // module.weight.shape[0]
        counts[name] = counts.get(name, 0) + by_channel * module.weight.numel()

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: count(name, module, output))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.inference_mode():
            run(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def groups_of(model: nn.Module, inputs: Any, by_gradient: bool) -> list[Group]:
    """All sets of channels that belong together, in the order of the modules."""
    pruning = require("torch_pruning", extra="prune")
    trained = [item for item in model.parameters() if item.requires_grad]
    model.requires_grad_(True)  # the tracing follows gradients
    try:
        with torch.enable_grad():
            graph = pruning.DependencyGraph().build_dependency(model, inputs, verbose=False)
        names = {module: name for name, module in model.named_modules()}
        every = graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear])
        return [group_of(graph, item, names, by_gradient) for item in every]
    finally:
        model.requires_grad_(False)
        for item in trained:
            item.requires_grad_(True)


def group_of(graph: Any, found: Any, names: Mapping[Any, str], by_gradient: bool) -> Group:
    root = found[0].dep.target.module
    size = channels(root, "outputs")
    members: list[Member] = []
    values = torch.zeros(size)
    for item in found:
        module = item.dep.target.module
        if module not in names and not isinstance(module, nn.Parameter):
            continue  # an operation without weights
        side = "outputs" if graph.is_out_channel_pruning_fn(item.dep.handler) else "inputs"
        if is_depthwise(module) or isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            side = "outputs"  # what goes in comes out: it is listed once
        member = Member(names.get(module, ""), side, tuple(item.idxs), tuple(item.root_idxs))
        if member not in members:
            members.append(member)
            values += importance(module, member, size, by_gradient)
    total = float(values.sum())
    if not isfinite(total):
        raise StepError("the weights are not finite numbers", where=names[root], fix="shrink another model")
    shares = (values / total if total else torch.full((size,), 1 / size)).tolist()
    makers = {member.name for member in members if member.side == "outputs" and member.name}
    first = next(name for module, name in names.items() if name in makers and not is_depthwise(module))
    return Group(first, size, tuple(members), tuple(shares))


def importance(module: Any, member: Member, size: int, by_gradient: bool) -> Tensor:
    """What the weights of one module say of a group's channels: squares, or weight times gradient; shape (size,)."""
    values = torch.zeros(size)
    fits = isinstance(module, CUTTABLE) and max(member.numbers, default=0) < channels(module, member.side)
    if not fits or None in member.roots or module.weight is None:
        return values  # such a group is not cut
    weight = module.weight.detach()
    if by_gradient:
        change = torch.zeros_like(weight) if module.weight.grad is None else weight * module.weight.grad
        scores = change.abs()
    else:
        scores = weight.square()
    scores = scores.transpose(0, 1) if member.side == "inputs" else scores
    scores = scores.reshape(len(scores), -1).sum(1)
    return values.index_add(0, torch.tensor(member.roots), scores[list(member.numbers)])


def obstacle(model: nn.Module, inputs: Any, group: Group, ignored: Sequence[str]) -> str:
    """Why a group stays whole; empty where it can be cut.

    Half of its channels are taken out of a copy, and compared with a copy in which nothing reads them.
    """
    modules = dict(model.named_modules())
    for member in group.members:
        module = modules.get(member.name) if member.name else None
        if member.side == "outputs" and member.name.startswith(tuple(ignored)):
            return "asked for"
        if not isinstance(module, CUTTABLE) or not channels(module, member.side) or None in member.roots:
            return f"{member.name or group.name}: {kind_of(module)} cannot be cut"
    removed, inputs = set(range(0, group.size, 2)), noisy(inputs)
    small, blind = deepcopy(model), deepcopy(model)
    with torch.inference_mode():
        try:
            apply_cuts(small, cuts_for(model, {group.name: removed}, [group]))
            found = tensors(run(small, inputs))
        except (RuntimeError, ValueError, IndexError, BundleError) as error:
            return f"what follows does not fit: {str(error).splitlines()[0]}"
        for member in group.members:
            if member.side == "inputs":
                blind.get_submodule(member.name).weight[:, member.gone(removed)] = 0  # type: ignore[operator]
        expected = tensors(run(blind, inputs))
    if [item.shape for item in found] != [item.shape for item in expected]:
        return "an output has these channels"
    if not all(close(first, second) for first, second in zip(found, expected, strict=True)):
        return "what follows mixes them in another way than by weights"
    return ""


def noisy(inputs: Any) -> Any:
    """The inputs with noise in place of real numbers: the same value everywhere would hide what is mixed up."""
    random = torch.Generator().manual_seed(0)

    def drawn(item: Tensor) -> Tensor:
        return torch.randn(item.shape, generator=random, dtype=item.dtype) if item.is_floating_point() else item

    if isinstance(inputs, dict):
        return {name: drawn(item) for name, item in inputs.items()}
    return tuple(drawn(item) for item in inputs)


def kind_of(module: Any) -> str:
    if isinstance(module, nn.Conv2d):
        return "a convolution in groups"
    return "a bare parameter" if module is None else type(module).__name__


def close(found: Tensor, expected: Tensor) -> bool:
    limit = TOLERANCE * float(expected.abs().max())
    return bool((found - expected).abs().max() <= limit)


def tensors(outputs: Any) -> list[Tensor]:
    """All tensors of a network's outputs, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    items = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, list | tuple) else ()
    return [tensor for item in items for tensor in tensors(item)]


def cuts_for(model: nn.Module, removed: Mapping[str, set[int]], groups: Sequence[Group]) -> Cuts:
    """The list of what stays when each named group loses these channels."""
    gone: dict[tuple[str, str], set[int]] = {}
    for group in groups:
        if removed.get(group.name):
            for member in group.members:
                gone.setdefault((member.name, member.side), set()).update(member.gone(removed[group.name]))
    cuts: Cuts = {}
    for (name, side), numbers in sorted(gone.items()):
        total = channels(model.get_submodule(name), side)
        cuts.setdefault(name, {})[side] = [number for number in range(total) if number not in numbers]
    return cuts


class Widths:
    """How many multiplications are left while channels are counted out, before anything is cut."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self.macs = {name: float(value) for name, value in multiplications(model, inputs).items()}
        self.left: dict[tuple[str, str], int] = {}
        for name in self.macs:
            module = model.get_submodule(name)
            self.left |= {(name, side): channels(module, side) for side in ("outputs", "inputs")}

    def total(self) -> float:
        return sum(self.macs.values())

    def after(self, group: Group, share: float) -> dict[str, tuple[float, dict[tuple[str, str], int]]]:
        """The layers that change when a share of the group's channels goes: their multiplications and widths."""
        widths = dict[tuple[str, str], int]()
        for member in group.members:
            key = (member.name, member.side)
            if member.name in self.macs:
                widths[key] = widths.get(key, self.left[key]) - round(len(member.numbers) * share)
        changed: dict[str, tuple[float, dict[tuple[str, str], int]]] = {}
        for key, width in widths.items():
            macs, own = changed.get(key[0], (self.macs[key[0]], {}))
            changed[key[0]] = (macs * width / self.left[key], {**own, key: width})
        return changed

    def take(self, group: Group, share: float) -> None:
        for name, (macs, widths) in self.after(group, share).items():
            self.macs[name] = macs
            self.left |= widths

    def saving(self, group: Group, share: float) -> float:
        return sum(self.macs[name] - macs for name, (macs, _) in self.after(group, share).items())


def chosen(model: nn.Module, inputs: Any, groups: Sequence[Group], goal: float, round_to: int) -> Cuts:
    """The least important channels, in blocks, from where a multiplication saved costs the least importance.

    What is lost of a group counts by its logarithm, so that none is cut deep while others are whole.
    """
    widths = Widths(model, inputs)
    order = {group.name: sorted(range(group.size), key=group.importance.__getitem__) for group in groups}
    taken = {group.name: 0 for group in groups}
    kept = {group.name: 1.0 for group in groups}
    while widths.total() > goal:
        best: tuple[float, Group, int, float] | None = None
        for group in groups:
            first = taken[group.name]
            left = group.size - first
            block = left % round_to or round_to
            if left - block < round_to:
                continue
            lost = sum(group.importance[channel] for channel in order[group.name][first : first + block])
            rest = max(kept[group.name] - lost, 1e-12)
            price = log(kept[group.name] / rest) / max(widths.saving(group, block / group.size), 1.0)
            if best is None or price < best[0]:
                best = (price, group, block, rest)
        if best is None:
            share = widths.total() / goal
            raise StepError(
                f"the channels that can be cut are too few: {share:.2f} times as many multiplications are left",
                where=NAME,
                fix="ask for a larger share, or cut in smaller blocks (round_to)",
            )
        _, group, block, rest = best
        widths.take(group, block / group.size)
        taken[group.name] += block
        kept[group.name] = rest
    removed = {group.name: set(order[group.name][: taken[group.name]]) for group in groups}
    return cuts_for(model, removed, groups)
