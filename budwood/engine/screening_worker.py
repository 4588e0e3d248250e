"""Scores chunks of a library, in the process of `screening` or as one of its child processes.

python -m budwood.engine.screening_worker    # one JSON line in (the opening, then chunks), one JSON line out for each
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from budwood.core.bundle import Bundle
from budwood.core.errors import UsageError
from budwood.core.task import Arrays, Calibration
from budwood.engine.molecule_domain import Domain, pack
from budwood.engine.molecule_inputs import Inputs, encode_prepared
from budwood.engine.molecules import Prepared, canonical, fingerprints, keys, prepared
from budwood.engine.predictor import Predictor
from budwood.engine.tokenizer_file import read_tokenizer

__all__ = ["Opening", "Scorer"]


@runtime_checkable
class Ranks(Protocol):
    """What a task needs so that molecules can be ranked by it."""

    def column(self, name: str | None) -> int:
        """The number of the property of that name, the first one for None. Raises UsageError when there is none."""

    def values(self, outputs: Arrays, calibration: Calibration) -> NDArray[np.float64]:
        """What is ranked by, shape (rows, properties)."""


class Opening(NamedTuple):
    """What a scorer needs to start."""

    bundle: str
    by: str | None
    """The property to rank by; None for the first one."""
    ascending: bool
    """Whether small values are wanted."""
    top: int


class Scorer:
    """A bundle, ready to score chunks. One thread; several processes fill the cores."""

    def __init__(self, opening: Opening) -> None:
        bundle = Bundle.open(Path(opening.bundle))
        self.predictor = Predictor.open(bundle, threads=1)
        task = self.predictor.task
        if not isinstance(task, Ranks):
            raise UsageError(f"{task.name} models do not screen libraries", fix="give a molecule_property model")
        self.task: Ranks = task
        self.column = task.column(opening.by)
        self.sign = -1.0 if opening.ascending else 1.0
        self.top = opening.top
        self.inputs = Inputs.open(bundle.path)
        self.tokenizer = read_tokenizer(bundle.path, self.inputs.max_tokens) if self.inputs.variants else None
        self.domain = Domain.open(bundle.path)

    def score(self, smiles: Sequence[str], floor: float) -> dict[str, Any]:
        """Scores of a chunk.

        Args:
            floor: ranks below it cannot enter the list any more, so nothing further is computed for them.

        Returns:
            `ranks`: the value that is sorted by, greater is better, None for what is no molecule; `best`: number in the
            chunk, value, uncertainty, canonical SMILES and the domain facts of up to `top` molecules, and of their
            repeats in between.
        """
        found = [prepared(text) for text in smiles]
        valid = [number for number, item in enumerate(found) if item is not None]
        ranks: list[float | None] = [None] * len(smiles)
        if not valid:
            return {"ranks": ranks, "best": []}
        molecules = [item for item in found if item is not None]
        outputs = self.predictor.runtime.run(encode_prepared(molecules, self.inputs, self.tokenizer))
        values = self.task.values(outputs, self.predictor.calibration)[:, self.column]
        chosen = self.choose(molecules, self.sign * values, floor)
        for number, value in zip(valid, values, strict=True):
            ranks[number] = float(self.sign * value)
        spread = outputs["spread"][:, self.column] if "spread" in outputs else np.zeros(len(values))
        distinct: dict[str, Any] = {}
        for i, text in chosen.items():
            distinct.setdefault(text, molecules[i].molecule)
        facts = self.describe(distinct)
        best = [
            {"number": valid[i], "value": float(values[i]), "uncertainty": float(spread[i]), **facts[text]}
            for i, text in chosen.items()
        ]
        return {"ranks": ranks, "best": best}

    def choose(self, molecules: Sequence[Prepared], ranks: NDArray[np.float64], floor: float) -> dict[int, str]:
        """Places of the best, in order, and their canonical SMILES, until there are `top` different molecules."""
        chosen: dict[int, str] = {}
        distinct: set[str] = set()
        for i in np.argsort(-ranks, kind="stable").tolist():
            if len(distinct) == self.top or not ranks[i] >= floor:
                break
            chosen[i] = canonical(molecules[i].molecule)
            distinct.add(chosen[i])
        return chosen

    def describe(self, molecules: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What is said of each molecule, by its canonical SMILES."""
        facts: dict[str, dict[str, Any]] = {text: {"canonical": text} for text in molecules}
        if self.domain is None or not molecules:
            return facts
        counts = fingerprints(list(molecules.values()))
        assert pack(counts).shape[1] == self.domain.bits.shape[1]
        near = self.domain.describe(counts, keys(list(molecules)))
        return {text: facts[text] | fact for text, fact in zip(molecules, near, strict=True)}

    def close(self) -> None:
        self.predictor.close()


def main() -> None:
    """Answer each line of standard input; when it ends, because the parent is done or was killed, end as well."""
    scorer = Scorer(Opening(*json.loads(sys.stdin.readline())))
    for line in sys.stdin:
        smiles, floor = json.loads(line)
        sys.stdout.write(json.dumps(scorer.score(smiles, -np.inf if floor is None else floor)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
