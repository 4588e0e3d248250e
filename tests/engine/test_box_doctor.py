"""The data doctor for boxes: each fault is found with its rows, and --fix writes a copy without it."""

import json
import shutil

import pytest
import scenes

from budwood.core.errors import DataError, UsageError
from budwood.engine.reading import read_dataset
from budwood.stages.diagnosing import diagnose_data

BOXES = {"dark": (10.0, 10.0, 40.0, 40.0)}


def found(path, **more):
    result = diagnose_data(path, more.get("test"), None, None, more.get("fix"))
    return {item.kind: item for item in result.findings}


def annotate(folder, name, *objects, size=(scenes.WIDTH, scenes.HEIGHT)):
    things = [{"label": label, "box": box} for label, *box in objects]
    (folder / "Annotations" / f"{name}.xml").write_text(scenes.xml(f"{name}.jpg", things, size))


@pytest.fixture
def folder(tmp_path):
    return scenes.voc(tmp_path / "shapes", 24)


def test_good_data_have_no_findings(folder):
    assert not found(folder)


def test_faulty_boxes_are_found_and_mended(folder, tmp_path):
    annotate(folder, "000", ("dark", 40, 40, 10, 10))
    annotate(folder, "001", ("dark", 200, 10, 230, 40), ("light", 10, 10, 40, 40))
    annotate(folder, "002", ("dark", 60, 10, 140, 40))
    annotate(folder, "003", ("dark", 10, 10, 14, 14))
    annotate(folder, "004", ("dark", 10, 10, 40, 40), ("dark", 10, 10, 40, 39.5))
    annotate(folder, "005", ("dark", 10, 10, 40, 40), ("light", 10, 10, 40, 39.5))
    annotate(folder, "006", ("Dark", 10, 10, 40, 40))
    annotate(folder, "007")
    (folder / "Annotations" / "008.xml").write_text("<annotation>")
    (folder / "Annotations" / "009.xml").unlink()
    shutil.copy(folder / "JPEGImages" / "010.jpg", folder / "JPEGImages" / "011.jpg")
    findings = found(folder, fix=tmp_path / "mended")
    places = {kind: [place.source[-7:-4] for place in item.rows] for kind, item in findings.items()}
    expected = {
        "box_inverted": ["000"],
        "box_outside": ["001"],
        "box_over_edge": ["002"],
        "box_tiny": ["003"],
        "box_duplicate": ["004"],
        "box_conflict": ["005"],
        "label_spelling": ["006"],
        "no_objects": ["007"],
        "broken_annotation": ["008"],
        "no_annotation": ["008", "009"],
        "duplicate": ["011"],
    }
    assert {kind: places[kind] for kind in expected} == expected
    assert set(places) - set(expected) <= {"rare_class"}
    left = found(tmp_path / "mended")
    assert set(left) <= {"box_tiny", "box_conflict", "no_objects", "rare_class"}
    rows = {row["image"][-7:-4]: row["label"] for row in read_dataset(tmp_path / "mended").dataset}
    assert rows["001"] == [{"label": "light", "box": [10.0, 10.0, 40.0, 40.0]}]
    assert rows["002"] == [{"label": "dark", "box": [60.0, 10.0, float(scenes.WIDTH), 40.0]}]
    assert len(rows["004"]) == 1
    assert rows["006"][0]["label"] == "dark"
    assert not {"000", "008", "009", "011"} & set(rows)  # 000 has an object, of which only the box is wrong
    assert rows["007"] == []
    with pytest.raises(UsageError, match="already exists"):
        diagnose_data(folder, None, None, None, tmp_path / "mended")


def rewritten(folder, change):
    """The annotations with the numbers of every box changed."""
    content = json.loads((folder / "annotations.json").read_text())
    for item in content["annotations"]:
        item["bbox"] = [float(value) for value in change(*item["bbox"])]
    (folder / "annotations.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda x, y, w, h: (x, y, x + w, y + h), "corners, not left, top, width and height"),
        (lambda x, y, w, h: (x / 96, y / 72, w / 96, h / 72), "shares of the image, not pixels"),
        (lambda x, y, w, h: (x + w / 2, y + h / 2, w, h), "centre, width and height, not left, top, width and height"),
    ],
)
def test_numbers_in_another_convention_are_told_and_rewritten(tmp_path, change, name):
    folder = scenes.coco(tmp_path / "shapes", 30)
    drawn = read_dataset(folder).dataset.rows
    rewritten(folder, change)
    finding = found(folder, fix=tmp_path / "mended")["box_convention"]
    assert finding.severity == "error"
    assert name in finding.message
    assert "box_convention" not in found(tmp_path / "mended")
    again = {row["image"][-7:]: row["label"] for row in read_dataset(tmp_path / "mended").dataset}
    for row in drawn:
        for one, other in zip(row["label"], again[row["image"][-7:]], strict=True):
            assert one["label"] == other["label"]
            assert one["box"] == pytest.approx(other["box"], abs=0.1)


def test_sizes_that_were_read_as_corners_are_told(tmp_path):
    folder = scenes.voc(tmp_path / "shapes", 30)
    for number, (_, objects) in enumerate(scenes.scenes(30)):
        things = [(i["label"], *i["box"][:2], i["box"][2] - i["box"][0], i["box"][3] - i["box"][1]) for i in objects]
        annotate(folder, f"{number:03}", *things)
    assert "left, top, width and height, not corners" in found(folder)["box_convention"].message


def test_images_that_were_resized_after_annotating_are_found_and_scaled(tmp_path):
    folder = scenes.voc(tmp_path / "shapes", 12)
    annotate(folder, "003", ("dark", 20, 20, 80, 80), size=(2 * scenes.WIDTH, 2 * scenes.HEIGHT))
    finding = found(folder, fix=tmp_path / "mended")["image_size"]
    assert [place.source for place in finding.rows] == ["Annotations/003.xml"]
    rows = {row["image"][-7:-4]: row["label"] for row in read_dataset(tmp_path / "mended").dataset}
    assert rows["003"] == [{"label": "dark", "box": [10.0, 10.0, 40.0, 40.0]}]


def test_images_on_both_sides_of_a_split_are_leaks(tmp_path):
    folder = scenes.voc(tmp_path / "shapes", splits={"train": 12, "test": 6})
    shutil.copy(folder / "JPEGImages" / "015.jpg", folder / "JPEGImages" / "002.jpg")
    leak = found(folder, fix=tmp_path / "mended")["leakage"]
    assert (leak.severity, [place.source for place in leak.rows]) == ("error", ["Annotations/002.xml"])
    assert "leakage" not in found(tmp_path / "mended")
    other = scenes.voc(tmp_path / "other", 3)
    assert [place.source[-7:] for place in found(folder, test=other)["leakage"].rows][:3] == ["000.xml", "001.xml"][:3]


def test_an_image_that_is_listed_once_for_each_object_keeps_them_all(folder, tmp_path):
    boxes = [("dark", 10, 10, 30, 30), ("light", 40, 10, 60, 30), ("dark", 70, 10, 90, 30)]
    for number, mine in enumerate([boxes[:2], boxes[1:2], boxes[2:]]):
        annotate(folder, f"{number:03}", *mine)
        if number:
            shutil.copy(folder / "JPEGImages" / "000.jpg", folder / "JPEGImages" / f"{number:03}.jpg")
    assert len(found(folder, fix=tmp_path / "mended")["duplicate"].rows) == 2
    (row,) = (row for row in read_dataset(tmp_path / "mended").dataset if row["image"].endswith("000.jpg"))
    assert sorted(tuple(item["box"]) for item in row["label"]) == [tuple(map(float, box)) for _, *box in boxes]


def test_an_image_with_one_line_that_cannot_be_read_stays(tmp_path):
    data = scenes.yolo(tmp_path / "y", {"": 12})
    file = data / "labels" / "000.txt"
    file.write_text("9 0.5 0.5 0.1 0.1\n" + file.read_text())
    assert "broken_annotation" in found(data, fix=tmp_path / "mended")
    content = json.loads((tmp_path / "mended" / "_annotations.coco.json").read_text())
    assert len(content["images"]) == 12


def yolo_lines(data, change):
    """The label files with the four shares of every box changed."""
    for file in (data / "labels").glob("*.txt"):
        lines = [line.split() for line in file.read_text().splitlines()]
        made = [[name, *change(*(float(value) for value in values))] for name, *values in lines]
        file.write_text("".join(" ".join(map(str, words)) + "\n" for words in made))


def corners_in_pixels(x, y, w, h):
    wide, high = scenes.WIDTH, scenes.HEIGHT
    return round((x - w / 2) * wide), round((y - h / 2) * high), round((x + w / 2) * wide), round((y + h / 2) * high)


def sizes_in_pixels(x, y, w, h):
    left, top, right, bottom = corners_in_pixels(x, y, w, h)
    return left, top, right - left, bottom - top


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (corners_in_pixels, "corners in pixels, not centre"),
        (sizes_in_pixels, "left, top, width and height in pixels, not centre"),
    ],
)
def test_pixels_in_yolo_are_told_and_rewritten(tmp_path, change, name):
    data = scenes.yolo(tmp_path / "y", {"": 30})
    drawn = {row["image"][-7:]: row["label"] for row in read_dataset(data).dataset}
    yolo_lines(data, change)
    finding = found(data, fix=tmp_path / "mended")["box_convention"]
    assert (finding.severity, len(finding.rows)) == ("error", 30)
    assert name in finding.message
    again = {row["image"][-7:]: row["label"] for row in read_dataset(tmp_path / "mended").dataset}
    assert again.keys() == drawn.keys()
    for image, objects in drawn.items():
        for one, other in zip(objects, again[image], strict=True):
            assert one["box"] == pytest.approx(other["box"], abs=1)


def test_boxes_of_which_half_are_of_no_use_are_an_error_and_no_image_becomes_empty(tmp_path):
    data = scenes.voc(tmp_path / "shapes", 12)
    for number in range(12):
        box = (500, 500, 540, 540) if number < 5 else (40, 40, 10, 10) if number == 5 else (10, 10, 40, 40)
        annotate(data, f"{number:03}", ("dark", *box))
    findings = found(data, fix=tmp_path / "mended")
    for kind in ("box_outside", "box_inverted"):
        assert findings[kind].severity == "error"
        assert "in another convention" in findings[kind].message
    rows = read_dataset(tmp_path / "mended").dataset.rows
    assert sorted(row["image"][-7:-4] for row in rows) == [f"{number:03}" for number in range(6, 12)]
    annotate(data, "000", ("dark", 10, 10, 40, 40))
    assert found(data)["box_outside"].severity == "warning"


def test_a_copy_without_images_is_not_written(tmp_path):
    data = scenes.voc(tmp_path / "shapes", 4)
    for number in range(4):
        annotate(data, f"{number:03}", ("dark", 40, 40, 10, 10))
    with pytest.raises(DataError, match="no image would stay"):
        found(data, fix=tmp_path / "mended")
    assert not (tmp_path / "mended").exists()
