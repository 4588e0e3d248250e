"""Image classifiers of transformers: head and embedding, still statistics, saved as they were found."""

from pathlib import Path

import numpy as np
import pictures
import pytest

torch = pytest.importorskip("torch")

from budwood.core.errors import BundleError  # noqa: E402
from budwood.engine.image_base import write_base  # noqa: E402
from budwood.engine.image_model import ImageClassifier, load_classifier, load_network, save_classifier  # noqa: E402
from budwood.engine.pixels import FILE, Preprocessing  # noqa: E402

LABELS = ("dark", "green", "light")


@pytest.fixture(scope="module")
def pixel_values():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32))


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {kind: pictures.base(root / kind, kind) for kind in pictures.CONFIGS}


@pytest.mark.parametrize("kind", pictures.CONFIGS)
def test_the_head_on_the_embedding_gives_the_logits_of_transformers(kind, bases, pixel_values, tmp_path):
    network = load_network(bases[kind])
    with torch.no_grad():
        expected = network(pixel_values=pixel_values).logits
        model = load_classifier(bases[kind], [f"LABEL_{i}" for i in range(5)])
        outputs = model(pixel_values)
    torch.testing.assert_close(outputs["logits"], expected)
    assert outputs["embedding"].shape == (2, model.head.in_features)
    torch.testing.assert_close(model.head(outputs["embedding"]), outputs["logits"])


@pytest.mark.parametrize("kind", pictures.CONFIGS)
def test_new_labels_start_equal_and_are_saved_as_the_networks_own_classifier(kind, bases, pixel_values, tmp_path):
    model = load_classifier(bases[kind], LABELS)
    with torch.no_grad():
        assert not model(pixel_values)["logits"].any()
        model.head.weight.normal_()
        model.head.bias.normal_()
        expected = model(pixel_values)["logits"]
        save_classifier(model, tmp_path, LABELS)
        torch.testing.assert_close(model(pixel_values)["logits"], expected)
        network = load_network(tmp_path)
        torch.testing.assert_close(network(pixel_values=pixel_values).logits, expected)
        torch.testing.assert_close(load_classifier(tmp_path, LABELS)(pixel_values)["logits"], expected)
    assert network.config.id2label == dict(enumerate(LABELS))
    assert network.config.label2id == {name: number for number, name in enumerate(LABELS)}


@pytest.mark.parametrize("kind", ["mobilenet_v2", "efficientnet", "resnet"])
def test_batch_statistics_stay_still_while_weights_learn(kind, bases, pixel_values):
    model = load_classifier(bases[kind], LABELS)
    torch.nn.init.normal_(model.head.weight)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()
    assert model.training
    model(pixel_values)["logits"].square().sum().backward()
    for name, value in model.named_buffers():
        torch.testing.assert_close(value, before[name])
    names = [name for name, value in model.named_parameters() if value.grad is not None]
    assert {"head.weight", "head.bias"} < set(names)
    assert any(name.startswith("encoder.") for name in names)


def test_a_base_is_written_with_its_preprocessing_spelled_out(bases, pixel_values, tmp_path):
    write_base(bases["vit"], tmp_path)
    assert Preprocessing.read(tmp_path) == Preprocessing.read(bases["vit"])
    with torch.no_grad():
        expected = load_network(bases["vit"])(pixel_values=pixel_values).logits
        torch.testing.assert_close(load_network(tmp_path)(pixel_values=pixel_values).logits, expected)


def test_a_folder_without_preprocessing_is_no_base(bases, tmp_path):
    network = load_network(bases["resnet"])
    network.save_pretrained(tmp_path / "bare")
    with pytest.raises(BundleError, match="image processor") as caught:
        write_base(tmp_path / "bare", tmp_path / "stage")
    assert caught.value.where.endswith(FILE)


def test_another_kind_of_model_is_no_base(tiny_bert, tmp_path):
    with pytest.raises(BundleError):
        write_base(tiny_bert, tmp_path)
    with pytest.raises(BundleError, match="cannot load the image classifier"):
        load_network(tiny_bert)


def test_a_network_with_two_heads_is_refused(tmp_path):
    from budwood.engine.transformers_import import quiet_transformers

    transformers = quiet_transformers()
    _, sizes = pictures.CONFIGS["vit"]
    config = transformers.DeiTConfig(**sizes, num_labels=3)
    transformers.DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path / "two")
    (tmp_path / "two" / FILE).write_text((pictures.base(tmp_path / "one") / FILE).read_text())
    with pytest.raises(BundleError, match="one linear layer"):
        write_base(tmp_path / "two", tmp_path / "stage")


def test_a_gate_that_still_works_is_kept(bases):
    model = load_classifier(bases["efficientnet"], LABELS)
    assert not model.idle


def test_a_gate_that_is_always_open_is_taken_out_and_saved_again(bases, pixel_values, tmp_path):
    network = load_network(bases["efficientnet"])
    with torch.no_grad():
        for name, value in network.named_parameters():
            if ".squeeze_excite.expand." in name:
                value.fill_(30.0 if name.endswith("bias") else 0.0)
        expected = network(pixel_values=pixel_values).logits
        names = set(network.state_dict())
        model = ImageClassifier(network).eval()
        torch.testing.assert_close(model(pixel_values)["logits"], expected)
        assert model.idle
        save_classifier(model, tmp_path, [f"LABEL_{i}" for i in range(5)])
        assert set(load_network(tmp_path).state_dict()) == names
        torch.testing.assert_close(load_network(tmp_path)(pixel_values=pixel_values).logits, expected)
