"""Collections of boxes as they are found: names with folders, missing images, broken entries, misleading files."""

import json
from collections import Counter
from pathlib import Path

import pytest
import scenes

from budwood.core.errors import DataError
from budwood.data.coco import Coco
from budwood.data.voc import Voc
from budwood.data.yolo import Yolo
from budwood.engine.collection import collection_of
from budwood.engine.reading import read_dataset
from budwood.stages.diagnosing import diagnose_data

LINE = "0 0.5 0.5 0.25 0.25\n"
ONE = [{"label": "a", "box": [5, 5, 30, 30]}]


def picture(path, seed=0, size=(scenes.WIDTH, scenes.HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    scenes.scene(seed)[0].resize(size).save(path)
    return path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco_of(*names, categories=({"id": 1, "name": "x"},)):
    """One object in each image, its left edge telling which it is."""
    images = [
        {"id": i, "file_name": name, "width": scenes.WIDTH, "height": scenes.HEIGHT} for i, name in enumerate(names)
    ]
    marked = [{"id": i, "image_id": i, "category_id": 1, "bbox": [10 * i, 1, 10, 10]} for i in range(len(names))]
    return {"images": images, "annotations": marked, "categories": list(categories)}


def lefts(folder, **more):
    """The left edges of the boxes of each image."""
    rows = read_dataset(folder, **more).dataset.rows
    return {
        Path(row["image"]).relative_to(folder).as_posix(): [item["box"][0] for item in row["label"]] for row in rows
    }


def reasons(folder):
    return " | ".join(f"{place}: {why}" for place, why in read_dataset(folder).skipped)


@pytest.mark.parametrize("prefix", ["", "images/", "/data/somewhere/images/", "C:\\data\\images\\"])
def test_coco_names_with_folders_tell_images_apart(tmp_path, prefix):
    for seed, folder in enumerate("ab"):
        picture(tmp_path / "images" / folder / "1.png", seed)
    write(tmp_path / "all.json", coco_of(f"{prefix}a/1.png", f"{prefix}b/1.png"))
    assert lefts(tmp_path) == {"images/a/1.png": [0.0], "images/b/1.png": [10.0]}


@pytest.mark.parametrize("name", ["a/", "..", "", "x\0y.png", None, 3])
def test_coco_names_that_are_none_stop_nothing(tmp_path, name):
    picture(tmp_path / "1.png")
    write(tmp_path / "all.json", coco_of("1.png", name))
    assert lefts(tmp_path) == {"1.png": [0.0]}
    assert "all.json:2" in reasons(tmp_path)


def test_the_download_of_coco_is_read_as_it_is(tmp_path):
    """Captions and lists without annotations are left out; an image of two files is there once."""
    picture(tmp_path / "val2017" / "1.png")
    picture(tmp_path / "val2017" / "2.png", 1)
    notes = tmp_path / "annotations"
    content = coco_of("1.png", "2.png")
    write(notes / "instances_val2017.json", content)
    people = content | {"annotations": [content["annotations"][0] | {"keypoints": [1, 2, 2]}]}
    write(notes / "person_keypoints_val2017.json", people)
    write(notes / "captions_val2017.json", {"images": content["images"], "annotations": [{"image_id": 1, "id": 3}]})
    write(notes / "image_info_test2017.json", {"images": content["images"], "categories": content["categories"]})
    reading = read_dataset(tmp_path)
    assert lefts(tmp_path) == {"val2017/1.png": [0.0], "val2017/2.png": [10.0]}
    assert {row["split"] for row in reading.dataset} == {"validation"}
    left_out = " ".join(line for line in reading.notes if line.startswith("left out="))
    assert "captions_val2017.json" in left_out
    assert "image_info_test2017.json" in left_out
    with pytest.raises(DataError, match="no list of categories"):
        read_dataset(notes / "captions_val2017.json")


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_a_missing_image_is_not_replaced_by_one_of_another_split(tmp_path, kind):
    for split in ("train", "valid"):
        if kind == "coco":
            write(tmp_path / split / "_annotations.coco.json", coco_of("1.png"))
        elif kind == "voc":
            write(tmp_path / split / "1.xml", scenes.xml("1.png", ONE))
        else:
            write(tmp_path / split / "labels" / "1.txt", LINE)
    write(tmp_path / "data.yaml", "names: [cat]\n")
    where = "train/images" if kind == "yolo" else "train"
    picture(tmp_path / where / "1.png")
    assert list(lefts(tmp_path)) == [f"{where}/1.png"]
    assert "there is no image" in reasons(tmp_path)


def test_a_missing_image_is_not_replaced_by_one_that_another_annotation_has(tmp_path):
    picture(tmp_path / "images" / "1.png")
    for part in ("a", "b"):
        write(tmp_path / "labels" / part / "1.txt", LINE)
    write(tmp_path / "data.yaml", "names: [cat]\n")
    assert len(read_dataset(tmp_path).dataset) == 1
    assert "belongs to another annotation" in reasons(tmp_path)


def test_files_called_by_splits_may_share_a_folder_of_images(tmp_path):
    for number in range(2):
        picture(tmp_path / "train2014" / f"{number}.png", number)
    write(tmp_path / "annotations" / "train.json", coco_of("0.png"))
    write(tmp_path / "annotations" / "val.json", coco_of("1.png"))
    assert Counter(row["split"] for row in read_dataset(tmp_path).dataset) == {"train": 1, "validation": 1}


@pytest.mark.parametrize("where", ["images", "annotations", "categories"])
def test_ids_of_coco_agree_as_texts_and_as_numbers(tmp_path, where):
    picture(tmp_path / "1.png")
    content = coco_of("1.png")
    for item in content[where]:
        for key in ("id", "image_id", "category_id"):
            if key in item:
                item[key] = str(item[key])
    write(tmp_path / "all.json", content)
    assert lefts(tmp_path) == {"1.png": [0.0]}


def test_an_image_without_a_usable_object_teaches_nothing(tmp_path):
    """Only an annotation that was empty says that nothing is there."""
    for number in range(6):
        picture(tmp_path / "images" / f"{number}.png", number)
    lines = [LINE, "", "9 0.5 0.5 0.1 0.1\n", "\0\1binary", "0 3.5 3.5 0.1 0.1\n", f"{LINE}9 0.5 0.5 0.1 0.1\n"]
    for number, line in enumerate(lines):
        write(tmp_path / "labels" / f"{number}.txt", line)
    write(tmp_path / "data.yaml", "names: [cat]\n")
    assert {name: len(found) for name, found in lefts(tmp_path).items()} == {
        "images/0.png": 1,
        "images/1.png": 0,
        "images/5.png": 1,
    }
    found = reasons(tmp_path)
    for number in (2, 3, 4):
        assert f"labels/{number}.txt:1: none of its 1 objects can be used" in found
    assert "labels/5.txt line:2: there is no class 9" in found, "a line has another place than its image"
    empty = next(item for item in diagnose_data(tmp_path, None, None, None, None).findings if item.kind == "no_objects")
    assert [place.source for place in empty.rows] == ["labels/1.txt"], "the doctor takes no other for empty"


def test_objects_of_images_that_are_not_listed_are_counted(tmp_path):
    picture(tmp_path / "1.png")
    content = coco_of("1.png")
    content["annotations"] += [{"image_id": 9, "category_id": 1, "bbox": [1, 1, 5, 5]}] * 2
    write(tmp_path / "all.json", content)
    assert "2 objects are of images that the file does not list, such as '9'" in reasons(tmp_path)


def test_images_that_were_resized_after_annotating_are_left_out(tmp_path):
    picture(tmp_path / "1.png")
    picture(tmp_path / "2.png", size=(48, 36))
    write(tmp_path / "all.json", coco_of("1.png", "2.png"))
    assert lefts(tmp_path) == {"1.png": [0.0]}
    assert "the image is 48 × 36 and its annotation of 96 × 72" in reasons(tmp_path)
    picture(tmp_path / "1.png", size=(48, 36))
    with pytest.raises(DataError, match="not one annotation") as caught:
        read_dataset(tmp_path)
    assert "budwood doctor" in caught.value.fix


@pytest.mark.parametrize("years", [("VOC2007",), ("VOC2007", "VOC2012")])
def test_voc_of_several_years_is_one_collection(tmp_path, years):
    for number, year in enumerate(years):
        scenes.voc(tmp_path / "VOCdevkit" / year, splits={"train": 2, "test": 1}, first=3 * number)
    for folder in (tmp_path, tmp_path / "VOCdevkit"):
        assert isinstance(collection_of(folder), Voc)
        rows = read_dataset(folder).dataset.rows
        assert len({row["image"] for row in rows}) == len(rows) == 3 * len(years)
        assert Counter(row["split"] for row in rows) == {"train": 2 * len(years), "test": len(years)}


def test_lists_of_voc_may_name_suffixes_folders_and_spaces(tmp_path):
    folder = scenes.voc(tmp_path / "shapes", 4)
    for suffix, where in ((".xml", "Annotations"), (".jpg", "JPEGImages")):
        (folder / where / f"003{suffix}").rename(folder / where / f"a b{suffix}")
    lists = folder / "ImageSets" / "Main"
    write(lists / "train.txt", "000.jpg\nJPEGImages/001\n")
    write(lists / "test.txt", "002 -1\na b  1\nmissing\n")
    reading = read_dataset(folder)
    assert {Path(row["image"]).stem: row["split"] for row in reading.dataset} == {
        "000": "train",
        "001": "train",
        "002": "test",
        "a b": "test",
    }
    assert any(line.startswith("not found=1 names") and "missing" in line for line in reading.notes)


def test_an_annotation_goes_with_the_image_of_its_own_name(tmp_path):
    for number in range(3):
        picture(tmp_path / f"{number}.jpg", number)
        write(tmp_path / f"{number}.xml", scenes.xml("0.jpg", [{"label": "a", "box": [number, 5, 30, 30]}]))
    assert lefts(tmp_path) == {"0.jpg": [0.0], "1.jpg": [1.0], "2.jpg": [2.0]}
    assert any(line.startswith("stale names=2 XML files") for line in read_dataset(tmp_path).notes)


@pytest.mark.parametrize("where", ["annotations", ""])
def test_images_are_found_above_and_below_their_annotations(tmp_path, where):
    picture(tmp_path / ("" if where else "images") / "1.jpg")
    write(tmp_path / where / "1.xml", scenes.xml("1.jpg", ONE))
    assert isinstance(collection_of(tmp_path), Voc)
    assert len(read_dataset(tmp_path).dataset) == 1


def test_xml_is_decoded_by_what_it_declares(tmp_path):
    text = scenes.xml("1.jpg", [{"label": "猫", "box": [5, 5, 30, 30]}])
    for number, encoding in enumerate(("gbk", "utf-16", "utf-8", "utf-8-sig")):
        picture(tmp_path / f"{number}.jpg", number)
        head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>'
        (tmp_path / f"{number}.xml").write_bytes((head + text).encode(encoding))
    for number, encoding in ((4, "foo"), (5, "hex"), (6, "ascii")):
        picture(tmp_path / f"{number}.jpg", number)
        (tmp_path / f"{number}.xml").write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode())
    reading = read_dataset(tmp_path)
    assert [row["label"][0]["label"] for row in reading.dataset] == ["猫"] * 4
    assert sorted(place.source for place, _ in reading.skipped) == ["4.xml", "5.xml", "6.xml"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-7"])
def test_entities_are_refused_in_every_encoding(tmp_path, encoding):
    nested = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 9))
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY a0 "zzzzzzzzzz">{nested}]>'
    folder = scenes.voc(tmp_path / "shapes", 2)
    (folder / "Annotations" / "001.xml").write_bytes(f"{text}<annotation>&a8;</annotation>".encode(encoding))
    assert len(read_dataset(folder).dataset) == 1
    assert "entities" in reasons(folder)


def test_one_bad_object_of_voc_costs_no_other(tmp_path):
    picture(tmp_path / "1.jpg")
    more = "<object><name>b</name><polygon/></object></annotation>"
    write(tmp_path / "1.xml", scenes.xml("1.jpg", ONE).replace("</annotation>", more))
    assert lefts(tmp_path) == {"1.jpg": [5.0]}
    assert "1.xml objects:2: an object has no name or no box" in reasons(tmp_path)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("images", {"width": "abc"}),
        ("images", {"width": 1e999}),
        ("images", {"id": [1]}),
        ("images", {"id": None}),
        ("annotations", {"image_id": [1]}),
        ("annotations", {"category_id": [1]}),
        ("annotations", {"bbox": None}),
        ("annotations", {"bbox": [1, 2, 3]}),
        ("annotations", {"bbox": [float("nan")] * 4}),
        ("categories", {"name": None, "id": {}}),
    ],
)
def test_one_bad_entry_of_coco_stops_nothing(tmp_path, part, change):
    for number in range(2):
        picture(tmp_path / f"{number}.png", number)
    content = coco_of("0.png", "1.png", categories=({"id": 1, "name": "x"}, {"id": 2, "name": "y"}))
    content[part][1] |= change
    write(tmp_path / "all.json", content)
    assert lefts(tmp_path)["0.png"] == [0.0]
    assert reasons(tmp_path)
    content[part][1] = "text"
    write(tmp_path / "all.json", content)
    assert lefts(tmp_path)["0.png"] == [0.0]


def test_a_category_without_a_name_takes_its_objects_along(tmp_path):
    picture(tmp_path / "0.png")
    write(tmp_path / "all.json", coco_of("0.png", categories=({"id": 1},)))
    with pytest.raises(DataError, match="not one annotation"):
        read_dataset(tmp_path)


def test_one_broken_coco_file_of_several_is_named(tmp_path):
    picture(tmp_path / "0.png")
    write(tmp_path / "a.json", coco_of("0.png"))
    write(tmp_path / "b.json", '{"images": [{"file_name": ')
    assert lefts(tmp_path) == {"0.png": [0.0]}
    assert "b.json:1" in reasons(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        " " + LINE,
        "\ufeff" + LINE,
        "\n" + LINE,
        "0.0 0.5 0.5 0.25 0.25",
        "0 +0.5 5e-1 .25 0.25",
        "0\t0.5\t0.5\t0.25\t0.25",
    ],
)
def test_yolo_lines_are_read_however_they_are_written(tmp_path, line):
    picture(tmp_path / "images" / "1.png")
    write(tmp_path / "labels" / "1.txt", line)
    write(tmp_path / "data.yaml", "names: [cat]\n")
    assert isinstance(collection_of(tmp_path), Yolo)
    assert lefts(tmp_path) == {"images/1.png": [0.375 * scenes.WIDTH]}


def test_yolo_begins_with_many_images_without_objects(tmp_path):
    for number in range(22):
        write(tmp_path / "labels" / f"{number:02}.txt", LINE if number == 21 else "")
    write(tmp_path / "data.yaml", "names: [cat]\n")
    assert Yolo().claims(tmp_path)


@pytest.mark.parametrize("stated", [True, False])
def test_yolo_lists_name_the_splits(tmp_path, stated):
    for number in range(4):
        picture(tmp_path / "images" / f"{number}.png", number)
        write(tmp_path / "labels" / f"{number}.txt", LINE)
    train, held = ("learn.txt", "look.txt") if stated else ("train.txt", "val.txt")
    write(tmp_path / train, "./images/0.png\nimages/1.png\nimages/3.png\n")
    write(tmp_path / held, "data/images/2.png\n")
    write(tmp_path / "test.txt", f"{tmp_path}/images/3.png\n")
    parts = f"train: {train}\nval: [{held}]\ntest: test.txt\n" if stated else ""
    write(tmp_path / "data.yaml", f"path: .\n{parts}names: [cat]\n")
    rows = read_dataset(tmp_path).dataset.rows
    assert [row["split"] for row in rows] == ["train", "train", "validation", "test"]


def test_yolo_folders_of_any_name_are_the_splits_that_are_stated(tmp_path):
    for number, part in enumerate(("old", "new")):
        picture(tmp_path / part / "images" / f"{number}.png", number)
        write(tmp_path / part / "labels" / f"{number}.txt", LINE)
    write(tmp_path / "data.yaml", "train: ../old/images\nval: new/images\nnames: [cat]\n")
    assert [row["split"] for row in read_dataset(tmp_path).dataset] == ["validation", "train"]


@pytest.mark.parametrize("path", ["../data", '"../data"  # here'])
def test_a_yaml_file_may_lie_elsewhere(tmp_path, path):
    picture(tmp_path / "data" / "images" / "1.png")
    write(tmp_path / "data" / "labels" / "1.txt", LINE)
    file = write(tmp_path / "settings" / "my.yaml", f"path: {path}\nnames: [cat]\n")
    assert isinstance(collection_of(file), Yolo)
    assert [row["label"][0]["label"] for row in read_dataset(file).dataset] == ["cat"]


def test_poses_are_boxes_and_not_polygons(tmp_path):
    picture(tmp_path / "images" / "1.png")
    write(tmp_path / "labels" / "1.txt", "0 0.5 0.5 0.25 0.25 0.1 0.1 0.9 0.9\n")
    write(tmp_path / "data.yaml", "kpt_shape: [2, 2]\nnames: [cat]\n")
    assert lefts(tmp_path) == {"images/1.png": [0.375 * scenes.WIDTH]}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data.yaml", "names: [yes, no, 3]\n"),
        ("data.yaml", "names:\n  0: yes\n  2: '3'\n"),
        ("data.yaml", '{"names": ["yes", "no", "3"]}\n'),
        ("classes.txt", "yes\n\n3\n"),
    ],
)
def test_names_of_yolo_stay_as_they_are_written(tmp_path, file, content):
    picture(tmp_path / "images" / "1.png")
    write(tmp_path / "labels" / "1.txt", LINE + LINE.replace("0 0.5 0.5", "2 0.3 0.3"))
    write(tmp_path / file, content)
    assert [item["label"] for item in read_dataset(tmp_path).dataset.rows[0]["label"]] == ["yes", "3"]


def test_names_that_grow_without_end_are_refused(tmp_path):
    picture(tmp_path / "images" / "1.png")
    write(tmp_path / "labels" / "1.txt", LINE)
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
    for names in (f"{bomb}names: [*a39]\n", "names: {0: [a]}\n", "names: cat\n", f"names: {'[' * 5000}\n"):
        write(tmp_path / "data.yaml", names)
        with pytest.raises(DataError, match="names of the classes"):
            read_dataset(tmp_path)


def test_the_name_of_the_data_says_no_split(tmp_path):
    folder = scenes.coco(tmp_path / "My test images", 3)
    assert all("split" not in row for row in read_dataset(folder).dataset)
    assert isinstance(collection_of(folder), Coco)
