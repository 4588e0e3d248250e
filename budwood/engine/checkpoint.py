"""Training checkpoints: tensors and a few facts, committed like bundles, and read only when their hash is right."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from budwood.core.commit import staged, sweep

__all__ = ["Checkpoint", "latest", "write"]

Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and facts that JSON can hold."""


def write(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: int = 2) -> None:
    """Commit the state after `step` steps, then remove all but the newest `keep` checkpoints."""
    sweep(folder)
    final = folder / f"{step:09d}"
    if final.exists():  # the same state once more, or a damaged folder that `latest` passed over
        shutil.rmtree(final)
    payload = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    with staged(final) as stage:
        (stage / "state.safetensors").write_bytes(payload)
        manifest = {"step": step, "sha256": hashlib.sha256(payload).hexdigest(), "facts": dict(facts)}
        (stage / "state.json").write_text(json.dumps(manifest), encoding="utf-8")
    for old in committed(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None when there is none."""
    for path in reversed(committed(folder)):
        try:
            manifest = json.loads((path / "state.json").read_text(encoding="utf-8"))
            payload = (path / "state.safetensors").read_bytes()
            if hashlib.sha256(payload).hexdigest() == manifest["sha256"]:
                return load(payload), manifest["facts"] | {"step": manifest["step"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def committed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.name.isdigit())


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's per-parameter state, flattened to `number.name`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, items in state.items() for name, value in items.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
