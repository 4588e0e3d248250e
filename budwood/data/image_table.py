"""A table that names image files beside it, with their labels: a file of its own, or the only table of a folder.

image,label                      photos/labels.csv
photos/1.jpg,kitchen             photos/photos/1.jpg
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.engine.collection import Collection
from budwood.engine.columns import choose_columns
from budwood.engine.image_rows import Item, image_files, is_image_name, naming_table, reading_of
from budwood.engine.reading import Reading, Source, describe, read_source, typed_rows
from budwood.engine.table import Place, Table, note

__all__ = ["ImageTable"]

TRIED = 50
"""Cells of a column that are looked at."""


@final
@dataclass(frozen=True)
class ImageTable(Collection):
    def claims(self, path: Path) -> bool:
        """Whether the path is a table, or a folder with one table, that names existing image files."""
        table = naming_table(path)
        try:
            return table is not None and image_column(read(table).table, table.parent) is not None
        except DataError:
            return False  # the readers of tables say what is wrong with it

    def read(self, path: Path, target: str | None, input: str | None, group: str | None) -> Reading:
        source, column = self.source(path, input)
        columns = choose_columns(source.table, source.path.name, target=target, input=column, group=group)
        rows, more = typed_rows(source, columns)
        files = found_files(source.path.parent, [str(row["text"]) for row in rows])
        items: list[Item] = []
        refused: list[tuple[Place, str]] = []
        for row, number in zip(rows, source.table.numbers, strict=True):
            place, name = Place(source.path.name, number), str(row["text"])
            if row["label"] == "":
                refused.append((place, "there is no label"))
            elif name not in files:
                refused.append((place, f"there is no image {name!r} beside the table"))
            else:
                items.append(Item(files[name], place, {key: value for key, value in row.items() if key != "text"}))
        notes = [*source.table.notes, note("input", column, "it names image files"), *columns.notes, *more]
        facts = {"sources": [describe(source)], "target": columns.target, "group": columns.group}
        return reading_of(items, source.path, notes, facts | {"input": [column]}, refused)

    def inputs(self, path: Path, input: str | None) -> list[Row]:
        source, column = self.source(path, input)
        names = [str(row[column] or "") for row in source.table.rows]
        files = found_files(source.path.parent, names)
        return [{"image": str(files.get(name, source.path.parent / Path(name).name).absolute())} for name in names]

    def source(self, path: Path, input: str | None) -> tuple[Source, str]:
        """The table, and the column that names the images."""
        table = naming_table(path)
        assert table is not None  # read and inputs follow claims
        source = read(table)
        column = image_column(source.table, table.parent)
        if column is None or (input and input != column):
            raise DataError(
                f"column {input or ''!r} does not name image files",
                where=f"{table.name}: columns {', '.join(source.table.columns)}",
                fix=f"--input {column}" if column else "write the names of the files, relative to the table",
            )
        return source, column


def read(table: Path) -> Source:
    return read_source(table, None, skip_bad=True)


def image_column(table: Table, folder: Path) -> str | None:
    """The first column of which most cells are names of images and at least one of them exists."""
    step = max(1, len(table.rows) // TRIED)
    for column in table.columns:
        cells = [str(row[column] or "") for row in table.rows[::step]]
        named = [cell for cell in cells if is_image_name(cell)]
        if 2 * len(named) > len(cells) and found_files(folder, named):
            return column
    return None


def found_files(folder: Path, names: Sequence[str]) -> Mapping[str, Path]:
    """The files of those names: relative to the table, or, where none is, anywhere below its folder.

    Names that lead out of the folder are not followed.
    """
    inside = [name for name in names if name and not Path(name).is_absolute() and ".." not in Path(name).parts]
    direct = {name: folder / name for name in inside if (folder / name).is_file()}
    if direct or not inside:
        return direct
    below = {file.name: file for file in image_files(folder)}
    return {name: below[Path(name).name] for name in inside if Path(name).name in below}
