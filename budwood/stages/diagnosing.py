"""`doctor`: read texts, images or molecules leniently, list their faults, and write a mended copy where asked."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from budwood.core.errors import DataError, UsageError
from budwood.engine.bases import catalogue, packaged
from budwood.engine.box_doctor import diagnose_boxes, examine
from budwood.engine.box_mending import write_mended
from budwood.engine.box_rows import BoxCollection
from budwood.engine.collection import collection_of
from budwood.engine.columns import NoLabelError
from budwood.engine.corpus_doctor import diagnose_corpus
from budwood.engine.doctor import diagnose
from budwood.engine.environment import describe_environment, examine_environment, runtimes_here
from budwood.engine.image_doctor import diagnose_images, write_images
from budwood.engine.machine import versions
from budwood.engine.mending import mended_table, write_table
from budwood.engine.molecule_doctor import diagnose_molecules, mended_molecules
from budwood.engine.reading import Reading, read_dataset
from budwood.engine.table import note
from budwood.engine.text_base import embed_texts
from budwood.stages.results import Diagnosed

__all__ = ["diagnose_data"]

WRITING = "text_generation"
KINDS = ("image", "smiles", "text")


def diagnose_data(
    data: Path | str | None, test: Path | str | None, target: str | None, input: str | None, fix: Path | str | None
) -> Diagnosed:
    """Findings with rows and fixes. Near duplicates are found by embedding where the training extra is installed.

    Without data, the findings are about this machine.
    """
    if data is None:
        for flag, value in (("--test", test), ("--fix", fix)):
            if value is not None:
                raise UsageError(f"{flag} needs data to look at", where=flag, fix=f"budwood doctor DATA {flag} …")
        runtimes = {name: {"state": state, "note": why} for name, state, why in runtimes_here()}
        facts = {"packages": versions(), "runtimes": runtimes}
        return Diagnosed(examine_environment(), tuple(describe_environment()), facts)
    if isinstance(boxes := collection_of(Path(data)), BoxCollection):
        return of_boxes(boxes, Path(data), test, fix)
    reading = read(data, target, input)
    held = None if test is None else read(test, target, input)
    refuse_other_kind(reading, held)
    if any("image" in row for row in reading.dataset.rows[:1]):
        return of_images(reading, held, fix)
    if not any("label" in row for row in reading.dataset.rows[:1]):
        return of_texts(reading, held, fix)
    molecules = any("smiles" in row for row in reading.dataset.rows[:1])
    findings = diagnose_molecules(reading, held) if molecules else diagnose(reading, held, embed=embedder())
    fixed = None
    if fix is not None:
        write_table(mended_molecules(reading, held) if molecules else mended_table(reading, findings), fix)
        fixed = Path(fix)
    return Diagnosed(findings, reading.notes, reading.facts, fixed)


def refuse_other_kind(reading: Reading, held: Reading | None) -> None:
    """Raise DataError when the test rows are of another kind than the others, such as images beside texts."""
    kinds = [
        [kind for kind in KINDS if kind in row] for found in (reading, held) if found for row in found.dataset.rows[:1]
    ]
    if held is not None and len(kinds) == 2 and kinds[0] != kinds[1]:
        raise DataError(
            f"the data have the field {kinds[0][0]}, and the test data {kinds[1][0]}",
            where=f"--test: {', '.join(held.dataset.sources)}",
            fix="give test rows of the same kind",
        )


def read(path: Path | str, target: str | None, input: str | None) -> Reading:
    """The rows; of a table in which no column looks like a label, the texts."""
    try:
        return read_dataset(path, target, input, keep_empty=True)
    except NoLabelError as error:
        try:
            found = read_dataset(path, None, input, task=WRITING)
        except DataError:
            raise error from None
        reason = note("task", WRITING, "no column looks like the label")
        return replace(found, notes=(reason, *found.notes), facts={**found.facts, "task": WRITING})


def of_texts(reading: Reading, held: Reading | None, fix: Path | str | None) -> Diagnosed:
    """Texts to learn writing from: whether a repeat or a leftover is meant, only their owner can tell."""
    if fix is not None:
        raise UsageError(
            "texts without labels are not mended", where="--fix", fix="leave it out; each finding has a fix"
        )
    return Diagnosed(diagnose_corpus(reading, held), reading.notes, reading.facts)


def of_images(reading: Reading, held: Reading | None, fix: Path | str | None) -> Diagnosed:
    findings = diagnose_images(reading, held)
    if fix is None:
        return Diagnosed(findings, reading.notes, reading.facts)
    write_images(reading, findings, Path(fix))
    return Diagnosed(findings, reading.notes, reading.facts, Path(fix))


def of_boxes(collection: BoxCollection, data: Path, test: Path | str | None, fix: Path | str | None) -> Diagnosed:
    """Images with boxes. Raises DataError when the test data are of another kind."""
    examined = examine(collection, data)
    held = None
    if test is not None:
        other = collection_of(Path(test))
        if not isinstance(other, BoxCollection):
            raise DataError("the test data have no boxes", where=str(test), fix="give images that are annotated alike")
        held = examine(other, Path(test))
    findings = diagnose_boxes(examined, held)
    reading = examined.reading
    if fix is not None:
        write_mended(examined, findings, Path(fix))
    return Diagnosed(findings, reading.notes, reading.facts, None if fix is None else Path(fix))


def embedder() -> Callable[[Sequence[str]], Any] | None:
    """The default encoder's embeddings; None when torch or the encoder is not here (nothing is fetched for this)."""
    folder = packaged(catalogue()["minilm-l6"])
    if folder is None or find_spec("torch") is None:
        return None
    return lambda texts: embed_texts(folder, texts)
