"""What a verb refuses before it works for long, and inputs that are odd but right."""

import json
from pathlib import Path

import pytest
import tiny

torch = pytest.importorskip("torch")

from budwood import flow  # noqa: E402
from budwood.core.bundle import Bundle  # noqa: E402
from budwood.core.errors import BundleError, DataError, UsageError  # noqa: E402
from budwood.engine import planning  # noqa: E402


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def store(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusals")
    flow.adapt(
        table(folder / "t.jsonl", tiny.rows(8)), base=str(tiny_bert), method="head", name="t", store=folder / "models"
    )
    return folder / "models"


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("name", "No Such Name", "--name"),
        ("seed", -1, "--seed"),
        ("seed", 2**40, "--seed"),
        ("max_minutes", 0, "--max"),
    ],
)
def test_adapt_and_shrink_refuse_a_wrong_value_before_any_work(
    store: Path, tmp_path: Path, field: str, value: object, where: str
) -> None:
    with pytest.raises(UsageError) as caught:
        flow.adapt(table(tmp_path / "t.jsonl", tiny.rows(8)), store=tmp_path / "new", **{field: value})
    assert caught.value.where.startswith(where)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError) as caught:
        flow.shrink("t", store=store, **{field: value})
    assert caught.value.where.startswith(where)


def test_an_adapted_model_is_a_base_for_other_labels(store: Path, tmp_path: Path) -> None:
    rows = [row | {"label": "good" if row["label"] == "praise" else "bad"} for row in tiny.rows(8)]
    base = store / "t" / "1"
    made = flow.adapt(
        table(tmp_path / "two.jsonl", rows), base=str(base), method="head", name="two", store=tmp_path / "models"
    )
    bundle = Bundle.open(made.path)
    assert bundle.manifest.task is not None
    assert bundle.manifest.task["labels"] == ["bad", "good"]
    assert [step.name for step in bundle.manifest.history].count("adapt.head") == 2


def test_a_quantized_model_is_no_base(tmp_path: Path) -> None:
    def write(stage: Path) -> None:
        (stage / "onnx").mkdir()
        tiny.write_files(tmp_path / "files")
        (stage / "onnx" / "model_quantized.onnx").write_bytes((tmp_path / "files/onnx/model.onnx").read_bytes())

    (tmp_path / "files").mkdir()
    Bundle.create(tmp_path / "int8", tiny.draft(), write)
    with pytest.raises(BundleError, match="no float weights"):
        flow.adapt(table(tmp_path / "t.jsonl", tiny.rows(8)), base=str(tmp_path / "int8"), store=tmp_path / "models")


def test_lists_of_labels_do_not_suit_a_model_of_one_label(store: Path, tiny_bert: Path, tmp_path: Path) -> None:
    several = table(tmp_path / "several.jsonl", [row | {"label": [row["label"]]} for row in tiny.rows(2)])
    with pytest.raises(DataError, match="none of the labels"):
        flow.evaluate("t", several, store=store)
    with pytest.raises(DataError, match="lists of labels"):
        flow.adapt(
            table(tmp_path / "t.jsonl", tiny.rows(8)), test=several, base=str(tiny_bert), store=tmp_path / "models"
        )


def test_only_test_rows_are_scored_and_unknown_labels_are_counted(store: Path, tmp_path: Path) -> None:
    rows = [row | {"split": "test" if i % 3 == 0 else "train"} for i, row in enumerate(tiny.rows(4))]
    rows[0] = rows[0] | {"label": "never seen"}
    found = flow.evaluate("t", table(tmp_path / "t.jsonl", rows), store=store)
    assert found.n == 12
    assert found.metrics["rows_with_unknown_label"] == 1


def test_an_export_looks_for_its_folder_first(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already exists"):
        flow.export("t", tmp_path, store=store)


def test_what_is_said_of_images_is_refused_for_texts(tmp_path: Path) -> None:
    data = table(tmp_path / "t.jsonl", tiny.rows(6))
    for verb in (flow.adapt, flow.plan):
        with pytest.raises(UsageError, match="text_classification has no option 'flip'") as caught:
            verb(data, options={"flip": False}, store=tmp_path / "models")
        assert (caught.value.where, caught.value.fix) == ("--no-flip", "leave out --no-flip")


def test_two_labelled_rows_are_learnt_from(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "UPDATES", 3)
    rows = [row for row in tiny.rows(1) if row["label"] != "refund"]
    made = flow.adapt(
        table(tmp_path / "t.jsonl", rows),
        test=table(tmp_path / "test.jsonl", tiny.rows(3)[9:]),
        shots=1,
        base=str(tiny_bert),
        name="t",
        store=tmp_path / "models",
    )
    assert (made.n_train, made.baseline.method) == (2, "head")
