"""Preprocessing: equal to the transformers image processors, resized as a whole, and refused where it is unknown."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pictures import PROCESSOR, encoded, noise
from PIL import Image

from budwood.core.errors import BundleError, DataError
from budwood.engine.pixels import FILE, Decoder, Preprocessing, write

SIZES = ((300, 400), (401, 303), (224, 224), (31, 57), (257, 255), (100, 223))

PROCESSORS = {
    "vit": ("ViTImageProcessor", {}),
    "vit, not square": ("ViTImageProcessor", {"size": {"height": 96, "width": 80}, "resample": 3}),
    "efficientnet": ("EfficientNetImageProcessor", {}),
    "efficientnet with offset": (
        "EfficientNetImageProcessor",
        {
            "do_center_crop": True,
            "rescale_offset": True,
            "include_top": False,
            "rescale_factor": 1 / 127.5,
            "size": {"height": 256, "width": 256},
            "crop_size": {"height": 225, "width": 223},
        },
    ),
    "bit": ("BitImageProcessor", {}),
    "crop beyond the image": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 97, "width": 80}},
    ),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
    "convnext, large": ("ConvNextImageProcessor", {}),
    "mobilevit, blue first": ("MobileViTImageProcessor", {}),
    "deit": ("DeiTImageProcessor", {}),
}


def pictures() -> list[Image.Image]:
    return [noise(*size, seed=number) for number, size in enumerate(SIZES)]


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixel_values_equal_those_of_transformers(name, tmp_path):
    pytest.importorskip("torch")
    from budwood.engine.transformers_import import quiet_transformers

    kind, options = PROCESSORS[name]
    processor = getattr(quiet_transformers(), kind)(**options)
    processor.save_pretrained(tmp_path)
    decoder = Decoder(Preprocessing.read(tmp_path), threads=2)
    files = [encoded(picture) for picture in pictures()]
    expected = np.concatenate([processor(picture, return_tensors="np")["pixel_values"] for picture in pictures()])
    found = decoder(files)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_mobilenet_as_it_is_published_equals_transformers(shared_data):
    pytest.importorskip("torch")
    from budwood.engine.transformers_import import quiet_transformers

    folder = shared_data / "weights" / "mobilenet_v2_1.0_224"
    processor = quiet_transformers().AutoImageProcessor.from_pretrained(folder, backend="pil")
    photos = sorted((shared_data / "images" / "imagenet_sample1000").glob("*.JPEG"))[:12]
    expected = processor([Image.open(photo) for photo in photos], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(Decoder(Preprocessing.read(folder))(photos), expected, atol=1e-5)


def config(**changes: object) -> dict[str, object]:
    return {**PROCESSOR, **changes}


def test_another_size_cuts_off_the_same_share_and_survives_the_file(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(PROCESSOR))
    own = Preprocessing.read(tmp_path)
    double = own.at(64)
    assert (double.edge, double.crop, double.shape) == (72, (64, 64), (64, 64))
    assert double.at(32) == own
    write(own, tmp_path)
    assert json.loads((tmp_path / FILE).read_text()) == PROCESSOR
    write(double, tmp_path)
    assert Preprocessing.read(tmp_path) == double


def test_an_offset_is_written_as_a_mean():
    shifted = replace(Preprocessing.from_config(PROCESSOR), offset=-1.0)
    again = Preprocessing.from_config(shifted.to_config())
    np.testing.assert_allclose(again.affine, shifted.affine, rtol=1e-6)


def test_bgr_has_one_size():
    with pytest.raises(BundleError, match="one size"):
        Preprocessing.from_config(config(do_flip_channel_order=True)).at(64)


@pytest.mark.parametrize(
    "changes",
    [
        {"do_pad": True},
        {"do_center_crop": False},
        {"size": {"longest_edge": 10}},
        {"size": {"shortest_edge": 100_000}},
        {"image_std": [0, 1, 1]},
        {"image_mean": [0.5, 0.5]},
        {"resample": 9},
        {"crop_size": None},
    ],
)
def test_what_is_not_understood_is_refused(changes, tmp_path):
    (tmp_path / FILE).write_text(json.dumps(config(**changes)))
    with pytest.raises(BundleError, match=FILE), np.errstate(divide="ignore", invalid="ignore"):
        Preprocessing.read(tmp_path)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(BundleError, match=FILE):
        Preprocessing.read(tmp_path)
    (tmp_path / FILE).write_text("[1]")
    with pytest.raises(BundleError, match=FILE):
        Preprocessing.read(tmp_path)


def test_one_bad_image_of_a_batch_is_named(tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(DataError) as caught:
        Decoder(Preprocessing.from_config(PROCESSOR), threads=2)([encoded(noise()), str(path), encoded(noise())])
    assert caught.value.where == str(path)
