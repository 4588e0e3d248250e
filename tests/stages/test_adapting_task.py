"""Which task `adapt` learns: it is told from all rows, once, and named where the rows say something else."""

from pathlib import Path
from typing import Any

import pictures
import pytest
from PIL import Image

from budwood import flow
from budwood.core.errors import DataError
from budwood.core.store import Store
from budwood.engine.bases import Found
from budwood.stages import adapting


def silent(what: str, step: int, total: int, note: str) -> None: ...


def table(folder: Path, labels: list[Any], name: str = "table.csv", column: str = "label") -> Path:
    folder.mkdir(exist_ok=True)
    lines = [f"image,{column}"]
    for number, label in enumerate(labels):
        file = f"{name[:-4]}-{number}.png"
        Image.new("RGB", (9, 9), (number % 256, number // 256, len(name))).save(folder / file)
        lines.append(f'{file},"{label}"')
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def job(data: Path, **options: Any) -> adapting.Job:
    given = {"target": None, "input": None, "group": None, "test": None, "shots": None} | options
    return adapting.Job(data, given.pop("task", "auto"), "auto", None, method="head", seed=0, max_minutes=None,
        fresh=False, **given)  # fmt: skip


def planned(monkeypatch: pytest.MonkeyPatch, wanted: adapting.Job, folder: Path) -> Any:
    monkeypatch.setattr(adapting, "find_base", lambda *args: Found(folder, "none", "no network is needed to plan"))
    splits, kind = adapting.read(wanted, silent)
    return adapting.plan_task(wanted, kind, splits, Store(folder / "models"))[0]


def test_the_task_is_told_from_all_rows_and_stays_when_few_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = table(tmp_path / "digits", [number % 10 for number in range(300)])
    for shots in (None, 1, 5):
        assert planned(monkeypatch, job(data, shots=shots), tmp_path).name == "image_classification"


def test_one_cell_that_is_no_number_is_named_and_turns_no_amounts_into_classes(tmp_path: Path) -> None:
    for place, odd in enumerate(["unknown", "1,200", "$500", "inf"]):
        data = table(tmp_path / str(place), [*(100 + 7 * number for number in range(60)), odd])
        with pytest.raises(DataError, match="is not a number") as caught:
            adapting.read(job(data), silent)
        assert odd in str(caught.value)
        assert "doctor" in str(caught.value.fix)


def test_folders_called_by_numbers_are_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for digit in range(12):
        for number in range(2):
            place = tmp_path / "digits" / str(digit)
            place.mkdir(parents=True, exist_ok=True)
            pictures.scene("light", 10 * digit + number).save(place / f"{number}.png")
    assert planned(monkeypatch, job(tmp_path / "digits"), tmp_path).name == "image_classification"


@pytest.mark.parametrize(("labels", "odd"), [(["yes", "no"], "maybe"), (["yes", "no"], "7")])
def test_a_label_that_only_the_test_rows_have_is_named_by_its_image_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[str], odd: str
) -> None:
    data = table(tmp_path / "data", labels * 20)
    test = table(tmp_path / "test", [*labels * 3, odd])
    with pytest.raises(DataError, match=f"'{odd}' is unknown") as caught:
        planned(monkeypatch, job(data, test=test, task="image_regression"), tmp_path)
    assert caught.value.where == f"the test rows: {tmp_path / 'test' / 'table-6.png'}"
    assert caught.value.fix == "known labels: no, yes"


def test_test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    images = table(tmp_path / "images", ["yes", "no"] * 10)
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\n" + "".join(f"a text of number {n},{'ab'[n % 2]}\n" for n in range(40)))
    with pytest.raises(DataError, match="which the test rows do not have"):
        adapting.read(job(texts, test=images), silent)
    for data, test in ((texts, images), (images, texts)):
        with pytest.raises(DataError, match="the data have the field"):
            flow.doctor(data, test=test)


def test_two_columns_are_no_classes(tmp_path: Path) -> None:
    data = table(tmp_path / "hearts", [f'{n + 1}","{n % 2}' for n in range(40)], column="days,died")
    with pytest.raises(DataError, match="classes stand in one column, and these are days, died") as caught:
        adapting.read(job(data, target="days,died", task="image_classification"), silent)
    assert caught.value.where == "--target"
    assert adapting.read(job(data, target="days,died"), silent)[1].name == "image_regression"


@pytest.mark.parametrize("unit", ["1e200", "1e-200"])
def test_numbers_beyond_what_floats_can_square_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    data = table(tmp_path / "far", [f"{n + 1}.5{unit[1:]}" for n in range(40)])
    with pytest.raises(DataError, match=r"too large to learn|too little to be told apart"):
        planned(monkeypatch, job(data), tmp_path)
    assert flow.doctor(data)


def test_decimal_commas_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    data = table(tmp_path / "greys", [f"{n},{n % 7}" for n in range(60)])
    splits, kind = adapting.read(job(data), lambda what, step, total, note: said.append(note))
    assert kind.name == "image_regression"
    assert splits.train.rows[0]["label"].replace(".", "").isdigit()
    assert any(note.startswith("decimal comma=60 rows") for note in said)
