"""Which channels each module keeps: a list in plain JSON that gives a cut network its shapes again.

A network with cut channels has shapes that no configuration describes. The list, on the network of the configuration,
does. Import only inside functions.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from budwood.core.cut_list import CUTS, load_cuts
from budwood.core.errors import BundleError
from budwood.engine.transformers_import import quiet_transformers

__all__ = [
    "Cuts",
    "apply_cuts",
    "channels",
    "composed",
    "cuts_of",
    "is_depthwise",
    "read_cuts",
    "remember_cuts",
    "write_cuts",
]

Cuts = dict[str, dict[str, list[int]]]
"""Module name to the channels that it keeps: `inputs` and `outputs`, ascending; what is left out is kept whole.

A convolution of each channel by itself and a BatchNorm have `outputs` only.
"""

ATTRIBUTE = "channel_cuts"
REMAKE = "do not use this model; take it again from a source that you trust, or make it again"
PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")


def apply_cuts(model: nn.Module, cuts: Cuts) -> None:
    """Cut the channels of `model` in place: those that stay keep their weights, in their order.

    Raises:
        BundleError: a module is not there, or has no such channels.
    """
    modules = dict(model.named_modules())
    for name, kept in cuts.items():
        module = modules.get(name)
        if not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
            raise BundleError(f"a cut names {name[:80]!a}, which has no channels here", where=CUTS, fix=REMAKE)
        check_fit(name, module, kept)
        keep(module, kept.get("outputs"), kept.get("inputs"))


def check_fit(name: str, module: nn.Module, kept: Mapping[str, Sequence[int]]) -> None:
    for side, numbers in kept.items():
        total = channels(module, side)
        rising = all(first < second for first, second in pairwise(numbers))
        if not numbers or not rising or numbers[0] < 0 or numbers[-1] >= total:
            raise BundleError(f"the cut of {name[:80]!a} does not fit its {total} {side}", where=CUTS, fix=REMAKE)


def channels(module: nn.Module, side: str) -> int:
    """How many channels a module has on a side, 0 where it cannot be cut there."""
    if isinstance(module, nn.Conv2d):
        if module.groups == 1:
            return module.out_channels if side == "outputs" else module.in_channels
        return module.out_channels if side == "outputs" and is_depthwise(module) else 0
    if isinstance(module, nn.Linear):
        return module.out_features if side == "outputs" else module.in_features
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return module.num_features if side == "outputs" else 0
    return 0


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module is a convolution of each channel by itself."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def keep(module: Any, outputs: Sequence[int] | None, inputs: Sequence[int] | None) -> None:
    depthwise = is_depthwise(module)
    if outputs is not None:
        for part in PER_CHANNEL:
            replace_tensor(module, part, outputs, 0)
    if inputs is not None:
        replace_tensor(module, "weight", inputs, 1)
    if isinstance(module, nn.Conv2d):
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[0] if depthwise else module.weight.shape[1]
        module.groups = module.weight.shape[0] if depthwise else 1
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif outputs is not None:
        module.num_features = len(outputs)


def replace_tensor(module: Any, part: str, kept: Sequence[int], dimension: int) -> None:
    """Keep some rows or columns of a parameter or a buffer, where the module has it."""
    old: Tensor | None = getattr(module, part, None)
    if old is None:
        return
    chosen = old.detach().index_select(dimension, torch.as_tensor(kept, device=old.device)).contiguous()
    if isinstance(old, nn.Parameter):
        setattr(module, part, nn.Parameter(chosen, requires_grad=old.requires_grad))
    else:
        setattr(module, part, chosen)


def composed(first: Cuts, second: Cuts) -> Cuts:
    """One list for two that were made one after the other."""
    result = {name: dict(kept) for name, kept in first.items()}
    for name, kept in second.items():
        earlier = result.setdefault(name, {})
        for side, numbers in kept.items():
            earlier[side] = [earlier[side][number] for number in numbers] if side in earlier else list(numbers)
    return {name: result[name] for name in sorted(result)}


def cuts_of(network: Any) -> Cuts:
    """What was cut from a network since its configuration; empty where nothing was."""
    return dict(getattr(network, ATTRIBUTE, {}))


def remember_cuts(network: Any, cuts: Cuts) -> None:
    """Note on a network what was cut from it, in addition to what was before."""
    setattr(network, ATTRIBUTE, composed(cuts_of(network), cuts))


def write_cuts(network: Any, folder: Path) -> None:
    """Write the list beside the network's weights; nothing where the configuration describes the shapes."""
    cuts = cuts_of(network)
    if cuts:
        text = json.dumps({"version": 1, "cuts": cuts}, separators=(",", ":"), sort_keys=True)
        (folder / CUTS).write_text(text + "\n", encoding="utf-8")


def load_cut(kind: str, folder: Path, attention: str | None = None) -> Any:
    """The cut network of a folder in float32, in evaluation mode: from its configuration, its list and its weights.

    A body (`AutoModel`) is also taken out of a whole model's folder.

    Args:
        kind: the transformers class that chooses the architecture, such as `AutoModelForImageClassification`.

    Raises:
        BundleError: the three do not fit each other.
    """
    transformers = quiet_transformers()
    config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    network = getattr(transformers, kind).from_config(config, dtype=torch.float32, attn_implementation=attention)
    weights = load_file(folder / "model.safetensors")
    cuts = read_cuts(folder)
    if kind == "AutoModel":
        cuts, weights = (within(network.base_model_prefix, found) for found in (cuts, weights))
    apply_cuts(network, cuts)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(f"the weights do not fit {CUTS}", where=str(folder / CUTS), fix=REMAKE) from error
    remember_cuts(network, cuts)
    return network.eval()


def within(prefix: str, found: dict[str, Any]) -> dict[str, Any]:
    """What belongs to a part of a model, by names inside it; everything where no name begins with the part's."""
    inner = {name.removeprefix(f"{prefix}."): item for name, item in found.items() if name.startswith(f"{prefix}.")}
    return inner or found


def read_cuts(folder: Path) -> Cuts:
    """The list of a folder; empty where it has none. Raises BundleError when it is not such a list."""
    path = folder / CUTS
    return load_cuts(path, CUTS) if path.exists() else {}
