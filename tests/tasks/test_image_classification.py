"""Image classification: requests, limits, sizes, augmentation and the way from a base to a saved model."""

import base64
import json
from pathlib import Path

import numpy as np
import pictures
import pytest

from budwood.core import registry
from budwood.core.errors import BundleError, DataError, UsageError
from budwood.engine.images import open_image, plain_png
from budwood.engine.pixels import FILE, Preprocessing
from budwood.tasks.image_classification import ImageClassification

LABELS = ("dark", "green", "light")
TASK = ImageClassification(LABELS)


def rows(each: int = 2) -> list[dict[str, object]]:
    return [
        {"image": pictures.encoded(pictures.scene(label, 7 * number + index)), "label": label}
        for number, label in enumerate(LABELS)
        for index in range(each)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("base")
    pictures.base(root / "plain")
    (root / "stage").mkdir()
    ImageClassification.take_base(root / "plain", root / "stage")
    return root / "stage"


def test_a_request_holds_base64_or_bytes():
    content = plain_png((1, 2, 3))
    encoded = base64.b64encode(content).decode()
    for image in (content, encoded, f"data:image/png;base64,{encoded}"):
        assert TASK.parse({"image": image}) == {"image": content}


def test_a_path_is_taken_from_the_command_line_only(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(plain_png((1, 2, 3)))
    assert TASK.parse({"image": path}) == {"image": str(path)}
    with pytest.raises(DataError, match="base64"):
        TASK.parse({"image": str(path)})


@pytest.mark.parametrize(
    ("item", "message", "where"),
    [
        ("text", "must be an object", "input"),
        ({}, "image is missing", "image"),
        ({"image": 3}, "must be base64, not int", "image"),
        ({"image": None}, "must be base64, not NoneType", "image"),
        ({"image": "%%%"}, "not valid base64", "image"),
        ({"image": ""}, "empty", "image"),
        ({"image": base64.b64encode(b"no image at all").decode()}, "not an image of a format", "image"),
        ({"image": b"x", "url": "y"}, "unknown field 'url'", "url"),
    ],
)
def test_what_is_no_image_is_refused_with_the_field(item, message, where):
    with pytest.raises(DataError, match=message) as caught:
        TASK.parse(item)
    assert caught.value.where == where


def test_an_item_stands_for_its_row_and_large_photos_shrink(tmp_path):
    row = rows()[0]
    assert TASK.parse(TASK.item(row)) == {"image": row["image"]}
    path = tmp_path / "large.png"
    pictures.noise(1500, 1200).save(path)
    item = TASK.item({"image": str(path)})
    assert json.loads(json.dumps(item)) == item
    assert max(open_image(TASK.parse(item)["image"]).size) == 384


def test_rows_of_files_of_bytes_and_of_uris_encode_alike(base, tmp_path):
    content = rows()[0]["image"]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    encoded = TASK.encoder(base)([{"image": content}, {"image": str(path)}, {"image": uri}])
    values = encoded.inputs["pixel_values"]
    assert values.shape == (3, 3, 32, 32)
    assert encoded.notes == [{}, {}, {}]
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])


def test_probabilities_use_the_temperature():
    logits = np.log(np.asarray([[0.7, 0.2, 0.1]]))
    (sharp,) = TASK.decode({"logits": logits}, {}, 3)
    (soft,) = TASK.decode({"logits": logits}, {"temperature": 2.0}, 3)
    assert sharp["label"] == soft["label"] == "dark"
    assert sharp["score"] == pytest.approx(0.7)
    assert soft["score"] < sharp["score"]
    assert sum(soft["scores"].values()) == pytest.approx(1.0, abs=1e-5)


def test_small_images_are_learnt_at_a_small_size_where_the_base_allows(base, tmp_path):
    small = ImageClassification.from_rows(rows())
    assert small.image_size == 128
    assert small.fit_to(base).image_size == 0  # the base reads 32
    large = [{"image": pictures.encoded(pictures.noise(120, 130)), "label": label} for label in LABELS]
    assert ImageClassification.from_rows(large).image_size == 0
    config = json.loads((base / FILE).read_text())
    config |= {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    (tmp_path / FILE).write_text(json.dumps(config))
    for kind, size in (("mobilenet_v2", 128), ("vit", 0)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        assert small.fit_to(tmp_path).image_size == size


def test_the_head_sees_mirrored_images_only_where_that_is_allowed(base):
    torch = pytest.importorskip("torch")
    from budwood.engine.batching import Rows, embeddings

    class TopEdge(torch.nn.Module):
        def forward(self, pixel_values):
            return {"embedding": pixel_values[:, 0, 0, :]}

    encoder = TASK.encoder(base)
    own, mirrored = embeddings(TopEdge(), Rows(TASK, encoder, rows()))
    np.testing.assert_array_equal(own, encoder(rows()).inputs["pixel_values"][:, 0, 0, :])
    np.testing.assert_array_equal(mirrored, own[:, ::-1])
    assert len(embeddings(TopEdge(), Rows(ImageClassification(LABELS, flip=False), encoder, rows()))) == 1


def test_what_has_no_up_and_down_is_turned_too():
    task = TASK.with_options({"rotate": True})
    pixels = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    mirrored, quarter = (view["pixel_values"] for view in task.views({"pixel_values": pixels}))
    np.testing.assert_array_equal(mirrored[0, 0, 0], pixels[0, 0, 0, ::-1])
    np.testing.assert_array_equal(quarter[0, 0, 0], pixels[0, 0, :, -1])
    rising = np.tile(np.linspace(-1, 1, 32, dtype=np.float32), (64, 3, 32, 1))
    varied = task.augment({"pixel_values": rising}, np.random.default_rng(0))["pixel_values"]
    upright = np.abs(varied[:, 0, 0, -1] - varied[:, 0, 0, 0]) > 0.3
    assert 15 < upright.sum() < 49
    wide = task.augment({"pixel_values": rising[..., :16]}, np.random.default_rng(0))["pixel_values"]
    assert wide.shape == (64, 3, 32, 16)
    assert (np.abs(wide[:, 0, 0, -1] - wide[:, 0, 0, 0]) > 0.2).all(), "half turns keep the shape"


def test_options_of_the_user_are_kept_in_the_bundle_and_others_are_refused():
    task = TASK.with_options({"flip": False, "rotate": True})
    assert (task.flip, task.rotate) == (False, True)
    assert ImageClassification.from_json(task.to_json()) == task
    assert TASK.with_options({}) == TASK
    with pytest.raises(UsageError, match="no option 'zoom'"):
        TASK.with_options({"zoom": True})
    with pytest.raises(UsageError, match="true or false"):
        TASK.with_options({"flip": "no"})
    for size in (31, 4097, "160", True):
        with pytest.raises(UsageError, match="between 32 and 4096 pixels"):
            TASK.with_options({"image_size": size})
    with pytest.raises(BundleError, match="wrong types"):
        ImageClassification.from_json(task.to_json() | {"rotate": 1})


def test_a_size_that_was_asked_for_is_never_silently_another(base):
    assert TASK.with_options({"image_size": 32}).fit_to(base).image_size == 0, "its own size"
    with pytest.raises(UsageError, match="cannot read images at 40 pixels; its own size is 32"):
        TASK.with_options({"image_size": 40}).fit_to(base)


def test_augmentation_varies_within_bounds_and_mirrors_only_where_allowed():
    values = np.tile(np.linspace(-1, 1, 32, dtype=np.float32), (64, 3, 32, 1))
    inputs = {"pixel_values": values}
    random = np.random.default_rng(0)
    varied = TASK.augment(inputs, random)["pixel_values"]
    assert varied.shape == values.shape
    assert varied.dtype == np.float32
    assert np.abs(varied).max() < 1.5
    rising = varied[:, 0, 0, -1] > varied[:, 0, 0, 0]
    assert 10 < rising.sum() < 54
    still = ImageClassification(LABELS, flip=False).augment(inputs, random)["pixel_values"]
    assert (still[:, 0, 0, -1] > still[:, 0, 0, 0]).all()
    again = TASK.augment(inputs, np.random.default_rng(0))["pixel_values"]
    np.testing.assert_array_equal(varied, again)
    assert np.array_equal(values, inputs["pixel_values"])


def test_the_recipe_depends_on_the_rows():
    assert [TASK.recipe(n)["epochs"] for n in (10, 1000, 3000, 100_000)] == [10, 13, 5, 4]


def test_few_images_are_tuned_more_gently_than_many() -> None:
    few, many = TASK.recipe(300), TASK.recipe(3000)
    assert few["learning_rate"] < many["learning_rate"]
    assert few["first_layer"] < many["first_layer"] == 1.0
    assert (few["stop_early"], many["stop_early"]) == (False, True)


def test_the_recipe_is_told_with_its_reason() -> None:
    full = registry.get("steps/adapt", "full")()
    assert full.advice(TASK, 300) == (
        "recipe=AdamW, 10 epochs, learning rate 0.0002, in the first layers 2e-05, in the head 0.0002"
        "  # 300 images are few: gently"
    )
    assert "enough for higher rates" in full.advice(TASK, 3000)


def test_the_quality_of_an_answer_is_a_proper_score_of_its_probabilities() -> None:
    rows = [{"label": TASK.labels[0]}] * 3
    answers = [{"scores": {TASK.labels[0]: share, TASK.labels[1]: 1 - share}} for share in (1.0, 0.5, 0.0)]
    assert TASK.quality(answers, rows).tolist() == [1.0, 0.75, 0.0]


def test_metrics_tell_what_leaving_out_the_unsure_brings():
    answers = [{"label": "dark", "score": 0.9}] * 24 + [{"label": "dark", "score": 0.3}] * 6
    truth = [{"label": "dark"}] * 24 + [{"label": "green"}] * 6
    found = TASK.metrics(answers, truth)
    assert found["accuracy_at_80_coverage"] == 1.0
    assert found["threshold_for_95_accuracy"] == 0.9
    assert found["worst_class_recall"] == 0.0


def test_a_trained_head_comes_back_from_an_ordinary_directory(base, tmp_path):
    torch = pytest.importorskip("torch")
    task = ImageClassification(LABELS, image_size=64)
    model = task.build(base)
    with torch.no_grad():
        model.head.weight.normal_()
    (tmp_path / FILE).write_bytes((base / FILE).read_bytes())
    task.save(model, tmp_path)
    encoded = task.encoder(tmp_path)(rows())
    assert encoded.inputs["pixel_values"].shape[2:] == (64, 64)
    assert Preprocessing.read(tmp_path).shape == (64, 64)
    inputs = {name: torch.from_numpy(value) for name, value in encoded.inputs.items()}
    with torch.no_grad():
        expected = model(**inputs)["logits"]
        torch.testing.assert_close(task.build(tmp_path)(**inputs)["logits"], expected)
    from budwood.engine.transformers_import import quiet_transformers

    network = quiet_transformers().AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(**inputs).logits, expected)
    assert list(network.config.id2label.values()) == list(LABELS)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"labels": []},
        {"labels": [1]},
        {"labels": ["a"], "flip": 1},
        {"labels": ["a"], "image_size": -1},
        {"labels": ["a"], "image_size": True},
        {"labels": ["a"], "x": 1},
    ],
)
def test_damaged_fields_are_refused(fields):
    with pytest.raises(BundleError):
        ImageClassification.from_json(fields)


def test_an_image_in_a_data_uri_is_no_path() -> None:
    uri = "data:image/png;base64," + base64.b64encode(plain_png((1, 2, 3))).decode()
    assert TASK.typed(uri + "//") == uri + "//"
    assert TASK.parse({"image": TASK.typed(uri)}) == {"image": plain_png((1, 2, 3))}
    assert TASK.typed("a//b.png") == Path("a/b.png")
