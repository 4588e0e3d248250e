"""Faults of image folders: each is found with its files, and `--fix` writes a folder without them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from budwood import flow
from budwood.core.dataset import Dataset
from budwood.core.errors import DataError, UsageError
from budwood.engine.image_doctor import write_images
from budwood.engine.reading import Reading, read_dataset
from budwood.engine.table import Place


def picture(path: Path, seed: int, edge: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
    Image.fromarray(coarse).resize((edge, edge), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for number in range(12):
        picture(root / "train" / ("cat", "dog")[number % 2] / f"{number}.png", number)
    for number in range(4):
        picture(root / "test" / ("cat", "dog")[number % 2] / f"{number}.png", 100 + number)
    return root


def kinds(folder: Path) -> dict[str, list[str]]:
    return {item.kind: [Path(place.source).name for place in item.rows] for item in flow.doctor(folder).findings}


def test_a_healthy_folder_has_no_findings(folder: Path) -> None:
    assert kinds(folder) == {}


def test_each_fault_is_found_with_its_files_and_mended(folder: Path, tmp_path: Path) -> None:
    train = folder / "train"
    (train / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    shutil.copy(train / "cat" / "0.png", train / "cat" / "again.png")
    shutil.copy(train / "dog" / "1.png", train / "cat" / "torn.png")
    shutil.copy(folder / "test" / "cat" / "0.png", train / "cat" / "leak.png")
    Image.open(train / "dog" / "3.png").resize((50, 50)).save(train / "dog" / "smaller.png")
    picture(train / "dog" / "tiny.png", 50, edge=20)
    found = kinds(folder)
    assert found["broken_image"] == ["broken.png"]
    assert found["duplicate"] == ["again.png"]
    assert sorted(found["conflict"]) == ["1.png", "torn.png"]
    assert found["leakage"] == ["leak.png"]
    assert set(found["near_duplicate"]) & {"smaller.png", "3.png"}
    assert found["tiny_image"] == ["tiny.png"]
    out = tmp_path / "mended"
    assert flow.doctor(folder, fix=out).fixed == out
    left = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert not any(name.endswith(("broken.png", "again.png", "torn.png", "leak.png")) for name in left)
    assert {"train/dog/tiny.png", "test/cat/0.png", "train/cat/0.png"} <= left
    assert "leakage" not in kinds(out)
    with pytest.raises(UsageError, match="already exists"):
        flow.doctor(folder, fix=out)


def test_copies_on_both_sides_are_told_from_copies_on_one(folder: Path) -> None:
    Image.open(folder / "test" / "cat" / "2.png").resize((48, 48)).save(folder / "train" / "cat" / "copy.png")
    assert kinds(folder)["near_leakage"] == ["copy.png"]


def test_what_is_mended_stays_in_its_folder_whatever_the_labels_are(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "mended"
    rows, places = [], []
    for number, label in enumerate(["..", ".", "a/b", "up", "/etc"] * 2):
        file = picture(data / f"part{number % 5}" / f"{number // 5}.png", number)
        rows.append({"image": str(file), "sha256": str(number), "label": label})
        places.append(Place(file.name, number))
    write_images(Reading(Dataset(tuple(rows), ("data",)), tuple(places), ()), [], out)
    assert set(tmp_path.iterdir()) == {data, out}
    found = {path.name: len(list(path.iterdir())) for path in out.iterdir()}
    assert found == {"-": 2, "--2": 2, "-etc": 2, "a-b": 2, "up": 2}


def test_an_image_without_a_label_is_no_broken_image(tmp_path: Path) -> None:
    lines = ["image,label"]
    for number in range(12):
        picture(tmp_path / f"{number}.png", number)
        lines.append(f"{number}.png,{('cat', 'dog', '')[number % 3]}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    found = {finding.kind: finding for finding in flow.doctor(tmp_path).findings}
    finding = found["empty_label"]
    assert finding.message == "4 images have no label"
    assert "broken_image" not in found
    assert [place.number for place in finding.rows] == [4, 7, 10, 13]


@pytest.mark.parametrize(("file", "target"), [("homes.csv", "price"), ("homes.jsonl", "price"), ("homes.csv", "kind")])
def test_a_mended_table_keeps_its_columns_and_their_names(tmp_path: Path, file: str, target: str) -> None:
    data, out = tmp_path / "data", tmp_path / "mended"
    rows = []
    for number in range(24):
        name = picture(data / "img" / f"{number % 3}" / f"{number // 3}.png", number).relative_to(data).as_posix()
        town, kind = f"t{number % 6}", "ab"[number % 2]
        rows.append({"photo": name, "price": 100_000 + 1_237 * number, "town": town, "kind": kind})
    rows[1]["price"], rows[1]["kind"] = "n/a", ""
    rows[2]["photo"] = "img/none.png"
    rows[4]["kind"] = "A"
    if file.endswith(".csv"):
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    (data / file).write_text("\n".join(lines) + "\n")
    flow.doctor(data, target=target, fix=out)
    assert not [item for item in flow.doctor(out, target=target).findings if item.severity == "error"]
    before, after = (
        {row["sha256"]: (row["label"], row["group"]) for row in read_dataset(folder, target, group="town").dataset}
        for folder in (data, out)
    )
    mended = {"n/a": None, "A": "a"}
    labels = {key: (mended.get(label, label), town) for key, (label, town) in before.items()}
    assert after == {key: pair for key, pair in labels.items() if pair[0] is not None}
    assert len(after) == 22
    assert (out / f"table{Path(file).suffix}").exists()


def test_a_mended_table_without_a_header_gets_one(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "mended"
    lines = [f"{picture(data / f'{number}.png', number).name},{('cat', 'dog')[number % 2]}" for number in range(12)]
    (data / "table.csv").write_text("\n".join(lines) + "\n")
    flow.doctor(data, fix=out)
    assert [row["label"] for row in read_dataset(out).dataset.rows] == ["cat", "dog"] * 6


def test_a_copy_without_images_is_not_written(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        picture(tmp_path / "data" / label / "same.png", 1)
    with pytest.raises(DataError, match="no image would stay"):
        flow.doctor(tmp_path / "data", fix=tmp_path / "mended")
    assert not (tmp_path / "mended").exists()
