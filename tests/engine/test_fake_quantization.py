"""Rounding inside a torch module: what it computes, which gradients pass, and that nothing of it stays."""

import copy

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from budwood.engine.fake_quantization import ranges, rounded, rounded_weight, weighted


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Linear(8, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        found = torch.relu(self.norm(self.stem(images))).mean(dim=(2, 3))
        result: Tensor = self.head(torch.relu(self.wide(found)))
        return result


@pytest.fixture
def net() -> Net:
    model = Net().eval()
    model.norm.running_mean.uniform_(-1, 1)
    model.norm.running_var.uniform_(0.5, 2)
    return model


IMAGES = torch.linspace(-2, 3, 2 * 3 * 6 * 6).reshape(2, 3, 6, 6)


def test_the_head_stays_in_float(net: Net) -> None:
    assert list(weighted(net)) == ["stem", "wide"]


def test_ranges_hold_zero_and_what_was_seen(net: Net) -> None:
    found = ranges(net, lambda: net(IMAGES))
    assert found["stem"] == pytest.approx((-2.0, 3.0))
    assert found["wide"][0] == 0.0
    assert not net.stem._forward_pre_hooks


@pytest.mark.parametrize("bits", [8, 7])
def test_weights_are_rounded_as_the_graph_has_them(bits: int) -> None:
    """Channel by channel, with the range that ONNX Runtime's quantizer takes."""
    tools = pytest.importorskip("onnxruntime.quantization.quant_utils")
    int8 = pytest.importorskip("onnx").TensorProto.INT8
    torch.manual_seed(1)
    weight = torch.randn(4, 3, 3, 3) * torch.tensor([1.0, 10.0, 0.01, 1.0]).reshape(4, 1, 1, 1)
    _, largest = tools.get_qmin_qmax_for_qType(int8, reduce_range=bits == 7, symmetric=True)
    found = rounded_weight(weight, bits)
    for values, near in zip(weight.numpy(), found.numpy(), strict=True):
        _, scale, numbers = tools.quantize_data(values, int8, True, reduce_range=bits == 7)
        np.testing.assert_allclose(near, numbers * scale, atol=1e-3 * float(scale))
        assert abs(numbers).max() == largest


def test_gradients_pass_and_the_float_weights_come_back(net: Net) -> None:
    spans, before = ranges(net, lambda: net(IMAGES)), copy.deepcopy(net.state_dict())
    plain = net(IMAGES).detach()
    with rounded(net, spans):
        near = net(IMAGES)
        near.sum().backward()
        assert net.stem.weight.grad is not None
        assert net.stem.weight.grad.abs().sum() > 0
        assert 0 < (near - plain).abs().max() < 0.1
    assert "forward" not in net.stem.__dict__
    assert torch.equal(net(IMAGES), plain)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_batch_norm_that_is_folded_later_changes_no_rounding(net: Net) -> None:
    """The scale of a channel goes with its weights, so the ONNX graph rounds as training did."""
    factor = (net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()).detach().reshape(8, 1, 1, 1)
    apart = rounded_weight(net.stem.weight.detach(), 8) * factor
    together = rounded_weight(net.stem.weight.detach() * factor, 8)
    torch.testing.assert_close(apart, together, atol=1e-6, rtol=1e-5)


def test_layers_without_a_range_stay_as_they_are(net: Net) -> None:
    plain = net(IMAGES)
    with rounded(net, {}):
        np.testing.assert_array_equal(net(IMAGES).detach(), plain.detach())


def test_training_through_the_rounding_recovers_what_it_costs(net: Net) -> None:
    """With 3 bits, where the rounding hurts; the teacher is the same network in float."""
    teacher, images = copy.deepcopy(net), torch.randn(64, 3, 6, 6)
    expected = teacher(images).detach()
    spans = ranges(net, lambda: net(images))
    with rounded(net, spans, bits=3):
        losses = []
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(60):
            loss = nn.functional.mse_loss(net(images), expected)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert min(losses[-5:]) < 0.5 * losses[0]
