"""Self-training: which unlabelled rows are sure enough, what is left out, and when the larger model ships."""

import json
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pictures
import pytest
import tiny

from budwood.core.dataset import Dataset
from budwood.core.errors import DataError, NotFoundError, UsageError
from budwood.engine.unlabelled import read_unlabelled
from budwood.stages import self_training
from budwood.stages.workbench import Job
from budwood.tasks.image_classification import ImageClassification
from budwood.tasks.text_classification import TextClassification

TASK = TextClassification(("a", "b"))
ROWS = [{"text": f"text {i}"} for i in range(40)]


def answers(labels: str, scores: list[float]) -> list[dict[str, object]]:
    return [{"label": label, "score": score} for label, score in zip(labels, scores, strict=True)]


def test_the_surest_rows_of_each_class_are_taken_and_no_class_outgrows_the_others() -> None:
    given = answers("a" * 30 + "b" * 10, [0.99 - 0.001 * i for i in range(30)] + [0.97] * 4 + [0.5] * 6)
    found = self_training.surest(given, ROWS, 0.9, Counter(a=6, b=6))
    assert found.per_class == {"a": 6, "b": 4}
    assert [row["text"] for row in found.rows[:6]] == [f"text {i}" for i in range(6)]
    assert {row["label"] for row in found.rows[6:]} == {"b"}
    # As many as the rarest class that was found has, where classes typically have fewer labels.
    assert self_training.surest(given, ROWS, 0.9, Counter(a=2, b=2)).per_class == {"a": 4, "b": 4}
    assert self_training.surest(given, ROWS, 0.995, Counter(a=6, b=6)).rows == ()


def test_a_class_never_gets_more_than_its_limit() -> None:
    many = [{"text": str(i)} for i in range(1300)]
    given = answers("ab" * 650, [0.99] * 1300)
    found = self_training.surest(given, many, 0.9, Counter(a=5000, b=5000))
    assert found.per_class == {"a": 500, "b": 500}


def test_the_threshold_is_where_answers_are_right_or_where_few_rows_promise_it() -> None:
    sure = np.linspace(0.99, 0.5, 100)
    right = (np.arange(100) < 40).astype(float)
    told = self_training.lowest_sure(sure, right)
    assert told is not None
    assert right[sure >= told].mean() >= 0.95
    assert right[sure >= told - 0.01].mean() < 0.95
    few = np.concatenate([np.full(8, 0.97), np.linspace(0.9, 0.5, 40)])
    correct = np.concatenate([np.ones(12), np.zeros(36)])
    promised = self_training.lowest_sure(few, correct)
    assert promised is not None
    assert 0.8 < promised < 0.97
    assert few[few >= promised].mean() >= 0.95
    assert self_training.lowest_sure(few, np.concatenate([[0.0, 0.0], np.ones(10), np.zeros(36)])) is None
    assert self_training.lowest_sure(np.zeros(0), np.zeros(0)) is None


def test_rows_with_the_content_of_another_or_a_labelled_row_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "more.csv"
    path.write_text("text,label\nText  1,x\nnew,x\nnew,y\nother,\n\n")
    found = read_unlabelled(path, None, TASK, [{"text": "text 1", "label": "a"}])
    assert sorted(row["text"] for row in found.dataset) == ["new", "other"]
    assert "unlabelled=2 rows  # of 4 in more.csv" in found.notes
    assert any(line.startswith("unlabelled=2 left out") for line in found.notes)
    with pytest.raises(DataError, match="not one row without a label"):
        read_unlabelled(path, None, TASK, [{"text": text} for text in ("text 1", "new", "other")])
    with pytest.raises(NotFoundError):
        read_unlabelled(tmp_path / "absent", None, TASK, [])


def test_the_order_of_rows_without_labels_does_not_matter(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(20)]
    found = []
    for name, order in (("a.csv", texts), ("b.csv", texts[::-1])):
        (tmp_path / name).write_text("\n".join(["text", *order]) + "\n")
        found.append(read_unlabelled(tmp_path / name, None, TASK, []).dataset)
    assert found[0].fingerprint == found[1].fingerprint
    assert found[0].rows == found[1].rows


def test_a_broken_image_stops_nothing_and_equal_images_count_once(tmp_path: Path) -> None:
    folder = tmp_path / "pile"
    folder.mkdir()
    for name, label, seed in (("a.png", "dark", 1), ("b.png", "dark", 1), ("c.png", "green", 2), ("d.png", "dark", 3)):
        pictures.scene(label, seed).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"not an image")
    task = ImageClassification(("dark", "green"))
    first = read_unlabelled(folder, None, task, [])
    rows = {Path(row["image"]).name: row for row in first.dataset}
    assert sorted(rows) == ["a.png", "c.png", "d.png"]
    assert all(len(row["sha256"]) == 64 for row in first.dataset)
    assert any(line.startswith("skipped=broken.jpg") for line in first.notes)
    held = [{"image": "elsewhere.png", "sha256": rows["c.png"]["sha256"], "label": "green"}]
    again = read_unlabelled(folder, None, task, held)
    assert sorted(Path(row["image"]).name for row in again.dataset) == ["a.png", "d.png"]
    with pytest.raises(DataError, match="no text, which text_classification learns from"):
        read_unlabelled(folder, None, TASK, [])


def test_a_task_without_one_sure_answer_is_refused(tmp_path: Path) -> None:
    empty = Dataset(())
    job = Job(tmp_path, "auto", "auto", None, None, None, None, None, "auto", None, 0, None, False)
    splits = replace(tiny.splits(), train=empty)
    assert self_training.read(job, TASK, splits) is None
    with pytest.raises(UsageError, match="cannot learn from rows without labels") as caught:
        self_training.read(replace(job, unlabelled=tmp_path), replace(TASK, multi_label=True), splits)
    assert caught.value.where == "--unlabelled"


def adapted(folder: Path, base: Path, **more: object) -> object:
    from budwood import flow

    data = folder / "tickets.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in tiny.rows(10)))
    return flow.adapt(data, base=str(base), method="head", name="tickets", store=folder / "models", **more)


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    path = tmp_path / "unlabelled.jsonl"
    texts = [f"{text} ({turn})" for turn in range(50, 60) for text in tiny.SENTENCES]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, tiny.SENTENCES[0]]))
    return path


def forced(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    """Held-out rows on which the second fit is better, or worse, by so much."""
    calls = iter((np.full(90, 0.5), np.full(90, 0.5 + gain) + np.linspace(-0.01, 0.01, 90)))
    monkeypatch.setattr(self_training.heads, "held_out", lambda *_: next(calls))


def test_a_better_model_ships_with_the_rows_on_record(
    tiny_bert: Path, tmp_path: Path, unlabelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from budwood.core.bundle import Bundle
    from budwood.core.store import Store

    forced(monkeypatch, 0.05)
    result = adapted(tmp_path, tiny_bert, unlabelled=unlabelled)
    facts = result.unlabelled
    assert facts["shipped"]
    assert 0 < facts["added"] == sum(facts["per_class"].values()) <= facts["rows"] == 90
    assert facts["gain"] == pytest.approx(0.05)
    assert result.method == "head + unlabelled"
    assert "unlabelled rows added" in result.verdict
    manifest = Bundle.open(result.path).manifest
    assert manifest.report["unlabelled"]["threshold"] == facts["threshold"]
    store = Store(tmp_path / "models")
    kept = store.load_splits(manifest.data.fingerprint)
    texts = {row["text"] for row in kept.train}
    assert sum(f"({turn})" in text for text in texts for turn in range(50, 60)) == facts["added"]
    assert not texts & {row["text"] for row in (*kept.validation, *kept.test)}
    plain = adapted(tmp_path, tiny_bert)
    before = store.load_splits(Bundle.open(plain.path).manifest.data.fingerprint)
    assert plain.unlabelled is None
    assert (kept.validation.fingerprint, kept.test.fingerprint) == (
        before.validation.fingerprint,
        before.test.fingerprint,
    )


def test_a_model_that_is_no_better_is_left_out(
    tiny_bert: Path, tmp_path: Path, unlabelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    forced(monkeypatch, -0.05)
    result = adapted(tmp_path, tiny_bert, unlabelled=unlabelled)
    assert not result.unlabelled["shipped"]
    assert result.method == "head"
    assert "left out again" in result.verdict


def test_nothing_is_added_where_no_probability_is_high_enough(
    tiny_bert: Path, tmp_path: Path, unlabelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(self_training, "lowest_sure", lambda *_: None)
    result = adapted(tmp_path, tiny_bert, unlabelled=unlabelled)
    assert (result.unlabelled["added"], result.unlabelled["shipped"]) == (0, False)
    assert "no unlabelled row was added" in result.verdict


def test_an_interrupted_run_goes_on_and_is_another_run_than_one_without_these_rows(
    tiny_bert: Path, tmp_path: Path, unlabelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from budwood.steps.adapt.head import Head

    fits: list[int] = []
    original = Head.apply
    monkeypatch.setattr(Head, "apply", lambda self, *given: fits.append(1) or original(self, *given))

    def interrupted(*_: object) -> None:
        raise RuntimeError("the power went away")

    with monkeypatch.context() as patch:
        patch.setattr(self_training, "better", interrupted)
        with pytest.raises(RuntimeError, match="power"):
            adapted(tmp_path, tiny_bert, unlabelled=unlabelled)
    first, fits[:] = len(fits), []
    assert first > 0
    adapted(tmp_path, tiny_bert)
    assert fits, "without these rows it is another run, which fits anew"
    fits.clear()
    forced(monkeypatch, -0.05)
    assert adapted(tmp_path, tiny_bert, unlabelled=unlabelled).unlabelled is not None
    assert fits == [], "every fit of the first run was taken up again"


def test_what_ships_was_learnt_in_the_way_that_was_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of fine-tuning depends on the number of rows, which the unlabelled ones change."""
    from budwood.engine.statistics import Comparison
    from budwood.stages.heads import Fit
    from budwood.stages.workbench import HEAD, ONNX, Learned
    from budwood.steps.adapt.full import Full

    made: list[tuple[int, object]] = []
    model = SimpleNamespace(manifest=SimpleNamespace(calibration={}, report={}))

    def make(rows: object, steps: object) -> object:
        made.append((len(rows.train), steps))
        return model

    bench = SimpleNamespace(make=make, say=lambda *_: None, stage=lambda _: nullcontext())
    splits = tiny.splits()
    chain = (HEAD, Full(epochs=3, interpolation=0.5))
    first = Fit(Learned("full", "", model, {}, None, 1), [model, model], [splits, splits], splits, chain)
    more = self_training.Chosen(({"text": "new", "label": "a"},), {"a": 1})
    monkeypatch.setattr(self_training.heads, "fit", lambda *_, **__: first)
    monkeypatch.setattr(self_training.heads, "held_out", lambda *_: None)
    monkeypatch.setattr(self_training, "threshold_of", lambda *_: 0.9)
    monkeypatch.setattr(self_training, "pseudo_labelled", lambda *_: more)
    monkeypatch.setattr(self_training, "better", lambda *_: Comparison(0.1, (0.0, 0.2), 0.01, 9, 90))
    monkeypatch.setattr(self_training, "measured", lambda *_: SimpleNamespace(per_row=None))
    learned = self_training.learn(bench, splits, Dataset(({"text": "new"},)))
    assert learned.unlabelled["shipped"]
    rows = len(splits.train) + 1
    assert made == [(rows, chain), (rows, chain), (rows, chain), (rows, (*chain, ONNX))]
