"""Expand what is packed in a bundle, graphs and weights, so that other programs can read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.core.packed import SUFFIX, PackedError, expand
from budwood.core.page import REPORT
from budwood.core.step import Context, Step
from budwood.engine import graft

__all__ = ["Unpacked"]


@final
@dataclass(frozen=True)
class Unpacked(Step):
    """The child has the same model files, all of them plain. The card and the report page stay behind, because they
    tell of the packed model. Where nothing is packed it is a copy."""

    name: ClassVar[str] = "export.unpacked"
    takes: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Raises BundleError when a packed file is damaged, or holds what a bundle may not."""
        packed = [name for name in parent.names if name.endswith(SUFFIX)]
        others = [name for name in parent.names if name not in packed and not (packed and tells(name))]

        def write(stage: Path) -> None:
            graft.copy_files(parent, others, stage)
            for name in packed:
                target = stage / name.removesuffix(SUFFIX)
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(expanded(parent, name))

        past = {name: value for name, value in parent.manifest.report.items() if name != "packed"}
        return Bundle.create(context.out, parent.draft(self.name, self.parameters(), report=past), write)


def tells(name: str) -> bool:
    """Whether a file tells people of the model."""
    return name in ("README.md", REPORT) or name.startswith("report/")


def expanded(parent: Bundle, name: str) -> bytes:
    """The bytes of a packed file; what they are is checked when the child is committed."""
    try:
        return expand(parent.read(name))
    except PackedError as error:
        fix = "do not use it; take the bundle that it was packed from, or copy this one again from its source"
        raise BundleError(f"{name} {error}", where=str(parent.path / name), fix=fix) from error
