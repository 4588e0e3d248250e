"""BatchNorm after a cut: means and spreads are those of before, also where the statistics had been folded away."""

import pytest

torch = pytest.importorskip("torch")

from networks import batch, mobile, residual  # noqa: E402

from budwood.engine.batch_statistics import moments, restore_moments  # noqa: E402
from budwood.engine.channel_cuts import apply_cuts  # noqa: E402


def test_nothing_changes_where_nothing_was_cut() -> None:
    network = mobile(0).eval()
    with torch.no_grad():
        before = network(batch())
        restore_moments(network, batch(), moments(network, batch()), {})
        torch.testing.assert_close(network(batch()), before)


@pytest.mark.parametrize("folded", [False, True])
def test_what_leaves_a_norm_has_its_mean_and_spread_again(folded: bool) -> None:
    network = residual(0).eval()
    norm = network.blocks[1].second_norm
    if folded:
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_parameters()
    outputs: list[torch.Tensor] = []
    norm.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    cuts = {
        "blocks.1.first": {"outputs": list(range(8))},
        "blocks.1.first_norm": {"outputs": list(range(8))},
        "blocks.1.second": {"inputs": list(range(8))},
    }
    with torch.no_grad():
        before = moments(network, batch())
        apply_cuts(network, cuts)
        network(batch())
        restore_moments(network, batch(), before, cuts)
        network(batch())
    first, blurred, last = outputs[0], outputs[1], outputs[-1]
    across = (0, 2, 3)
    assert (first.mean(across) - blurred.mean(across)).abs().max() > 1e-3
    torch.testing.assert_close(last.mean(across), first.mean(across), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(last.std(across), first.std(across), atol=1e-4, rtol=1e-3)


def test_a_variance_is_never_negative() -> None:
    network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.BatchNorm2d(3)).eval()
    norm = network[1]
    torch.nn.init.constant_(norm.running_var, 1e-6)
    before = {"1": (torch.zeros(3), torch.full((3,), 100.0))}
    restore_moments(network, batch(), before, {})
    assert norm.running_var.min() >= 0
    assert torch.isfinite(network(batch())).all()
