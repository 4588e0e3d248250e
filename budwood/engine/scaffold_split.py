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

    def notes(self, where: str = "") -> list[str]:
        """Lines for the user; `where`, such as " in test", says which rows are meant."""
        found = []
        if self.unparsable:
            listing = ", ".join(str(row + 1) for row in self.unparsable[:LISTED])
            found.append(
                note(f"left out{where}", f"{len(self.unparsable):,} rows", f"no valid SMILES, such as row {listing}")
            )
        if self.stripped:
            found.append(note(f"stripped{where}", f"{self.stripped:,} rows", "salts and solvents removed"))
        if self.duplicates:
            found.append(
                note(f"duplicates{where}", f"{len(self.duplicates):,} rows", "the same molecule in another spelling")
            )
        if self.conflicts:
            listing = " and ".join(str(row + 1) for row in self.conflicts[0])
            why = f"labels of one molecule disagree, such as rows {listing}; classes left out, numbers averaged"
            found.append(note(f"conflicts{where}", f"{len(self.conflicts):,} molecules", why))
        return found


def clean(rows: Sequence[Row], among: Sequence[int] | None = None) -> Cleaned:
    """One row a molecule, of all rows or of those with the numbers `among`.

    Raises:
        DataError: none of them has a valid SMILES.
    """
    groups: dict[str, list[int]] = {}
    facts: dict[str, str] = {}
    unparsable: list[int] = []
    salts: list[int] = []
    for number in range(len(rows)) if among is None else among:
        found = prepared(rows[number]["smiles"])
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
    sides = "no scaffold is on both sides" if kind != "random" else "molecules of one scaffold are on both sides"
    notes = (*cleaned.notes(), note("split", kind, f"{len(train):,}/{len(validation):,}/{len(test):,}: {sides}"))
    return Splits(train, validation, test, seed, notes)


def given_splits(dataset: Dataset, test: Dataset | None, seed: int) -> Splits:
    """Splits with given test molecules; a tenth of the other scaffolds is held out to choose by.

    The parts are cleaned one by one, so that no label of a test molecule gets into what is learnt.

    Args:
        dataset: rows, with `split` where the data names it.
        test: molecules to test on; without them, the rows that are called test. With them, these are unused.

    Raises:
        DataError: a split would be empty.
    """
    numbers: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for number, row in enumerate(dataset.rows):
        numbers[row.get("split", "train")].append(number)
    notes: list[str] = []
    if test is not None and (unused := len(numbers.pop("test"))):
        notes.append(note("unused", f"{unused:,} rows", "the data's own test rows; another test set is given"))
    cleaned = {name: clean(dataset.rows, found) for name, found in numbers.items() if found}
    if test is not None:
        cleaned["test"] = clean(test.rows)
    parts = apart(cleaned, notes)
    if not parts["validation"]:
        rows = parts["train"]
        _, middle, rest = assign(units(rows, "scaffold_balanced", seed), len(rows), (0.9, 1.0))
        chosen = {*middle, *rest}
        parts["validation"] = [rows[number] for number in sorted(chosen)]
        parts["train"] = [row for number, row in enumerate(rows) if number not in chosen]
    sizes = {name: len(part) for name, part in parts.items()}
    if not all(sizes.values()):
        raise DataError(
            f"{sizes['train'] + sizes['validation']} molecules beside {sizes['test']} for testing are too few",
            where=", ".join(dataset.sources) or "the data",
            fix="add molecules, or leave out --test",
        )
    shares = f"{sizes['train']:,}/{sizes['validation']:,}/{sizes['test']:,}"
    notes.append(note("split", "given", f"{shares}: as the data says"))
    train, validation = (Dataset.of(parts[name], *dataset.sources) for name in ("train", "validation"))
    held = Dataset.of(parts["test"], *(dataset if test is None else test).sources)
    return Splits(train, validation, held, seed, tuple(notes))


def apart(cleaned: Mapping[str, Cleaned], notes: list[str]) -> dict[str, list[Row]]:
    """Each molecule in one part: test before validation before train. Says in `notes` what was left out."""
    parts: dict[str, list[Row]] = {}
    known: set[str] = set()
    for name in ("test", "validation", "train"):
        found = cleaned[name].rows if name in cleaned else ()
        parts[name] = [row for row in found if row["canonical"] not in known]
        known |= {row["canonical"] for row in found}
        if name in cleaned:
            notes += cleaned[name].notes("" if name == "train" else f" in {name}")
        if removed := len(found) - len(parts[name]):
            notes.append(note(f"removed from {name}", f"{removed:,} molecules", "they are held out"))
    return parts


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
