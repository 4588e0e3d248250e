"""The training loop: it learns, stops, and a run that was interrupted at any step ends with the very same weights."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from budwood.core.errors import StepError  # noqa: E402
from budwood.core.step import silent  # noqa: E402
from budwood.engine import checkpoint  # noqa: E402
from budwood.engine.signals import Terminated  # noqa: E402
from budwood.engine.train import Plan, block_heights, groups, train  # noqa: E402

PLAN = Plan(epochs=4, steps_per_epoch=5, learning_rate=0.05, patience=10)
AVERAGED = replace(PLAN, average=0.9)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3))
        self.head = torch.nn.Linear(8, 2)

    def forward(self, inputs: Any) -> Any:
        return self.head(self.body(inputs))


def net() -> Net:
    torch.manual_seed(7)
    return Net()


def batches(epoch: int) -> Iterator[Any]:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(PLAN.steps_per_epoch):
        inputs = torch.randn(16, 4, generator=generator)
        yield inputs, (inputs[:, 0] > 0).long()


def loss(model: Any, batch: Any) -> Any:
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def accuracy(model: Any) -> float:
    inputs, labels = next(batches(999))
    return float((model(inputs).argmax(1) == labels).float().mean())


def weights(model: Any) -> list[Any]:
    return [item.clone() for item in model.state_dict().values()]


def run(model: Any, folder: Path, plan: Plan = PLAN, **changes: Any) -> Any:
    settings = {"evaluate": accuracy, "checkpoints": folder, "progress": silent, "what": "test", "save_seconds": 0.0}
    return train(model, plan, batches, loss, **(settings | changes))


def test_it_learns_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    model = net()
    before = accuracy(model.eval())
    done = run(model, tmp_path)
    assert (done.steps, done.stopped, len(done.history)) == (20, "finished", 4)
    assert accuracy(model) == done.best_score == max(score for _, score in done.history) > before


def test_a_moving_average_is_what_is_scored_and_kept(tmp_path: Path) -> None:
    plain, averaged = net(), net()
    run(plain, tmp_path / "plain", evaluate=None)
    run(averaged, tmp_path / "averaged", AVERAGED, evaluate=None)
    assert not torch.equal(plain.head.weight, averaged.head.weight)
    scored = net()
    done = run(scored, tmp_path / "scored", AVERAGED)
    assert accuracy(scored) == done.best_score


def test_parameters_are_told_apart_by_the_starts_of_their_names() -> None:
    plan = replace(PLAN, head_learning_rate=0.5, head_names=("body.",))
    assert [group["lr"] for group in groups(list(net().named_parameters()), plan)] == [0.05, 0.05, 0.5, 0.5]


def test_the_first_layers_learn_at_a_share_of_the_rate_of_the_last() -> None:
    names = ("stem.weight", "stem.bias", "blocks.0.conv.weight", "blocks.1.conv.0.weight", "blocks.1.conv.2.weight")
    parameters = [(name, torch.nn.Parameter(torch.zeros(1, 1))) for name in (*names, "head.weight")]
    plan = replace(PLAN, learning_rate=1.0, head_learning_rate=2.0, first_layer=0.01)
    found = {id(item): group["lr"] for group in groups(parameters, plan) for item in group["params"]}
    rates = [found[id(item)] for _, item in parameters]
    assert rates == pytest.approx([0.01, 0.01, 0.01 ** (2 / 3), 0.01 ** (1 / 3), 1.0, 2.0])
    assert {group["lr"] for group in groups(parameters, replace(plan, first_layer=1.0))} == {1.0, 2.0}


def test_a_block_ends_at_the_second_number_of_a_name() -> None:
    names = ["stages.0.layers.0.conv.0.weight", "stages.0.layers.0.conv.1.weight", "stages.0.layers.1.conv.0.weight"]
    assert list(block_heights(names).values()) == [0.0, 0.0, 1.0]
    assert block_heights(["a.weight"]) == {"a.weight": 0.0}


@pytest.mark.parametrize("plan", [PLAN, AVERAGED])
@pytest.mark.parametrize("after", [1, 4, 5, 6, 14, 19, 20])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_interrupted_after_any_step_ends_with_the_same_weights(
    tmp_path: Path, after: int, number: signal.Signals, plan: Plan
) -> None:
    whole = net()
    run(whole, tmp_path / "whole", plan)
    first = net()
    count = 0

    def interrupting(model: Any, batch: Any) -> Any:
        nonlocal count
        count += 1
        if count == after:
            signal.raise_signal(number)
        return loss(model, batch)

    expected = KeyboardInterrupt if number == signal.SIGINT else Terminated
    with pytest.raises(expected):
        train(
            first,
            plan,
            batches,
            interrupting,
            evaluate=accuracy,
            checkpoints=tmp_path / "cut",
            progress=silent,
            what="",
        )
    second = net()
    resumed = run(second, tmp_path / "cut", plan)
    assert resumed.steps == 20
    for a, b in zip(weights(whole), weights(second), strict=True):
        assert torch.equal(a, b)


def test_signal_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(net(), tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_it_stops_when_patience_has_run_out(tmp_path: Path) -> None:
    scores = iter([0.9, 0.5, 0.5, 0.5])
    plan = Plan(epochs=4, steps_per_epoch=5, learning_rate=0.05, patience=1)
    done = train(
        net(), plan, batches, loss, evaluate=lambda _: next(scores), checkpoints=tmp_path, progress=silent, what=""
    )
    assert (done.stopped, done.steps, done.best_score) == ("patience", 10, 0.9)


def test_it_stops_when_the_time_is_over_and_still_scores_what_it_has(tmp_path: Path) -> None:
    done = run(net(), tmp_path, seconds=0.0)
    assert (done.stopped, done.steps, len(done.history)) == ("time", 1, 1)


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="the loss became nan at step 1"):
        train(
            net(), PLAN, batches, lambda m, b: loss(m, b) * float("nan"), checkpoints=tmp_path, progress=silent, what=""
        )


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.write(tmp_path, step, {"x": torch.full((3,), float(step))}, {})
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["000000002", "000000003"]
    state = tmp_path / "000000003" / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(bytes(content))
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found[1]["step"] == 2
    assert float(found[0]["x"][0]) == 2.0


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    plan = Plan(epochs=10, steps_per_epoch=10, learning_rate=1.0)
    factors = [plan.factor(step) for step in range(plan.steps)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[-1] < 0.001


def test_while_nothing_is_right_the_last_weights_are_kept(tmp_path: Path) -> None:
    trained, last = net(), net()
    run(trained, tmp_path / "scored", AVERAGED, evaluate=lambda model: 0.0)
    run(last, tmp_path / "last", AVERAGED, evaluate=None)
    assert all(torch.equal(a, b) for a, b in zip(weights(trained), weights(last), strict=True))
