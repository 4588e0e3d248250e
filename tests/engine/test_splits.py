"""Splits: nothing leaks, nothing moves, every class is where it must be."""

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import DataError, UsageError
from budwood.engine.similarity import normalise
from budwood.engine.splits import hashed, labels_of, make_splits, quota

NAMES = ("train", "validation", "test")
text = st.text("aAbBｂ \t", min_size=1, max_size=6).filter(lambda value: bool(value.strip()))
label = st.sampled_from(["x", "y", "z"])
row = st.fixed_dictionaries({"text": text, "label": label})
grouped = st.fixed_dictionaries({"text": text, "label": label, "group": st.sampled_from("1234567")})


def data(count: int, classes: int = 4, start: int = 0) -> Dataset:
    return Dataset.of(
        {"text": f"text {index}", "label": f"c{index % classes}"} for index in range(start, start + count)
    )


def split(rows, **options) -> Splits | None:
    try:
        return make_splits(rows if isinstance(rows, Dataset) else Dataset.of(rows), **options)
    except DataError:
        return None


def places(splits: Splits, key=lambda row: normalise(row["text"])) -> dict[str, set[str]]:
    return {name: {key(row) for row in getattr(splits, name)} for name in NAMES}


def apart(sets: dict[str, set[str]]) -> bool:
    return not (sets["train"] & sets["test"] | sets["train"] & sets["validation"] | sets["validation"] & sets["test"])


@given(st.lists(row, min_size=2, max_size=60), st.integers(0, 5), st.one_of(st.none(), st.integers(1, 5)))
def test_equal_texts_are_never_apart_and_no_row_is_lost_or_made(rows, seed, shots):
    splits = split(rows, seed=seed, shots=shots)
    if splits is None:
        return
    assert apart(places(splits))
    kept = Counter((row["text"], row["label"]) for name in NAMES for row in getattr(splits, name))
    given_rows = Counter((row["text"], row["label"]) for row in rows)
    assert kept == given_rows if shots is None else not kept - given_rows


@given(st.lists(grouped, min_size=2, max_size=40), st.integers(0, 5), st.one_of(st.none(), st.integers(1, 5)))
def test_groups_and_equal_texts_are_never_apart(rows, seed, shots):
    splits = split(rows, seed=seed, shots=shots)
    if splits is not None:
        assert apart(places(splits))
        assert apart(places(splits, key=lambda row: row["group"]))


@given(st.lists(row, min_size=2, max_size=40), st.lists(row, min_size=1, max_size=20), st.integers(0, 5))
def test_no_text_of_a_given_test_set_is_learnt_from(rows, test, seed):
    splits = split(rows, test=Dataset.of(test), seed=seed)
    if splits is not None:
        assert splits.test == Dataset.of(test).canonical()
        assert apart(places(splits))
        removed = len(rows) - len(splits.train) - len(splits.validation)
        assert any(line.startswith("removed from train=") for line in splits.notes) is (removed > 0)


@given(st.lists(row, min_size=2, max_size=50), st.randoms(use_true_random=False), st.integers(0, 3))
def test_the_order_of_rows_does_not_matter(rows, random, seed):
    shuffled = list(rows)
    random.shuffle(shuffled)
    first, second = split(rows, seed=seed), split(shuffled, seed=seed)
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert first.fingerprint == second.fingerprint


@settings(max_examples=50)
@given(st.integers(30, 300), st.integers(1, 200), st.integers(0, 50))
def test_an_old_row_moves_only_if_its_class_needed_its_quota(count, more, seed):
    before, after = data(count), data(count + more)
    old, new = make_splits(before, seed=seed), make_splits(after, seed=seed)
    free = unclamped(before, seed) & unclamped(after, seed)
    now = {row["text"]: name for name in NAMES for row in getattr(new, name)}
    moved = [row for name in NAMES for row in getattr(old, name) if now[row["text"]] != name]
    assert all(row["label"] not in free for row in moved)


def unclamped(rows: Dataset, seed: int) -> set[str]:
    """Classes whose counts by hash alone lie within the quota."""
    units: dict[str, list[float]] = {}
    for item in rows:
        units.setdefault(item["label"], []).append(hashed(f"text:{item['text']}", seed))
    free = set()
    for name, values in units.items():
        counts = sum(v < 0.15 for v in values), sum(0.15 <= v < 0.3 for v in values)
        if all(quota(count, 0.15, len(values)) == count for count in counts):
            free.add(name)
    return free


def test_large_classes_are_placed_by_hash_alone():
    assert len(unclamped(data(2000), 0)) == 4


def test_the_threshold_of_a_row_is_frozen_across_releases():
    assert f"{hashed('text:hello', 0):.9f}" == "0.452146153"
    assert f"{hashed('text:hello', 1):.9f}" == "0.302537474"


def test_shares_are_near_70_15_15_for_every_class():
    splits = make_splits(data(4000))
    for name, share in zip(NAMES, (0.7, 0.15, 0.15), strict=True):
        for count in Counter(row["label"] for row in getattr(splits, name)).values():
            assert abs(count / 1000 - share) < 0.04


@pytest.mark.parametrize("count", range(3, 40))
def test_from_three_rows_on_a_class_is_in_every_split_and_mostly_in_train(count):
    for seed in range(5):
        splits = make_splits(data(2 * count, classes=2), seed=seed)
        for name in NAMES:
            assert {row["label"] for row in getattr(splits, name)} == {"c0", "c1"}
        assert all(size >= count * 0.5 or count == 3 for size in Counter(r["label"] for r in splits.train).values())


def test_a_class_with_one_row_stays_in_train_with_a_warning():
    rows = [*data(40, classes=2), {"text": "alone", "label": "single"}]
    for seed in range(10):
        splits = make_splits(Dataset.of(rows), seed=seed)
        assert "single" in {row["label"] for row in splits.train}
        assert any(line.startswith("not measured=single") for line in splits.notes)


@pytest.mark.parametrize(
    ("count", "classes", "cause"), [(1, 1, "1 class in 1 rows"), (30, 1, "1 class"), (2, 2, "no rows")]
)
def test_too_little_data_is_refused_with_counts(count, classes, cause):
    with pytest.raises(DataError, match=cause):
        make_splits(data(count, classes))


@pytest.mark.parametrize("options", [{"shots": 0}, {"test_share": 0.0}, {"test_share": 0.6, "validation_share": 0.5}])
def test_impossible_parameters_are_refused(options):
    with pytest.raises(UsageError):
        make_splits(data(40), **options)


def test_another_seed_gives_another_split():
    assert make_splits(data(100), seed=1).fingerprint != make_splits(data(100), seed=2).fingerprint


def test_splits_are_equal_in_every_process():
    code = (
        "from budwood.core.dataset import Dataset; from budwood.engine.splits import make_splits;"
        "rows = [{'text': f'text {i}', 'label': f'c{i % 4}', 'group': str(i % 50)} for i in range(200)];"
        "print(make_splits(Dataset.of(rows), shots=9).fingerprint)"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1


def named(count: int, name: str, start: int = 0) -> list[dict[str, str]]:
    return [{**item, "split": name} for item in data(count, start=start)]


def test_named_splits_are_kept():
    splits = make_splits(Dataset.of([*named(80, "train"), *named(20, "validation", 80), *named(20, "test", 100)]))
    assert splits.sizes() == {"train": 80, "validation": 20, "test": 20}


def test_a_missing_validation_split_is_carved_out_of_train_only():
    splits = make_splits(Dataset.of([*named(400, "train"), *named(40, "test", 400)]))
    assert len(splits.test) == 40
    assert 40 <= len(splits.validation) <= 80


def test_a_missing_test_split_is_carved_out_of_train_only():
    splits = make_splits(Dataset.of([*named(400, "train"), *named(40, "validation", 400)]))
    assert len(splits.validation) == 40
    assert 40 <= len(splits.test) <= 80


def test_texts_in_two_named_splits_stay_in_the_one_read_last():
    shared = {"text": "TEXT  1", "label": "c1"}
    rows = [*named(80, "train"), *named(20, "validation", 80), {**shared, "split": "test"}, *named(4, "test", 100)]
    splits = make_splits(Dataset.of(rows))
    assert splits.sizes() == {"train": 79, "validation": 20, "test": 5}
    assert any(line.startswith("removed from train=1 rows") for line in splits.notes)


def test_a_given_test_set_replaces_the_named_one():
    splits = make_splits(Dataset.of([*named(80, "train"), *named(20, "test", 80)]), test=data(12, start=200))
    assert len(splits.test) == 12
    assert sum(splits.sizes().values()) == 92
    assert any(line.startswith("unused=20 rows") for line in splits.notes)


@pytest.mark.parametrize(("shots", "validation"), [(1, 0), (2, 0), (3, 1), (5, 1), (8, 2), (10, 2), (50, 10)])
def test_shots_give_exactly_k_rows_a_class_with_a_fifth_for_validation(shots, validation):
    splits = make_splits(data(400), test=data(40, start=400), shots=shots)
    chosen = Counter(row["label"] for row in splits.validation)
    assert chosen == Counter({f"c{index}": validation for index in range(4)} if validation else {})
    assert Counter(row["label"] for row in splits.train) == {f"c{index}": shots - validation for index in range(4)}


def test_fewer_shots_are_among_more_and_classes_with_fewer_give_all():
    rows = [*data(200, classes=2), *({"text": f"few {index}", "label": "few"} for index in range(4))]
    small, large = (make_splits(Dataset.of(rows), test=data(10, start=900), shots=k) for k in (8, 16))
    drawn = [{row["text"] for name in NAMES[:2] for row in getattr(s, name)} for s in (small, large)]
    assert drawn[0] <= drawn[1]
    assert Counter(row["label"] for row in [*large.train, *large.validation]) == {"c0": 16, "c1": 16, "few": 4}
    assert any("fewer in 1 classes: few" in line for line in large.notes)


def test_several_labels_a_row_are_stratified_by_the_rarest():
    rows = [{"text": f"text {i}", "label": ["common", "rare"] if i % 10 == 0 else ["common"]} for i in range(60)]
    splits = make_splits(Dataset.of(rows))
    for name in NAMES:
        assert {label for row in getattr(splits, name) for label in labels_of(row)} == {"common", "rare"}


def test_classes_of_the_test_set_that_are_not_learnt_are_noted():
    splits = make_splits(data(40, classes=2), test=data(8, classes=4, start=100))
    assert any(line.startswith("not learnt=c2, c3") for line in splits.notes)
