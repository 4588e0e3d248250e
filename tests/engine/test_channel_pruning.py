"""Cutting channels: what can be cut is found, the rest is named, and the list of cuts gives the shapes again."""

import pytest
from pydantic import BaseModel

from budwood.core.errors import BundleError, StepError
from tests.networks import batch, gated, layer_norms, mobile, residual

pytest.importorskip("torch_pruning")


class Case(BaseModel):
    """A network, whether something in it must stay whole, and the reason."""

    build: str
    whole: dict[str, str]


CASES = {
    "residual": Case(build="residual", whole={"head": "an output", "stem": "mixes them in another way"}),
    "mobile": Case(build="mobile", whole={"head": "an output"}),
    "gated": Case(build="gated", whole={"head": "an output"}),
    "layer_norms": Case(build="layer_norms", whole={"head": "an output", "stem": "LayerNorm cannot be cut"}),
}
BUILDS = {"residual": residual, "mobile": mobile, "gated": gated, "layer_norms": layer_norms}


@pytest.mark.parametrize("name", CASES)
def test_half_of_the_multiplications_and_the_same_shapes_again(name: str) -> None:
    import torch

    from budwood.engine.channel_cuts import apply_cuts
    from budwood.engine.channel_pruning import cut_channels

    case, build = CASES[name], BUILDS[name]
    network = build(0)
    cutting = cut_channels(network, batch(), macs=0.6, round_to=2)
    assert 0.3 * cutting.macs_before < cutting.macs_after <= 0.6 * cutting.macs_before
    for layer, reason in case.whole.items():
        assert reason in cutting.ignored[layer]
    assert len(cutting.ignored) == len(case.whole)

    again = build(1)
    apply_cuts(again, cutting.cuts)
    again.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(again.eval()(batch()), network(batch()))


def test_what_is_cut_computes_as_if_nothing_read_it() -> None:
    import torch

    from budwood.engine.channel_pruning import cut_channels

    network, whole = residual(0), residual(0).eval()
    cuts = cut_channels(network, batch(), macs=0.6, round_to=2).cuts
    with torch.inference_mode():
        for name, kept in cuts.items():
            if "inputs" in kept:
                weight = whole.get_submodule(name).weight
                unread = [number for number in range(weight.shape[1]) if number not in kept["inputs"]]
                weight[:, unread] = 0
        torch.testing.assert_close(network(batch()), whole(batch()))


def test_rounds_recover_between_and_their_cuts_compose() -> None:
    import torch

    from budwood.engine.channel_cuts import apply_cuts
    from budwood.engine.channel_pruning import cut_channels, multiplications

    network, left = residual(0), []

    def recover(model: torch.nn.Module, number: int, cuts: dict[str, dict[str, list[int]]]) -> None:
        fresh = residual(1)
        apply_cuts(fresh, cuts)
        fresh.load_state_dict(model.state_dict())
        left.append(sum(multiplications(model, (batch(),)).values()))
        assert number == len(left) - 1

    cutting = cut_channels(network, batch(), macs=0.5, round_to=2, rounds=3, recover=recover)
    assert cutting.macs_before > left[0] > left[1] > left[2] == cutting.macs_after


def test_gradients_decide_where_they_are_given() -> None:
    import torch

    from budwood.engine.channel_pruning import cut_channels

    network = mobile(0)

    def only_the_first_channels(model: torch.nn.Module) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        gradient = model.get_submodule("expand").weight.grad
        gradient[:4] = 1.0

    cutting = cut_channels(network, batch(), macs=0.6, round_to=2, gradients=only_the_first_channels)
    kept = cutting.cuts["expand"]["outputs"]
    assert set(kept) & {0, 1, 2, 3} == set(range(min(4, len(kept))))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_what_must_stay_whole_can_be_named() -> None:
    from budwood.engine.channel_pruning import cut_channels

    cutting = cut_channels(mobile(0), batch(), macs=0.9, round_to=2, ignored=["expand"])
    assert cutting.ignored["expand"] == "asked for"
    assert "outputs" not in cutting.cuts["expand"]


def test_frozen_weights_stay_frozen() -> None:
    from budwood.engine.channel_pruning import cut_channels

    network = mobile(0)
    network.get_submodule("stem").requires_grad_(False)
    cut_channels(network, batch(), macs=0.6, round_to=2)
    wanted = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    assert not wanted["stem.weight"]
    assert wanted["expand.weight"]


def test_too_little_to_cut_is_refused() -> None:
    from budwood.engine.channel_pruning import cut_channels

    with pytest.raises(StepError, match="too few"):
        cut_channels(residual(0), batch(), macs=0.05, round_to=2)
    with pytest.raises(StepError, match="makes no sense") as caught:
        cut_channels(residual(0), batch(), macs=1.5)
    assert "between 0 and 1" in caught.value.fix


def test_weights_that_are_no_numbers_are_refused() -> None:
    import torch

    from budwood.engine.channel_pruning import cut_channels

    network = mobile(0)
    with torch.no_grad():
        network.get_submodule("expand").weight[0] = float("nan")
    with pytest.raises(StepError, match="not finite"):
        cut_channels(network, batch())


@pytest.mark.parametrize(
    ("cuts", "words"),
    [
        ({"nowhere": {"outputs": [0]}}, "no channels here"),
        ({"expand": {"outputs": [0, 99]}}, "does not fit"),
        ({"expand": {"outputs": [1, 0]}}, "does not fit"),
        ({"expand": {"outputs": []}}, "does not fit"),
        ({"depthwise": {"inputs": [0]}}, "does not fit"),
        ({"": {"outputs": [0]}}, "no channels here"),
    ],
)
def test_cuts_that_do_not_fit_are_refused(cuts: dict[str, dict[str, list[int]]], words: str) -> None:
    from budwood.engine.channel_cuts import apply_cuts

    with pytest.raises(BundleError, match=words):
        apply_cuts(mobile(0), cuts)


def test_two_lists_become_one() -> None:
    from budwood.engine.channel_cuts import composed

    first = {"a": {"outputs": [0, 2, 4, 6]}, "b": {"inputs": [1, 3]}}
    second = {"a": {"outputs": [1, 3], "inputs": [0]}, "c": {"outputs": [5]}}
    assert composed(first, second) == {
        "a": {"outputs": [2, 6], "inputs": [0]},
        "b": {"inputs": [1, 3]},
        "c": {"outputs": [5]},
    }
