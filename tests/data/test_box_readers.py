"""Readers of images with boxes: COCO, Pascal VOC, YOLO; the same rows whatever the format."""

import json
from collections import Counter

import pytest
import scenes
from PIL import Image

from budwood.core.errors import DataError
from budwood.data.coco import Coco
from budwood.data.image_folder import ImageFolder
from budwood.data.voc import Voc
from budwood.data.yolo import Yolo
from budwood.engine.collection import collection_of
from budwood.engine.reading import read_dataset, read_inputs
from budwood.stages.choosing import task_for


def objects(rows):
    """What is in each image, rounded to pixels, in one order."""
    return sorted(sorted((item["label"], *map(round, item["box"])) for item in row["label"]) for row in rows)


@pytest.mark.parametrize(("make", "kind"), [(scenes.voc, Voc), (scenes.coco, Coco), (scenes.yolo, Yolo)])
def test_every_format_gives_the_objects_that_were_drawn(tmp_path, make, kind):
    folder = make(tmp_path / "shapes")
    assert isinstance(collection_of(folder), kind)
    reading = read_dataset(folder)
    drawn = [{"label": found} for _, found in scenes.scenes(6)]
    assert objects(reading.dataset.rows) == objects(drawn)
    assert set(reading.dataset.rows[0]) == {"image", "sha256", "label"}
    assert not reading.skipped
    assert task_for("auto", reading.dataset.rows).name == "object_detection"
    assert len(read_inputs(folder)) == 6


def test_official_lists_name_the_splits(tmp_path):
    rows = read_dataset(scenes.voc(tmp_path / "shapes", splits={"train": 4, "val": 2, "test": 3})).dataset.rows
    assert Counter(row["split"] for row in rows) == {"train": 4, "validation": 2, "test": 3}


def test_an_image_of_several_lists_is_not_learnt_from(tmp_path):
    folder = scenes.voc(tmp_path / "shapes", splits={"train": 3, "test": 2})
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("".join(f"{n:03}\n" for n in range(5)))
    assert Counter(row["split"] for row in read_dataset(folder).dataset) == {"train": 3, "test": 2}


def test_folders_name_the_splits_of_yolo(tmp_path):
    rows = read_dataset(scenes.yolo(tmp_path / "shapes", {"train": 3, "valid": 2})).dataset.rows
    assert Counter(row["split"] for row in rows) == {"train": 3, "validation": 2}


@pytest.mark.parametrize("make", [scenes.voc, scenes.coco, scenes.yolo])
def test_folders_around_a_folder_do_not_matter(tmp_path, make):
    make(tmp_path / "archive" / "shapes")
    assert len(read_dataset(tmp_path / "archive").dataset) == 6


def test_files_in_split_folders_name_the_splits_of_coco(tmp_path):
    for split, first in (("train", 0), ("valid", 10), ("test", 20)):
        made = scenes.coco(tmp_path / "shapes" / split, 3, first)
        (made / "annotations.json").rename(made / "_annotations.coco.json")
    rows = read_dataset(tmp_path / "shapes").dataset.rows
    assert Counter(row["split"] for row in rows) == {"train": 3, "validation": 3, "test": 3}
    drawn = [{"label": found} for first in (0, 10, 20) for _, found in scenes.scenes(3, first)]
    assert objects(rows) == objects(drawn), "files of equal names in different folders are told apart"


def test_one_coco_file_is_read_with_the_images_beside_it(tmp_path):
    folder = scenes.coco(tmp_path / "shapes")
    assert len(read_dataset(folder / "annotations.json").dataset) == 6
    (folder / "annotations").mkdir()
    (folder / "annotations.json").rename(folder / "annotations" / "instances_all.json")
    assert len(read_dataset(folder / "annotations" / "instances_all.json").dataset) == 6


def test_crowds_and_images_without_objects_are_kept(tmp_path):
    folder = scenes.coco(tmp_path / "shapes", 3)
    content = json.loads((folder / "annotations.json").read_text())
    first = content["images"][0]["id"]
    content["annotations"] = [item | {"iscrowd": 1} for item in content["annotations"] if item["image_id"] == first]
    (folder / "annotations.json").write_text(json.dumps(content))
    reading = read_dataset(folder)
    assert all(item["crowd"] for item in reading.dataset.rows[0]["label"])
    assert [row["label"] for row in reading.dataset.rows[1:]] == [[], []]
    assert any(line.startswith("without objects=2") for line in reading.notes)


def test_groups_come_from_a_field_of_the_images(tmp_path):
    folder = scenes.coco(tmp_path / "shapes", 3)
    content = json.loads((folder / "annotations.json").read_text())
    content["images"] = [item | {"video": number // 2} for number, item in enumerate(content["images"])]
    (folder / "annotations.json").write_text(json.dumps(content))
    assert [row["group"] for row in read_dataset(folder, group="video").dataset] == ["0", "0", "1"]
    with pytest.raises(DataError, match="no 'patient'"):
        read_dataset(folder, group="patient")
    with pytest.raises(DataError, match="no columns") as caught:
        read_dataset(folder, target="label")
    assert caught.value.where == "--target"


def test_bad_files_and_boxes_stop_nothing(tmp_path):
    folder = scenes.voc(tmp_path / "shapes", 6)
    notes = folder / "Annotations"
    (notes / "000.xml").write_text("<annotation><filename>000.jpg")
    (notes / "001.xml").write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>&b;</annotation>")
    (notes / "002.xml").write_text("<annotation><object><name>dark</name></object></annotation>")
    (folder / "JPEGImages" / "003.jpg").write_bytes(b"\xff\xd8\xff no image")
    wrong = [{"label": "dark", "box": box} for box in ([50, 10, 20, 40], [500, 10, 600, 40], [10, 10, 900, 40])]
    (notes / "004.xml").write_text(scenes.xml("004.jpg", wrong))
    (notes / "005.xml").write_text(scenes.xml("missing.jpg", []))
    reading = read_dataset(folder)
    (kept, other) = reading.dataset.rows
    assert kept["label"] == [{"label": "dark", "box": [10.0, 10.0, float(scenes.WIDTH), 40.0]}]
    assert other["label"] == [], "an image is found by the name of its annotation"
    reasons = {place.source.rpartition("/")[2]: why for place, why in reading.skipped}
    assert sorted(reasons) == ["000.xml", "001.xml", "002.xml", "003.xml"]
    assert "entities" in reasons["001.xml"]
    assert "no box" in reasons["002.xml"]
    assert sum(line.startswith("left out=1 boxes") for line in reading.notes) == 2


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_an_image_that_is_stored_on_its_side_turn_with_it(tmp_path, orientation):
    """The annotation states the stored size, so its boxes are those of the stored image."""
    folder = scenes.voc(tmp_path / "shapes", 1)
    image, found = scenes.scene(0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(folder / "JPEGImages" / "000.jpg", exif=exif, quality=95)
    (row,) = read_dataset(folder).dataset.rows
    from budwood.engine.images import open_image

    shown = open_image(row["image"])
    assert shown.size == (scenes.HEIGHT, scenes.WIDTH)
    for item in row["label"]:
        inside = shown.crop([round(v) for v in item["box"]]).convert("L").resize((1, 1)).getpixel((0, 0))
        assert abs(inside - scenes.GROUND) > 60, "the box holds the coloured rectangle"
    upright = scenes.xml("000.jpg", found, (scenes.HEIGHT, scenes.WIDTH))
    (folder / "Annotations" / "000.xml").write_text(upright)
    (row,) = read_dataset(folder).dataset.rows
    kept = [i for i in found if i["box"][0] < scenes.HEIGHT - 1]
    assert [i["box"][:2] for i in row["label"]] == [i["box"][:2] for i in kept], "drawn on the shown image: as they are"


def test_yolo_lines_of_polygons_and_unknown_classes(tmp_path):
    folder = scenes.yolo(tmp_path / "shapes", {"": 1})
    (folder / "labels" / "000.txt").write_text("0 0.25 0.25 0.5 0.25 0.5 0.75\n9 0.5 0.5 0.1 0.1\n1 0.5 x 0.1 0.1\n")
    reading = read_dataset(folder)
    box = [0.25 * scenes.WIDTH, 0.25 * scenes.HEIGHT, 0.5 * scenes.WIDTH, 0.75 * scenes.HEIGHT]
    assert reading.dataset.rows[0]["label"] == [{"label": "dark", "box": box}]
    assert [place.number for place, _ in reading.skipped] == [2, 3]


def test_yolo_files_beside_their_images_with_a_list_of_classes(tmp_path):
    folder = tmp_path / "shapes"
    folder.mkdir()
    image, _ = scenes.scene(0)
    for name in ("a", "b", "c"):
        image.save(folder / f"{name}.jpg")
    (folder / "classes.txt").write_text("cup\nplate\n")
    (folder / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (folder / "b.txt").write_text("")
    reading = read_dataset(folder)
    assert [[item["label"] for item in row["label"]] for row in reading.dataset] == [["plate"], []]
    assert any(line.startswith("unused=1 images") for line in reading.notes), "c is not annotated"


def test_other_folders_are_left_to_other_readers(tmp_path):
    import pictures

    shots = pictures.folder(tmp_path / "shots", each=2)
    (shots / "notes.xml").write_text("<notes/>")
    (shots / "settings.json").write_text('{"images": 3, "epochs": 4}')
    (shots / "readme.txt").write_text("1 day, 2 nights")
    assert isinstance(collection_of(shots), ImageFolder)
    for kind in (Coco, Voc, Yolo):
        assert not any(kind().claims(path) for path in (shots, tmp_path / "missing", shots / "settings.json"))


def test_the_official_lists_of_blood_cells(shared_data):
    reading = read_dataset(shared_data / "detection" / "bccd")
    assert Counter(row["split"] for row in reading.dataset) == {"train": 205, "validation": 87, "test": 72}
    assert sorted(reading.facts["objects"]) == ["Platelets", "RBC", "WBC"]
