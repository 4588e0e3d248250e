"""Which candidates `shrink` may make of a model, rung by rung, the cheapest first."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.step import Step
from budwood.engine.bases import Found, Known, catalogue, converted, in_hub_cache, packaged
from budwood.engine.predictor import task_of
from budwood.engine.search import Trial

__all__ = [
    "Anatomy",
    "ONNX",
    "aware",
    "cuts",
    "dense_control",
    "packed",
    "quantized",
    "relearn",
    "smaller_bases",
    "step",
]

ONNX: Step = registry.get("steps/export", "onnx")()
SHARES = (0.5, 0.7, 0.35)
"""Of the layers, the channels' multiplications or the feed-forward width that a cut leaves: the first one is tried
always, the others where a limit calls for them or all is explored."""
LARGE_VOCABULARY = 20_000
"""Entries from which half of them and more are worth leaving out."""
SMALLER = 0.8
"""A base is worth adapting anew when it has at most this share of the parent's parameters."""


@dataclass(frozen=True)
class Anatomy:
    """What a network is made of, as far as it says how to cut and quantize it."""

    layers: int
    """Of a transformer whose configuration counts them; 0 for other networks."""
    writes: bool
    convolves: bool
    tokens: int = 0
    """Entries of the vocabulary; 0 where nothing is said of it."""

    @classmethod
    def of(cls, bundle: Bundle) -> "Anatomy":
        """Read from the configuration; a bundle without one has neither layers nor convolutions."""
        config: dict[str, Any] = {}
        if "config.json" in bundle.manifest.files:
            config = json.loads(bundle.file("config.json").read_text(encoding="utf-8"))
        transformer = any(name in config for name in ("num_attention_heads", "n_heads", "n_head"))
        layers = config.get("num_hidden_layers") or config.get("n_layers") or config.get("n_layer") or 0
        task = task_of(bundle)
        images = task.inputs[:1] == ("image",)
        tokens = int(config.get("vocab_size") or 0)
        return cls(int(layers) if transformer else 0, task.writes, images and not transformer, tokens)


def step(name: str) -> Any:
    """A step of `steps/shrink` by name."""
    return registry.get("steps/shrink", name)


def quantized(anatomy: Anatomy, explore: bool) -> list[tuple[str, Step]]:
    """What a float graph is converted to: suffixes of names, and the steps. The first is the one for cuts too."""
    if anatomy.writes:
        return [("int8", step("quantize_dynamic")()), ("int4", step("quantize_weights")())]
    found = [("int8", step("quantize_static" if anatomy.convolves else "quantize_dynamic")())]
    if anatomy.convolves:  # where a few bright pixels stretch the ranges, these do not
        found.append(("int8-percentile", step("quantize_static")(method="percentile")))
    if find_spec("nncf") is not None and (anatomy.convolves or explore):
        found.append(("int8-nncf", step("quantize_openvino")()))
    if explore and not anatomy.convolves:
        found.append(("int8-static", step("quantize_static")()))
    return found


def trimmed(parent: Bundle, anatomy: Anatomy) -> Trial | None:
    """A large vocabulary without the tokens that the training texts do not have, in int8; None for other models."""
    if anatomy.tokens < LARGE_VOCABULARY or not suits("trim_vocabulary", task_of(parent).name):
        return None
    return Trial("vocabulary+int8", 2, (step("trim_vocabulary")(), ONNX, step("quantize_dynamic")()))


def cuts(parent: Bundle, anatomy: Anatomy, shares: tuple[float, ...] = SHARES) -> Iterator[Trial]:
    """Cuts of depth, of width or of channels, each with its untrained copy, in the order of `shares`.

    Only techniques that are for the parent's task, and whose library is installed.
    """
    task = task_of(parent).name
    depth = "drop_layers_language" if anatomy.writes else "drop_layers"
    depths: set[int] = set()
    for share in shares:
        kept = max(1, round(anatomy.layers * share))
        if kept < anatomy.layers and kept not in depths and suits(depth, task):
            depths.add(kept)
            yield cut(f"layers-{kept}", step(depth)(layers=kept), share)
        if anatomy.convolves and find_spec("torch_pruning") is not None and suits("prune_channels", task):
            yield cut(f"channels-{share:g}", step("prune_channels")(macs=share), share)
    for share in shares:
        if anatomy.layers and suits("prune_width", task) and not anatomy.writes:
            yield cut(f"width-{share:g}", step("prune_width")(keep=share), share)


def suits(name: str, task: str) -> bool:
    """Whether a technique is for this task."""
    kind = step(name)
    return not kind.tasks or task in kind.tasks


def student(found: Found, parent: Bundle) -> Trial:
    """A base that learns from the adapted model, without having been adapted itself."""
    task = task_of(parent)
    source = str(found.folder) if found.is_local else found.label
    made = step("distill_detector" if task.finds_objects else "distill")(student=source)
    probe = () if task.finds_objects else (replace(made, epochs=0), ONNX)
    return Trial(f"student-{found.label.rpartition('/')[2]}", 3, (made, ONNX), probe, beyond=True)


def cut(name: str, made: Any, share: float) -> Trial:
    """A candidate of one trained step, with a graph: some steps write it themselves."""
    graph = () if "onnx" in made.gives else (ONNX,)
    return Trial(name, 3, (made, *graph), (replace(made, epochs=0), *graph), beyond=True, share=share)


def with_quantizer(trial: Trial, suffix: str, quantizer: Step) -> Trial:
    """The same candidate, quantized after it was made; its untrained copy likewise."""
    probe = (*trial.probe, quantizer) if trial.probe else ()
    return replace(trial, name=f"{trial.name}+{suffix}", rung=4, steps=(*trial.steps, quantizer), probe=probe)


def aware(trial: Trial) -> Trial:
    """The same candidate, trained on for the rounding that its last step brings."""
    *before, last = trial.steps
    made = tuple(item for item in before if item != ONNX)
    return replace(
        trial,
        name=f"{trial.name}+aware",
        rung=5,
        steps=(*made, step("quantize_aware")(), ONNX, last),
        probe=trial.steps,
    )


def packed(trial: Trial) -> Trial:
    """The same candidate, stored by codebook and entropy coding."""
    return replace(trial, name=f"{trial.name}+packed", rung=6, steps=(*trial.steps, step("pack")()))


def dense_control(anatomy: Anatomy, aware: bool) -> tuple[Step, ...]:
    """What every trained candidate is held against: the uncut parent, with as many updates of its own.

    `aware` adds the epochs that training for the rounding takes. A writer reads its texts on, as `adapt` reads them.
    """
    if anatomy.writes:
        return (registry.get("steps/adapt", "language")(method="full"),)
    return (step("train_on")(further=step("quantize_aware")().epochs if aware else 0), ONNX)


def smaller_bases(parent: Bundle, cache: Path) -> list[Found]:
    """Bases of `bases.toml` that are on this machine, are for this task and are clearly smaller than the parent's."""
    size = parameters(parent)
    task = task_of(parent).name
    known = [item for item in catalogue().values() if task in item.tasks and not item.new]
    fitting = [item for item in known if item.parameters <= SMALLER * size and item.hub != parent.manifest.base]
    return [found for item in fitting if (found := here(item, cache)) is not None]


def here(known: Known, cache: Path) -> Found | None:
    """A base that is on this machine: in a package, or fetched from the hub before. The network is not asked."""
    folder = packaged(known) or converted(known, cache) or in_hub_cache(known.hub)
    if folder is None:
        return None
    return Found(folder, known.hub or known.name, f"smaller: {known.about}", known.license)


def parameters(bundle: Bundle) -> int:
    """Parameters of the float weights."""
    return int(bundle.manifest.files["model.safetensors"].bytes / 4)


def adapted_anew(found: Found, base: Bundle, parent: Bundle) -> Trial:
    """A smaller base, adapted as the parent was. Where a head comes first, that alone tells its speed."""
    learn = relearn(parent)
    graph = () if "onnx" in learn[-1].gives else (ONNX,)
    probe = (learn[0], ONNX) if learn[0].name == "adapt.head" else ()
    return Trial(f"base-{found.label.rpartition('/')[2]}", 1, (*learn, *graph), probe, base)


def relearn(parent: Bundle) -> tuple[Step, ...]:
    """The steps by which the parent was adapted, with their parameters, to be applied to another base.

    Raises:
        UsageError: the parent's history names a step or a parameter that this version does not know.
    """
    steps: list[Step] = []
    for record in parent.manifest.history:
        folder, _, name = record.name.partition(".")
        if folder == "adapt":
            kind = registry.get("steps/adapt", name)
            known = {item.name for item in fields(kind)}
            steps.append(kind(**{key: value for key, value in record.parameters.items() if key in known}))
    return tuple(steps)
