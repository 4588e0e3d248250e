"""The only training loop. Fine-tuning, contrastive learning and distillation each pass a loss and batches in.

The run is a pure function of its seed: checkpoints hold the weights, the optimizer and the random state, so a run
that was killed and resumed gives the weights of one that was not (same thread count, same torch).
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from budwood.core.errors import StepError
from budwood.core.step import Progress
from budwood.engine import checkpoint
from budwood.engine.signals import Interruption, interruptible

__all__ = ["Batches", "Loss", "Plan", "Trained", "train"]

Batches = Callable[[int], Iterator[Any]]
"""The batches of an epoch, the same ones each time it is called with the same number."""
Loss = Callable[[nn.Module, Any], Tensor]
Evaluate = Callable[[nn.Module], float]
AfterStep = Callable[[nn.Module, int, int], None]

SAVE_SECONDS = 60.0
"""Time between two checkpoints; one that takes long to write is written less often."""


@dataclass(frozen=True)
class Plan:
    """How to train: AdamW with linear warm-up, then cosine to zero (Loshchilov and Hutter 2019)."""

    epochs: int
    steps_per_epoch: int
    learning_rate: float
    head_learning_rate: float | None = None
    """For the parameters that `head_names` names; None takes `learning_rate`."""
    weight_decay: float = 0.01
    warmup: float = 0.1
    """Share of all steps."""
    clip: float = 1.0
    patience: int = 3
    """Evaluations without a better score before the run stops."""
    seed: int = 0
    first_layer: float = 1.0
    """Learning rate of the first block of layers as a share of the last block's; geometric between them."""
    average: float = 0.0
    """Share of the old weights in a moving average, which is then what is scored and kept; 0 averages nothing."""
    head_names: tuple[str, ...] = ("head.",)
    """How the names of the parameters start that learn at `head_learning_rate`."""

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def factor(self, step: int) -> float:
        """The learning rate's factor at a step."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


@dataclass(frozen=True)
class Trained:
    steps: int
    best_score: float | None
    history: tuple[tuple[int, float], ...]
    """(step, validation score) of each evaluation."""
    seconds: float
    stopped: str
    """Why it ended: `finished`, `patience` or `time`."""
    not_applied: Mapping[str, str] = field(default_factory=dict)
    """Parts of the loss that were asked for and say nothing about these models, and why."""


def train(
    model: nn.Module,
    plan: Plan,
    batches: Batches,
    loss: Loss,
    *,
    evaluate: Evaluate | None = None,
    checkpoints: Path,
    progress: Progress,
    what: str,
    seconds: float | None = None,
    save_seconds: float = SAVE_SECONDS,
    after_step: AfterStep | None = None,
) -> Trained:
    """Train `model` in place and leave it with its best weights (by `evaluate`, once an epoch), or else the last.

    `after_step` is called with the model, the number of updates so far and those in all, after each update: it may
    change the weights in place, as masks do.

    Raises:
        StepError: the loss is not finite.
        KeyboardInterrupt, Terminated: a signal came; the state is saved and the same call continues from there.
    """
    run = Run(model, plan, evaluate, checkpoints, seconds, save_seconds, after_step)
    run.resume()
    with interruptible() as interruption:
        while run.stopped is None:
            if run.step % plan.steps_per_epoch == 0 and run.unevaluated():
                run.judge()
            elif run.step >= plan.steps:
                run.stopped = "finished"
            else:
                run.epoch(batches, loss, progress, what, interruption)
        if run.unevaluated():
            run.judge()
    return run.result()


class Run:
    """The state of one training run: what a checkpoint holds, and how to step, save and restore it."""

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        evaluate: Evaluate | None,
        folder: Path,
        seconds: float | None,
        save_seconds: float,
        after_step: AfterStep | None = None,
    ) -> None:
        self.model, self.plan, self.evaluate = model, plan, evaluate
        self.folder, self.save_seconds, self.after_step = folder, save_seconds, after_step
        self.parameters = [(name, item) for name, item in model.named_parameters() if item.requires_grad]
        self.optimizer = torch.optim.AdamW(groups(self.parameters, plan), fused=True)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.averaged = [item.detach().clone() for _, item in self.parameters] if plan.average else []
        self.best: dict[str, Tensor] | None = None
        self.history: list[tuple[int, float]] = []
        self.step = 0
        self.spent = 0.0
        self.limit = seconds
        self.stopped: str | None = None
        self.running = 0.0
        torch.manual_seed(plan.seed)

    def epoch(self, batches: Batches, loss: Loss, progress: Progress, what: str, interruption: Interruption) -> None:
        number, skip = divmod(self.step, self.plan.steps_per_epoch)
        self.model.train()
        saved = time.monotonic()
        cost = 0.0
        for batch in islice(batches(number), skip, self.plan.steps_per_epoch):
            began = time.monotonic()
            self.update(loss(self.model, batch))
            self.spent += time.monotonic() - began
            progress(what, self.step, self.plan.steps, self.note())
            due = time.monotonic() - saved > max(self.save_seconds, 20 * cost)
            if due or interruption:
                cost = self.save()
                saved = time.monotonic()
            if interruption:
                interruption.stop()
            if self.limit is not None and self.spent > self.limit:
                self.stopped = "time"
                return

    def update(self, value: Tensor) -> None:
        if not torch.isfinite(value):
            raise StepError(
                f"the loss became {value.item()} at step {self.step + 1}",
                where="training",
                fix="check the data for odd rows: budwood doctor",
            )
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.plan.factor(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([item for _, item in self.parameters], self.plan.clip)
        self.optimizer.step()
        self.step += 1
        if self.after_step is not None:
            self.after_step(self.model, self.step, self.plan.steps)
        self.follow()
        self.running += (value.item() - self.running) / min(self.step, 50)

    def follow(self) -> None:
        """Let the moving average follow; it starts quickly, so that the first weights are soon forgotten."""
        if self.averaged:
            pull = 1.0 - min(self.plan.average, (1.0 + self.step) / (10.0 + self.step))
            torch._foreach_lerp_(self.averaged, [item.detach() for _, item in self.parameters], pull)

    def swap(self) -> None:
        """Exchange the weights and their moving average."""
        with torch.no_grad():
            for (_, item), other in zip(self.parameters, self.averaged, strict=bool(self.averaged)):
                own = item.detach().clone()
                item.copy_(other)
                other.copy_(own)

    def unevaluated(self) -> bool:
        """Whether these weights still wait for their validation score."""
        return self.evaluate is not None and self.step > (self.history[-1][0] if self.history else 0)

    def judge(self) -> None:
        """Score the weights, keep them when they are the best so far, and stop when patience has run out."""
        assert self.evaluate is not None
        self.model.eval()
        self.swap()
        score = self.evaluate(self.model)
        best = max((value for _, value in self.history), default=-math.inf)
        self.history.append((self.step, score))
        if score > best or score == best == 0:  # while nothing is right yet, later weights are the better guess
            self.best = {name: item.detach().clone() for name, item in self.model.state_dict().items()}
        self.swap()
        since = len(self.history) - 1 - max(range(len(self.history)), key=lambda i: (self.history[i][1], -i))
        if since >= self.plan.patience and self.stopped is None:
            self.stopped = "patience"

    def note(self) -> str:
        best = max((value for _, value in self.history), default=None)
        return f"loss {self.running:.3f}" + ("" if best is None else f", best score {best:.4f}")

    def save(self) -> float:
        began = time.monotonic()
        tensors = {f"model.{name}": item for name, item in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": item for name, item in checkpoint.optimizer_tensors(self.optimizer).items()}
        tensors |= {f"best.{name}": item for name, item in (self.best or {}).items()}
        tensors |= {f"averaged.{number}": item for number, item in enumerate(self.averaged)}
        tensors["random"] = torch.get_rng_state()
        facts = {"history": self.history, "spent": self.spent, "running": self.running, "steps": self.plan.steps}
        checkpoint.write(self.folder, self.step, tensors, facts)
        return time.monotonic() - began

    def resume(self) -> None:
        found = checkpoint.latest(self.folder)
        if found is None or found[1]["steps"] != self.plan.steps:
            return
        tensors, facts = found
        self.model.load_state_dict(part(tensors, "model."))
        checkpoint.restore_optimizer(self.optimizer, part(tensors, "optimizer."))
        self.best = part(tensors, "best.") or None
        self.averaged = [tensors[f"averaged.{number}"] for number in range(len(self.averaged))]
        torch.set_rng_state(tensors["random"])
        self.history = [(int(step), float(score)) for step, score in facts["history"]]
        self.step, self.spent, self.running = facts["step"], facts["spent"], facts["running"]

    def result(self) -> Trained:
        if self.best is not None:
            self.model.load_state_dict(self.best)
        elif self.averaged:
            self.swap()
        self.model.eval()
        best = max((value for _, value in self.history), default=None)
        return Trained(self.step, best, tuple(self.history), self.spent, self.stopped or "finished")


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): item for name, item in tensors.items() if name.startswith(prefix)}


def groups(parameters: Sequence[tuple[str, nn.Parameter]], plan: Plan) -> list[dict[str, Any]]:
    """Parameter groups: no weight decay on biases and norms, the head's own learning rate, less for first layers."""
    heads = tuple(plan.head_names)
    heights = block_heights([name for name, _ in parameters if not name.startswith(heads)])
    result: dict[tuple[bool, float, bool], dict[str, Any]] = {}
    for name, parameter in parameters:
        is_head, decays = name.startswith(heads), parameter.ndim > 1
        height = 1.0 if is_head or plan.first_layer == 1 else heights[name]
        rate = plan.learning_rate * plan.first_layer ** (1 - height)
        group: dict[str, Any] = {
            "params": [],
            "lr": plan.head_learning_rate if is_head and plan.head_learning_rate else rate,
            "weight_decay": plan.weight_decay if decays else 0.0,
        }
        result.setdefault((is_head, height, decays), group)["params"].append(parameter)
    return [result[key] for key in sorted(result)]


def block_heights(names: Sequence[str]) -> dict[str, float]:
    """How far from the input each parameter's block is, from 0 to 1, counted as modules are registered.

    A block is what a name has up to its second number (`blocks.3`, `stages.1.layers.0`), or the module itself.
    """
    found: dict[str, int] = {}
    for name in names:
        found.setdefault(block_of(name), len(found))
    return {name: found[block_of(name)] / max(1, len(found) - 1) for name in names}


def block_of(name: str) -> str:
    parts = name.split(".")[:-1]
    numbers = [place for place, part in enumerate(parts) if part.isdigit()][:2]
    return ".".join(parts[: numbers[-1] + 1] if numbers else parts)
