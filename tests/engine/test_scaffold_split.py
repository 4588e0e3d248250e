"""Scaffold splits: no scaffold on both sides, one row a molecule, and the kind of split said."""

import compounds
import pytest

from budwood.core.dataset import Dataset
from budwood.core.errors import DataError, UsageError

pytest.importorskip("rdkit", reason="molecules need the extra chem")

from budwood.engine.scaffold_split import KINDS, clean, given_splits, kind_of, scaffold_splits


@pytest.mark.parametrize("kind", KINDS)
def test_every_molecule_is_in_one_split_and_the_kind_is_said(kind: str) -> None:
    splits = compounds.splits(kind)
    parts = [{row["canonical"] for row in part} for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(compounds.rows())
    assert kind_of(splits) == kind
    scaffolds = [{row["scaffold"] for row in part} for part in (splits.train, splits.test)]
    assert bool(scaffolds[0] & scaffolds[1]) == (kind == "random")


def test_the_deterministic_split_depends_on_neither_seed_nor_order() -> None:
    rows = compounds.rows()
    first = scaffold_splits(Dataset.of(rows), "scaffold", seed=0, test_share=0.2)
    second = scaffold_splits(Dataset.of(rows[::-1]), "scaffold", seed=7, test_share=0.2)
    assert {row["canonical"] for row in first.test} == {row["canonical"] for row in second.test}
    sizes = [sum(row["scaffold"] == name for row in rows_of) for rows_of, name in [(first.train.rows, "c1ccccc1")]]
    assert sizes == [9], "the scaffold of nine molecules is whole"


def test_another_seed_gives_another_balanced_split() -> None:
    dataset = Dataset.of([{**row, "smiles": row["smiles"] + "C" * n} for row in compounds.rows() for n in range(1)])
    tests = [
        {row["scaffold"] for row in scaffold_splits(dataset, "scaffold_balanced", seed=seed, test_share=0.3).test}
        for seed in range(5)
    ]
    assert len(set(map(frozenset, tests))) == 1, "these scaffolds are all large, so none may fill the test set"
    ringless = Dataset.of([{"smiles": f"C{'C' * i}N1CC1{'C' * i}", "label": str(i % 2)} for i in range(40)])
    assert scaffold_splits(ringless, "random", seed=1).test != scaffold_splits(ringless, "random", seed=2).test


def test_duplicates_conflicts_and_broken_rows_are_reported() -> None:
    rows = [
        {"smiles": "CCO", "label": "1"},
        {"smiles": "OCC", "label": "1"},
        {"smiles": "C(", "label": "1"},
        {"smiles": "c1ccccc1", "label": "0"},
        {"smiles": "C1=CC=CC=C1", "label": "1"},
        {"smiles": "CCN.Cl", "label": "0"},
    ]
    cleaned = clean(rows)
    assert [row["canonical"] for row in cleaned.rows] == ["CCO", "CCN"]
    assert cleaned.duplicates == (1,)
    assert cleaned.unparsable == (2,)
    assert cleaned.conflicts == ((3, 4),)
    assert cleaned.stripped == 1
    assert [line.split("=")[0] for line in cleaned.notes()] == ["left out", "stripped", "duplicates", "conflicts"]
    assert "rows 4 and 5" in cleaned.notes()[-1]


def test_numbers_of_one_molecule_are_averaged_and_gaps_filled() -> None:
    assert clean([{"smiles": "CCO", "label": 1.5}, {"smiles": "OCC", "label": 2.5}]).rows[0]["label"] == 2.0
    several = [
        {"smiles": "CCO", "label": {"a": 1, "b": None}},
        {"smiles": "OCC", "label": {"a": 0, "b": 1}},
        {"smiles": "C(O)C", "label": {"a": None, "b": 1}},
    ]
    cleaned = clean(several)
    assert cleaned.rows[0]["label"] == {"a": None, "b": 1}
    assert cleaned.conflicts == ((0, 1, 2),)


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(UsageError, match="no split 'stratified'"):
        scaffold_splits(Dataset.of(compounds.rows()), "stratified")
    with pytest.raises(UsageError, match="nothing to learn from"):
        scaffold_splits(Dataset.of(compounds.rows()), test_share=0.9, validation_share=0.2)
    with pytest.raises(DataError, match="too few"):
        scaffold_splits(Dataset.of(compounds.rows()[:4]))
    with pytest.raises(DataError, match="no row has a valid SMILES"):
        scaffold_splits(Dataset.of([{"smiles": "text", "label": "1"}]))


def given(*texts: str, split: str = "", label: float = 1.0) -> list[dict[str, object]]:
    return [{"smiles": text, "label": label, **({"split": split} if split else {})} for text in texts]


RINGS = tuple(f"C1{'C' * size}N1" for size in range(1, 11))
"""Ten molecules, each with a scaffold of its own."""


def test_no_label_of_a_test_molecule_gets_into_training() -> None:
    others = given(*RINGS, split="train")
    rows = [*given("CCO", split="train"), *others, *given("OCC", "C(O)C", "CCCl", split="test", label=9.0)]
    splits = given_splits(Dataset.of(rows), None, 0)
    assert {row["canonical"]: row["label"] for row in splits.test} == {"CCO": 9.0, "CCCl": 9.0}
    learnt = [*splits.train, *splits.validation]
    assert {row["label"] for row in learnt} == {1.0}
    assert "CCO" not in {row["canonical"] for row in learnt}
    assert len(learnt) == len(others)
    lines = [line.split("  #")[0] for line in splits.notes]
    assert lines[:2] == ["duplicates in test=1 rows", "removed from train=1 molecules"]
    assert kind_of(splits) == "given"


def test_molecules_to_choose_by_are_kept_apart_from_those_to_learn_from() -> None:
    rows = [*given("CCO", "CCN", split="train"), *given("OCC", split="validation", label=5.0)]
    splits = given_splits(Dataset.of([*rows, *given("CCCl", split="test")]), None, 0)
    assert [row["smiles"] for row in splits.train] == ["CCN"]
    assert [(row["smiles"], row["label"]) for row in splits.validation] == [("OCC", 5.0)]


def test_the_own_test_rows_are_unused_where_others_are_given() -> None:
    rows = [*given(*RINGS, split="train"), *given("CCF", "CCBr", split="test")]
    splits = given_splits(Dataset.of(rows), Dataset.of(given("CCO", "N1CCC1")), 0)
    learnt = {row["canonical"] for row in (*splits.train, *splits.validation)}
    assert {row["canonical"] for row in splits.test} == {"CCO", "C1CNC1"}
    assert not learnt & {"CCF", "CCBr", "C1CNC1"}
    assert len(learnt) == 9
    assert any(line.startswith("unused=2 rows") for line in splits.notes)


def test_the_row_numbers_of_a_part_are_those_of_the_data() -> None:
    rows = [*given(*RINGS, split="train"), *given("CCCl", "C(", split="test")]
    splits = given_splits(Dataset.of(rows), None, 0)
    assert any(line.startswith("left out in test=1 rows") and "row 12" in line for line in splits.notes)
