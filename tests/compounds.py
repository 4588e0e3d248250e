"""Small molecules for tests, with a property that the structure decides: a chlorine makes them active."""

from itertools import product
from pathlib import Path

import pytest

from budwood.core.bundle import Bundle
from budwood.core.dataset import Dataset, Splits
from budwood.core.step import Context
from budwood.core.task import Row, Task

CORES = ("c1ccccc1{}", "c1ccncc1{}", "C1CCCCC1{}", "c1ccc2ccccc2c1{}", "C1CCNCC1{}", "c1ccsc1{}", "c1ccoc1{}", "CCCC{}")
TAILS = ("CCl", "CCO", "C(=O)Cl", "CCC", "CCCl", "CC(=O)O", "OCCl", "CN", "CCBr")


def rows() -> list[Row]:
    """72 molecules of eight scaffolds, the row's label being 1 where there is a chlorine."""
    texts = [core.format(tail) for core, tail in product(CORES, TAILS)]
    return [{"smiles": text, "label": str(int("Cl" in text))} for text in texts]


def numbers() -> list[Row]:
    """The same molecules with a number: how many carbons they have."""
    return [{"smiles": row["smiles"], "label": float(row["smiles"].upper().count("C"))} for row in rows()]


def splits(kind: str = "random", labelled: list[Row] | None = None) -> Splits:
    from budwood.engine.scaffold_split import scaffold_splits

    return scaffold_splits(Dataset.of(labelled or rows(), "compounds.csv"), kind, validation_share=0.2, test_share=0.2)


def task(labelled: list[Row] | None = None) -> Task:
    from budwood.core import registry

    found: Task = registry.get("tasks", "molecule_property").from_rows(labelled or rows())
    return found


def fingerprint_bundle(folder: Path, labelled: list[Row] | None = None) -> Bundle:
    """A fingerprint model of the rows, made in a second or two."""
    pytest.importorskip("sklearn")
    from budwood.core import registry
    from budwood.core.recipe import Recipe
    from budwood.engine.molecule_bundle import new_base

    context = Context(
        out=folder / "unused", work=folder / "work", splits=splits(labelled=labelled), task=task(labelled)
    )
    step = registry.get("steps/adapt", "fingerprint")()
    return Recipe((step,)).run(new_base(folder), context, folder / "cache")
