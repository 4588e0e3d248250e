"""Unstructured pruning: exactly the smallest weights go, zeros stay zero, and a resumed run goes on with its masks."""

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from budwood.core.errors import StepError, UsageError  # noqa: E402
from budwood.core.step import silent  # noqa: E402
from budwood.engine.train import Plan, train  # noqa: E402
from budwood.engine.weight_pruning import (  # noqa: E402
    GradualPruning,
    Masks,
    cubic,
    global_masks,
    prunable,
    prune_and_rewind,
    prune_once,
    sparsity_report,
)

PLAN = Plan(epochs=4, steps_per_epoch=5, learning_rate=0.01, patience=10)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(10, 6)
        self.norm = torch.nn.LayerNorm(6)
        self.body = torch.nn.Sequential(torch.nn.Linear(6, 20), torch.nn.ReLU(), torch.nn.Linear(20, 20))
        self.head = torch.nn.Linear(20, 2)

    def forward(self, inputs: Any) -> Any:
        return self.head(self.body(self.norm(self.table(inputs).mean(1))))


def net() -> Net:
    torch.manual_seed(3)
    return Net()


def batches(epoch: int) -> Any:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(PLAN.steps_per_epoch):
        inputs = torch.randint(0, 10, (16, 4), generator=generator)
        yield inputs, (inputs[:, 0] > 4).long()


def loss(model: Any, batch: Any) -> Any:
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def learn(model: Any, hook: Any, folder: Path, **changes: Any) -> None:
    settings = {"checkpoints": folder, "progress": silent, "what": "test", "save_seconds": 0.0, "after_step": hook}
    train(model, PLAN, batches, loss, **(settings | changes))


def weights(model: Any) -> dict[str, Any]:
    return {name: module.weight for name, module in prunable(model).items()}


def test_what_counts_are_linear_layers_and_convolutions() -> None:
    model = net()
    assert list(prunable(model)) == ["body.0", "body.2", "head"]
    assert list(prunable(model, embeddings=True)) == ["table", "body.0", "body.2", "head"]
    assert list(prunable(model, leave=("head",))) == ["body.0", "body.2"]
    with pytest.raises(StepError, match="no convolution or linear layer"):
        prunable(torch.nn.LayerNorm(3))


def test_a_tied_weight_counts_once() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert list(prunable(model)) == ["0"]


@given(st.floats(0.01, 0.99), st.integers(0, 1000))
def test_exactly_the_smallest_of_all_layers_go(sparsity: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = {"a": torch.randn(7, 5, generator=generator), "b": 10 * torch.randn(40, generator=generator)}
    masks = global_masks(weights, sparsity)
    kept = torch.cat([weights[name][mask].abs() for name, mask in masks.items()])
    gone = torch.cat([weights[name][~mask].abs() for name, mask in masks.items()])
    assert len(gone) == round(sparsity * 75)
    assert not len(gone) or not len(kept) or kept.min() >= gone.max()


def test_among_equal_weights_exactly_the_share_goes() -> None:
    masks = global_masks({"a": torch.ones(10), "b": torch.ones(10)}, 0.5)
    assert sum(int(mask.sum()) for mask in masks.values()) == 10


def test_weights_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(StepError, match="not finite"):
        global_masks({"a": torch.tensor([1.0, math.nan])}, 0.5)


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_sparsity_outside_the_range_is_refused(sparsity: float) -> None:
    with pytest.raises(UsageError, match="sparsity") as caught:
        GradualPruning(prunable(net()), sparsity)
    assert "above 0 and below 1" in caught.value.fix
    with pytest.raises(UsageError, match="sparsity"):
        prune_once(prunable(net()), sparsity)


@pytest.mark.parametrize(("begin", "end"), [(0.5, 0.5), (0.6, 0.2), (-0.1, 0.5), (0.0, 1.1)])
def test_a_schedule_out_of_order_is_refused(begin: float, end: float) -> None:
    with pytest.raises(UsageError, match="pruning from"):
        GradualPruning(prunable(net()), 0.5, begin=begin, end=end)


def test_the_schedule_is_cubic() -> None:
    assert cubic(0.0, 0.8) == 0.0
    assert cubic(0.5, 0.8) == pytest.approx(0.8 * (1 - 0.125))
    assert cubic(1.0, 0.8) == cubic(2.0, 0.8) == 0.8


def test_zeros_grow_and_never_come_back(tmp_path: Path) -> None:
    model = net()
    hook = GradualPruning(prunable(model), 0.8, end=0.6, updates=5)
    shares: list[float] = []
    zeros: list[Any] = []

    def after(model: Any, step: int, steps: int) -> None:
        hook(model, step, steps)
        now = torch.cat([item.detach().flatten() == 0 for item in weights(model).values()])
        if step > 0.6 * steps:
            zeros.append(now)
        shares.append(float(now.float().mean()))

    learn(model, after, tmp_path)
    assert shares == sorted(shares)
    assert shares[2] < 0.8
    assert shares[-1] == pytest.approx(0.8, abs=0.001)
    assert all(torch.equal(zeros[0], later) for later in zeros)


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = net()
    learn(whole, GradualPruning(prunable(whole), 0.7), tmp_path / "whole")
    again = net()
    hook = GradualPruning(prunable(again), 0.7)

    def stop(model: Any, step: int, steps: int) -> None:
        hook(model, step, steps)
        if step == 9:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        learn(again, stop, tmp_path / "again")
    resumed = net()
    learn(resumed, GradualPruning(prunable(resumed), 0.7), tmp_path / "again")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_masks_are_taken_out_again(tmp_path: Path) -> None:
    model = net()
    names = set(model.state_dict())
    masks = prune_once(prunable(model), 0.5)
    assert set(model.state_dict()) > names
    masks.release()
    assert set(model.state_dict()) == names
    assert sparsity_report(model, prunable(model))["sparsity"] == pytest.approx(0.5, abs=0.002)


def test_rewinding_brings_survivors_back_to_their_early_values(tmp_path: Path) -> None:
    model = net()
    early = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learn(model, None, tmp_path)
    trained = {name: tensor.detach().clone() for name, tensor in weights(model).items()}
    expected = global_masks(trained, 0.6)
    for _ in range(2):  # a second round over masks that are there
        masks = prune_and_rewind(model, prunable(model), 0.6, early)
    found = weights(model)
    zero = torch.cat([item.flatten() == 0 for item in found.values()])
    assert float(zero.float().mean()) == pytest.approx(0.6, abs=0.002)
    first = net()
    learn(first, None, tmp_path / "first")
    prune_and_rewind(first, prunable(first), 0.6, early)
    for name, item in weights(first).items():
        assert torch.equal(item, early[f"{name}.weight"] * expected[name])
    assert torch.equal(first.norm.weight, early["norm.weight"])
    masks.release()


def test_the_report_names_layers_that_lost_all() -> None:
    model = net()
    with torch.no_grad():
        model.body[0].weight.mul_(1e-6)
    modules = prunable(model)
    prune_once(modules, 0.3).release()
    report = sparsity_report(model, modules)
    assert report["emptied"] == ["body.0"]
    assert report["layers"]["body.0"] == 1.0
    assert report["weights"] == 6 * 20 + 20 * 20 + 40
    assert report["nonzero"] == report["weights"] - round(0.3 * report["weights"])
    assert 0 < report["sparsity_of_all_parameters"] < report["sparsity"]


def test_masks_alone_keep_what_was_chosen() -> None:
    model = net()
    masks = Masks(prunable(model))
    masks.choose(0.5)
    with torch.no_grad():
        for item in weights(model).values():
            item.add_(1.0)
    masks(model, 1, 10)
    assert sparsity_report(model, prunable(model))["sparsity"] == pytest.approx(0.5, abs=0.002)


def test_what_is_zero_has_no_sign() -> None:
    model = net()
    prune_once(prunable(model), 0.7)
    for weight in weights(model).values():
        assert not torch.signbit(weight[weight == 0]).any()
