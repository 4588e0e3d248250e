"""Readers of images: class folders, tables of file names, arrays; a broken file is left out and named."""

import hashlib
import shutil

import numpy as np
import pictures
import pytest

from budwood.core import registry
from budwood.core.errors import DataError
from budwood.data.csv import Csv
from budwood.data.image_folder import ImageFolder
from budwood.data.image_table import ImageTable
from budwood.data.npz import Npz
from budwood.engine.images import open_image
from budwood.engine.reading import read_dataset, read_inputs

CLASSES = sorted(pictures.COLOURS)


def test_class_folders_become_rows_with_hashes(tmp_path):
    reading = read_dataset(pictures.folder(tmp_path / "shots", each=3))
    assert len(reading.dataset) == 9
    row = reading.dataset.rows[0]
    assert set(row) == {"image", "sha256", "label"}
    assert row["label"] == CLASSES[0]
    with open(row["image"], "rb") as file:
        assert row["sha256"] == hashlib.sha256(file.read()).hexdigest()
    assert str(reading.places[0]) == "dark/dark-0.jpg:1"
    assert any(line.startswith("classes=3") for line in reading.notes)


def test_the_same_images_elsewhere_have_the_same_source_hash(tmp_path):
    found = [read_dataset(pictures.folder(tmp_path / name)).facts["sources"][0]["sha256"] for name in ("a", "b")]
    assert found[0] == found[1]


def test_folders_name_the_splits(tmp_path):
    folder = pictures.folder(tmp_path / "shots", splits={"Train": 3, "val": 2, "test": 1})
    found = read_dataset(folder).dataset.rows
    assert sorted({row["split"] for row in found}) == ["test", "train", "validation"]
    assert [sum(row["split"] == split for row in found) for split in ("train", "validation", "test")] == [9, 6, 3]


def test_one_class_is_enough_within_a_split(tmp_path):
    folder = pictures.folder(tmp_path / "shots", splits={"train": 2, "test": 2})
    for label in CLASSES[1:]:
        shutil.rmtree(folder / "test" / label)
    rows = read_dataset(folder).dataset.rows
    assert [(row["split"], row["label"]) for row in rows if row["split"] == "test"] == [("test", CLASSES[0])] * 2


@pytest.mark.parametrize("flat", [True, False])
def test_a_split_folder_without_labelled_images_is_refused(tmp_path, flat):
    folder = pictures.folder(tmp_path / "archive" / "shots", splits={"train": 2})
    (folder / "test").mkdir()
    if flat:
        pictures.scene("dark", 1).save(folder / "test" / "1.jpg")
    with pytest.raises(DataError, match="'test' has no labelled images") as caught:
        read_dataset(tmp_path / "archive")
    assert str(folder / "test") in caught.value.where
    assert "folder of its name" in caught.value.fix


def test_images_beside_their_annotations_are_no_classes(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "images").mkdir(parents=True)
        (tmp_path / split / "labels").mkdir()
        pictures.scene("dark", 0).save(tmp_path / split / "images" / "1.jpg")
        (tmp_path / split / "labels" / "1.txt").write_text("0 0.5 0.5 1 1")
    assert not ImageFolder().claims(tmp_path)


def test_a_wrapping_folder_and_junk_do_not_matter(tmp_path):
    folder = pictures.folder(tmp_path / "archive" / "shots", each=2)
    (tmp_path / "archive" / "__MACOSX" / "dark").mkdir(parents=True)
    (folder / "dark" / ".hidden.jpg").write_bytes(b"x")
    (folder / "dark" / "notes.txt").write_text("no image")
    assert len(read_dataset(tmp_path / "archive").dataset) == 6


def test_one_bad_file_never_stops_a_run(tmp_path):
    folder = pictures.folder(tmp_path / "shots", each=2)
    whole = (folder / "dark" / "dark-0.jpg").read_bytes()
    (folder / "dark" / "a-truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "dark" / "b-empty.png").write_bytes(b"")
    (folder / "dark" / "c-text.jpg").write_text("this is text")
    reading = read_dataset(folder)
    assert len(reading.dataset) == 6
    assert [place.source for place, _ in reading.skipped] == [
        "dark/a-truncated.jpg",
        "dark/b-empty.png",
        "dark/c-text.jpg",
    ]
    assert any("dark/b-empty.png" in line and "empty" in line for line in reading.notes)


def test_a_folder_of_broken_images_only_is_refused(tmp_path):
    folder = pictures.folder(tmp_path / "shots", each=1)
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="not one image can be read"):
        read_dataset(folder)


def test_folders_have_no_columns(tmp_path):
    with pytest.raises(DataError, match="no columns"):
        read_dataset(pictures.folder(tmp_path / "shots"), target="label")


def test_a_pile_of_images_is_for_predicting_only(tmp_path):
    pictures.scene("dark", 1).save(tmp_path / "b.png")
    pictures.scene("dark", 2).save(tmp_path / "a.jpg")
    assert [row["image"] for row in read_inputs(tmp_path)] == [str(tmp_path / "a.jpg"), str(tmp_path / "b.png")]
    with pytest.raises(DataError, match="no labels"):
        read_dataset(tmp_path)


def test_labelled_folders_can_be_predicted_too(tmp_path):
    rows = read_inputs(pictures.folder(tmp_path / "shots", each=2))
    assert len(rows) == 6
    assert all(set(row) == {"image"} for row in rows)


def table(folder, lines, name="labels.csv"):
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


@pytest.mark.parametrize("names_folders", [True, False])
def test_a_table_names_its_images(tmp_path, names_folders):
    folder = pictures.folder(tmp_path / "set" / "images", each=2)
    files = sorted(folder.rglob("*.jpg"))
    names = [str(file.relative_to(tmp_path / "set")) if names_folders else file.name for file in files]
    lines = ["file,colour,patient"] + [
        f"{name},{file.parent.name},{i // 2}" for i, (name, file) in enumerate(zip(names, files, strict=True))
    ]
    path = table(tmp_path / "set", lines)
    for source in (path, tmp_path / "set"):
        reading = read_dataset(source, target="colour", group="patient")
        assert [row["image"] for row in reading.dataset] == [str(file) for file in files]
        assert [row["label"] for row in reading.dataset] == [file.parent.name for file in files]
        assert reading.dataset.rows[3]["group"] == "1"
        assert reading.facts["input"] == ["file"]
    assert [row["image"] for row in read_inputs(path)] == [str(file) for file in files]


def test_missing_images_and_names_that_lead_out_are_left_out(tmp_path):
    folder = pictures.folder(tmp_path / "set", each=1)
    pictures.scene("dark", 3).save(tmp_path / "outside.jpg")
    lines = ["image,label", *(f"{c}/{c}-0.jpg,{c}" for c in CLASSES), "gone.jpg,dark", "../outside.jpg,dark"]
    reading = read_dataset(table(folder, lines))
    assert len(reading.dataset) == 3
    assert [place.number for place, _ in reading.skipped] == [5, 6]


def scenes(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pictures.scene("dark", number).save(folder / name)
    return [str(folder / name) for name in names]


def test_equal_file_names_are_told_apart_by_their_folders(tmp_path):
    files = scenes(tmp_path, "images/cat/0.png", "images/dog/0.png")
    path = table(tmp_path, ["image,label", "cat/0.png,cat", "dog/0.png,dog"])
    assert [(row["image"], row["label"]) for row in read_dataset(path).dataset] == [
        (files[0], "cat"),
        (files[1], "dog"),
    ]
    assert [row["image"] for row in read_inputs(path)] == files


def test_each_name_is_found_by_itself(tmp_path):
    files = scenes(tmp_path, "direct.png", "images/below.png")
    path = table(tmp_path, ["image,label", "direct.png,a", "below.png,b"])
    assert [row["image"] for row in read_dataset(path).dataset] == files


def test_a_name_that_two_files_have_is_left_out(tmp_path):
    files = scenes(tmp_path, "images/cat/0.png", "images/dog/0.png", "images/dog/1.png")
    path = table(tmp_path, ["image,label", "0.png,cat", "1.png,dog"])
    reading = read_dataset(path)
    assert [row["image"] for row in reading.dataset] == files[2:]
    ((place, why),) = reading.skipped
    assert place.number == 2
    assert "2 images" in why
    assert "images/cat/0.png" in why
    with pytest.raises(DataError, match="2 images") as caught:
        read_inputs(path)
    assert "line 2" in caught.value.where


def test_names_to_predict_never_become_other_images(tmp_path):
    scenes(tmp_path, "set/0.png", "set/1.png", "0.png")
    lines = ["image,label", "0.png,a", "1.png,b", "gone/0.png,a"]
    assert read_inputs(table(tmp_path / "set", lines))[2]["image"] == str(tmp_path / "set" / "gone" / "0.png")
    with pytest.raises(DataError, match="leads out"):
        read_inputs(table(tmp_path / "set", [*lines, "../0.png,b"]))


def test_a_long_table_is_claimed_by_its_head(tmp_path, monkeypatch):
    scenes(tmp_path, "0.png")
    rows = [f'0.png,"two\nlines and ""quotes""",{"ab"[i % 2]}' for i in range(3000)]
    path = table(tmp_path, ["image,caption,label", *rows])
    text = ["text,label", *(f'"I sent photo.jpg, number {i},\nto you",{"ab"[i % 2]}' for i in range(3000))]
    tickets = table(tmp_path, text, "tickets.csv")
    sizes = []
    read = Csv.read
    monkeypatch.setattr(
        Csv, "read", lambda self, content, *a, **k: sizes.append(len(content)) or read(self, content, *a, **k)
    )
    assert ImageTable().claims(path)
    assert not ImageTable().claims(tickets)
    assert len(sizes) == 2
    assert max(sizes) <= 1 << 16
    assert len(ImageTable().inputs(path, None)) == 3000


def test_a_text_that_ends_like_an_image_is_no_file(tmp_path):
    lines = ["text,label", *(f"{'long ' * 100}{i} photo.jpg,{'ab'[i % 2]}" for i in range(9))]
    assert not ImageTable().claims(table(tmp_path, lines, "texts.csv"))


def test_a_table_of_texts_stays_one(tmp_path):
    path = table(tmp_path, ["text,label", "see photo.jpg please,a", "and cat.png,b"], "texts.csv")
    assert not ImageTable().claims(path)
    assert set(read_dataset(path).dataset.rows[0]) == {"text", "label"}


def arrays(path, **changes):
    random = np.random.default_rng(0)
    content = {}
    for part, count in {"train": 6, "val": 3, "test": 3}.items():
        content[f"{part}_images"] = random.integers(0, 256, (count, 9, 7), np.uint8)
        content[f"{part}_labels"] = (np.arange(count) % 2)[:, None]
    np.savez(path, **{**content, **changes})
    return path, content


def test_arrays_become_rows_that_carry_their_images(tmp_path):
    path, content = arrays(tmp_path / "tiny.npz")
    rows = read_dataset(path).dataset.rows
    assert [row["split"] for row in rows] == ["train"] * 6 + ["validation"] * 3 + ["test"] * 3
    assert [row["label"] for row in rows[:3]] == ["0", "1", "0"]
    np.testing.assert_array_equal(np.asarray(open_image(rows[1]["image"]))[..., 0], content["train_images"][1])
    assert len(read_inputs(path)) == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"train_images": np.zeros((6, 9, 7), np.float32)},
        {"train_labels": np.zeros((6, 3), np.int64)},
        {"train_images": np.asarray([{"a": 1}], object)},
    ],
)
def test_other_arrays_are_refused(tmp_path, changes):
    path, _ = arrays(tmp_path / "odd.npz", **changes)
    with pytest.raises(DataError):
        read_dataset(path)


@pytest.mark.parametrize("kind", [ImageFolder, ImageTable, Npz])
def test_nothing_else_is_claimed(kind, tmp_path):
    (tmp_path / "detection" / "images").mkdir(parents=True)
    (tmp_path / "detection" / "annotations").mkdir()
    pictures.scene("dark", 0).save(tmp_path / "detection" / "images" / "1.jpg")
    (tmp_path / "detection" / "annotations" / "1.xml").write_text("<annotation/>")
    (tmp_path / "fake.npz").write_bytes(b"PK nothing")
    for path in (tmp_path / "detection", tmp_path / "fake.npz", tmp_path / "missing", tmp_path / "missing.csv"):
        assert not kind().claims(path)


def test_the_readers_are_plug_ins():
    assert {"image_folder", "image_table", "npz"} <= set(registry.names("data"))
