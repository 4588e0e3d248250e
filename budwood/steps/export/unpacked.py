"""Expand the packed graphs of a bundle, so that other programs can read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from budwood.core.bundle import FORMATS, Bundle
from budwood.core.packed import SUFFIX
from budwood.core.step import Context, Step
from budwood.engine import graft

__all__ = ["Unpacked"]


@final
@dataclass(frozen=True)
class Unpacked(Step):
    """The child has the same files, each graph plain. Without packed graphs it is a copy."""

    name: ClassVar[str] = "export.unpacked"
    takes: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Raises BundleError when a packed graph is damaged."""
        packed = [format for format in FORMATS if parent.stored(format).endswith(SUFFIX)]

        def write(stage: Path) -> None:
            graft.copy_files(parent, [name for name in parent.names if not name.endswith(SUFFIX)], stage)
            for format in packed:
                (stage / FORMATS[format]).parent.mkdir(exist_ok=True)
                (stage / FORMATS[format]).write_bytes(parent.read_model(format))

        past = parent.manifest.report
        return Bundle.create(context.out, parent.draft(self.name, self.parameters(), report=past), write)
