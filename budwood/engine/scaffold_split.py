"""Splits of molecules by scaffold, so that the test set holds chemistry that training has not seen.

A random split flatters: BBBP has an AUC of .93 on random molecules and .70 on new scaffolds. The kind of split is
therefore part of every score.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import DataError, UsageError
from budwood.core.task import Row
from budwood.engine.molecules import canonical, prepared, scaffold
from budwood.engine.table import note

__all__ = ["KINDS", "Cleaned", "clean", "given_splits", "kind_of", "scaffold_splits"]

Kind = Literal["scaffold", "scaffold_balanced", "random"]
KINDS: tuple[Kind, ...] = ("scaffold", "scaffold_balanced", "random")
LISTED = 5


@dataclass(frozen=True)
class Cleaned:
    """Rows with one canonical molecule each, and what happened to the others. Row numbers count from 0."""

    rows: tuple[Row, ...]
    """With `canonical` and `scaffold` in each; the SMILES stay as they were written."""
    unparsable: tuple[int, ...]
    duplicates: tuple[int, ...]
    """Rows that repeat an earlier molecule with the same label, and were left out."""
    conflicts: tuple[tuple[int, ...], ...]
    """Rows of one molecule with labels that disagree: classes are left out, numbers replaced by their mean."""
    salts: tuple[int, ...]
    """Rows from which salts or solvents were removed."""
    numbers: tuple[int, ...]
    """For each of `rows` the row that it comes from, the first of its molecule."""

    @property
    def stripped(self) -> int:
        return len(self.salts)

    def notes(self) -> list[str]:
        found = []
        if self.unparsable:
            listing = ", ".join(str(row + 1) for row in self.unparsable[:LISTED])
            found.append(note("left out", f"{len(self.unparsable):,} rows", f"no valid SMILES, such as row {listing}"))
        if self.stripped:
            found.append(note("stripped", f"{self.stripped:,} rows", "salts and solvents removed"))
        if self.duplicates:
            found.append(note("duplicates", f"{len(self.duplicates):,} rows", "the same molecule in another spelling"))
        if self.conflicts:
            listing = " and ".join(str(row + 1) for row in self.conflicts[0])
            why = f"labels of one molecule disagree, such as rows {listing}; classes left out, numbers averaged"
            found.append(note("conflicts", f"{len(self.conflicts):,} molecules", why))
        return found


def clean(rows: Sequence[Row]) -> Cleaned:
    """One row a molecule. Raises DataError when no row has a valid SMILES."""
    groups: dict[str, list[int]] = {}
    facts: dict[str, str] = {}
    unparsable: list[int] = []
    salts: list[int] = []
    for number, row in enumerate(rows):
        found = prepared(row["smiles"])
        if found is None:
            unparsable.append(number)
            continue
        if found.stripped:
            salts.append(number)
        text = canonical(found.molecule)
        groups.setdefault(text, []).append(number)
        if text not in facts:
            facts[text] = scaffold(found.molecule)
    if not groups:
        raise DataError("no row has a valid SMILES", where="the SMILES column", fix="name it with --input")
    kept: dict[int, Row] = {}
    duplicates: list[int] = []
    conflicts: list[tuple[int, ...]] = []
    for text, numbers in groups.items():
        label, agree = merged_label([rows[number]["label"] for number in numbers])
        if agree:
            duplicates.extend(numbers[1:])
        else:
            conflicts.append(tuple(numbers))
        if label is not None:
            kept[numbers[0]] = {**rows[numbers[0]], "label": label, "canonical": text, "scaffold": facts[text]}
    return Cleaned(
        rows=tuple(kept.values()),
        unparsable=tuple(unparsable),
        duplicates=tuple(sorted(duplicates)),
        conflicts=tuple(conflicts),
        salts=tuple(salts),
        numbers=tuple(kept),
    )


def merged_label(labels: Sequence[Any]) -> tuple[Any, bool]:
    """The label of a molecule that several rows give, None when it must be left out, and whether the rows agree."""
    if len(labels) == 1:
        return labels[0], True
    if isinstance(labels[0], Mapping):
        names = list(dict.fromkeys(name for label in labels for name in label))
        parts = {name: merged_value([label.get(name) for label in labels]) for name in names}
        label = {name: value for name, (value, _) in parts.items()}
        known = any(value is not None for value in label.values())
        return (label if known else None), all(agree for _, agree in parts.values())
    return merged_value(labels)


def merged_value(values: Sequence[Any]) -> tuple[Any, bool]:
    known = [value for value in values if value is not None and value != ""]
    distinct = list(dict.fromkeys(map(str, known)))
    if len(distinct) <= 1:
        return (known[0] if known else None), True
    try:
        numbers = [float(value) for value in known]
    except (TypeError, ValueError):
        return None, False
    if set(numbers) <= {0.0, 1.0}:
        return (known[0], True) if len(set(numbers)) == 1 else (None, False)
    mean = float(np.mean(numbers))
    return (str(mean) if isinstance(known[0], str) else mean), len(set(numbers)) == 1


def scaffold_splits(
    dataset: Dataset,
    kind: str = "scaffold",
    *,
    seed: int = 0,
    test_share: float = 0.1,
    validation_share: float = 0.1,
) -> Splits:
    """Splits of labelled rows `{"smiles", "label"}`; `Splits.notes` says the kind of split and what was left out.

    Args:
        kind: `scaffold`: the largest scaffolds train, the rarest test; the same for every seed, and the hardest (Wu et
            al. 2018). `scaffold_balanced`: whole scaffolds in random order. `random`: single molecules.
        seed: for the two random kinds.

    Raises:
        UsageError: there is no such kind, or the shares leave nothing to learn from.
        DataError: no row has a valid SMILES, or a split would be empty.
    """
    if kind not in KINDS:
        raise UsageError(f"no split {kind!r}", where="--split", fix=f"choose one of: {', '.join(KINDS)}")
    if not (0 < test_share < 1 and 0 < validation_share < 1 and test_share + validation_share < 1):
        raise UsageError("the shares leave nothing to learn from", where="test_share", fix="0.1")
    cleaned = clean(dataset.rows)
    sizes = (1 - test_share - validation_share, 1 - test_share)
    parts = assign(units(cleaned.rows, kind, seed), len(cleaned.rows), sizes)
    if not all(parts):
        raise DataError(
            f"{len(cleaned.rows)} molecules of {len({row['scaffold'] for row in cleaned.rows})} scaffolds are too few",
            where=", ".join(dataset.sources) or "the data",
            fix="--split random, or give test molecules with --test",
        )
    train, validation, test = (
        Dataset(tuple(cleaned.rows[number] for number in sorted(part)), dataset.sources) for part in parts
    )
    apart = "no scaffold is on both sides" if kind != "random" else "molecules of one scaffold are on both sides"
    notes = (*cleaned.notes(), note("split", kind, f"{len(train):,}/{len(validation):,}/{len(test):,}: {apart}"))
    return Splits(train, validation, test, seed, notes)


def given_splits(dataset: Dataset, test: Dataset | None, seed: int) -> Splits:
    """Splits with given test molecules; a tenth of the other scaffolds is held out to choose by.

    Args:
        dataset: rows, with `split` where the data names it.
        test: molecules to test on; without them, the rows that are called test.

    Raises:
        DataError: a split would be empty.
    """
    cleaned = clean(dataset.rows)
    held = clean(test.rows).rows if test is not None else [row for row in cleaned.rows if row.get("split") == "test"]
    known = {row["canonical"] for row in held}
    rows = [row for row in cleaned.rows if row["canonical"] not in known]
    removed = len(cleaned.rows) - len(rows) - (0 if test is not None else len(held))
    numbers = [number for number, row in enumerate(rows) if row.get("split") == "validation"]
    if not numbers:
        _, numbers, rest = assign(units(rows, "scaffold_balanced", seed), len(rows), (0.9, 1.0))
        numbers += rest
    chosen = set(numbers)
    train = [row for number, row in enumerate(rows) if number not in chosen]
    if not train or not held or not chosen:
        raise DataError(
            f"{len(rows)} molecules beside {len(held)} for testing are too few",
            where=", ".join(dataset.sources) or "the data",
            fix="add molecules, or leave out --test",
        )
    parts = (Dataset.of(train, *dataset.sources), Dataset.of([rows[number] for number in numbers], *dataset.sources))
    notes = [
        *cleaned.notes(),
        note("split", "given", f"{len(train):,}/{len(numbers):,}/{len(held):,}: as the data says"),
    ]
    if removed > 0:
        notes.append(note("removed from train", f"{removed:,} molecules", "they are test molecules"))
    sources = test.sources if test is not None else dataset.sources
    return Splits(*parts, Dataset.of(held, *sources), seed, tuple(notes))


def units(rows: Sequence[Row], kind: str, seed: int) -> list[list[int]]:
    """Row numbers that stay together, in the order in which they are dealt out."""
    if kind == "random":
        return [[int(number)] for number in np.random.default_rng(seed).permutation(len(rows))]
    groups: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row["scaffold"]].append(number)
    ordered = sorted(groups.values(), key=lambda group: (-len(group), rows[group[0]]["scaffold"]))
    if kind == "scaffold":
        return ordered
    large = [group for group in ordered if len(group) > len(rows) / 20]  # one of them would fill a small test set
    small = [group for group in ordered if len(group) <= len(rows) / 20]
    return large + [small[number] for number in np.random.default_rng(seed).permutation(len(small))]


def assign(groups: Sequence[list[int]], total: int, edges: tuple[float, float]) -> tuple[list[int], ...]:
    """Whole groups to train until it is full, then to validation, and the rest to test."""
    train: list[int] = []
    validation: list[int] = []
    test: list[int] = []
    for group in groups:
        if len(train) + len(group) <= edges[0] * total:
            train += group
        elif len(train) + len(validation) + len(group) <= edges[1] * total:
            validation += group
        else:
            test += group
    return train, validation, test


def kind_of(splits: Splits) -> str:
    """How these splits were made, to be printed beside a score."""
    kinds = [line.split("=", 1)[1].split("  #", 1)[0] for line in splits.notes if line.startswith("split=")]
    return kinds[-1] if kinds else "given"
