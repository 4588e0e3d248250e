"""A table that names image files beside it, with their labels: a file of its own, or the only table of a folder.

image,label                      photos/labels.csv
photos/1.jpg,kitchen             photos/photos/1.jpg
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.engine.collection import Collection
from budwood.engine.columns import choose_columns, find, split_names
from budwood.engine.findings import NO_LABEL
from budwood.engine.image_rows import HEAD, Item, image_files, is_image_name, naming_table, reading_of
from budwood.engine.label_cells import plain_numbers, to_labels
from budwood.engine.reading import Reading, Source, describe, read_source, reader_of, typed_rows
from budwood.engine.table import Place, Table, note

__all__ = ["ImageTable"]

TRIED = 50
"""Cells of a column that are looked at."""
LISTED = 3
"""Images of one name that are named."""


@final
@dataclass(frozen=True)
class ImageTable(Collection):
    def claims(self, path: Path) -> bool:
        """Whether the path is a table, or a folder with one table, that names existing image files."""
        table = naming_table(path)
        try:
            return table is not None and image_column(head_of(table), table.parent) is not None
        except DataError:
            return False  # the readers of tables say what is wrong with it

    def read(self, path: Path, target: str | None, input: str | None, group: str | None) -> Reading:
        source, column = self.source(path, input)
        targets = split_names(source.table, target)
        first = targets[0] if targets else None
        columns = choose_columns(source.table, source.path.name, target=first, input=column, group=group)
        rows, more = typed_rows(source, columns)
        rows, changed = with_plain_numbers(rows)
        if len(targets) > 1:
            rows = with_all(rows, source, [find(source.table, name, source.path.name, "--target") for name in targets])
        files = found_files(source.path.parent, [str(row["text"]) for row in rows])
        items: list[Item] = []
        refused: list[tuple[Place, str]] = []
        for row, number in zip(rows, source.table.numbers, strict=True):
            place, name = Place(source.path.name, number), str(row["text"])
            if row["label"] == "":
                refused.append((place, NO_LABEL))
            elif len(found := files[name]) != 1:
                refused.append((place, problem(name, found, source.path.parent)))
            else:
                items.append(Item(found[0], place, {key: value for key, value in row.items() if key != "text"}))
        notes = [*source.table.notes, note("input", column, "it names image files"), *columns.notes, *more, *changed]
        facts = {"sources": [describe(source)], "target": target or columns.target, "group": columns.group}
        reading = reading_of(items, source.path, notes, facts | {"input": [column]}, refused)
        return replace(reading, tables=((rows_at(source.table, reading.places), columns),))

    def inputs(self, path: Path, input: str | None) -> list[Row]:
        """One row for each name, in their order; an image that is missing is found when its turn comes.

        Raises:
            DataError: a name leads out of the table's folder, or several images have it.
        """
        source, column = self.source(path, input)
        folder = source.path.parent
        names = [str(row[column] or "") for row in source.table.rows]
        files = found_files(folder, names)
        for name, number in zip(names, source.table.numbers, strict=True):
            if len(files[name]) > 1 or not is_inside(name):
                raise DataError(
                    problem(name, files[name], folder),
                    where=f"{source.path.name}: row at line {number}",
                    fix="write the name of the file as it is seen from the table's folder",
                )
        return [{"image": str((files[name] or [folder / name])[0].absolute())} for name in names]

    def source(self, path: Path, input: str | None) -> tuple[Source, str]:
        """The table, and the column that names the images."""
        table = naming_table(path)
        assert table is not None  # read and inputs follow claims
        source = read_source(table, None, skip_bad=True)
        head = head_of(table)
        claimed = image_column(head, table.parent)
        # By its place: with all rows at hand the header may be told otherwise than from the head alone.
        here = slice(None, 0) if claimed is None else slice(head.columns.index(claimed), None)
        column = next(iter(source.table.columns[here]), None)
        if column is None or (input and input != column):
            raise DataError(
                f"column {input or ''!r} does not name image files",
                where=f"{table.name}: columns {', '.join(source.table.columns)}",
                fix=f"--input {column}" if column else "write the names of the files, relative to the table",
            )
        return source, column


def rows_at(table: Table, places: Sequence[Place]) -> Table:
    """The table with the rows of these places only, whose numbers are its own."""
    rows = dict(zip(table.numbers, table.rows, strict=True))
    numbers = [place.number for place in places]
    return replace(table, rows=[rows[number] for number in numbers], numbers=numbers)


def with_all(rows: Sequence[Row], source: Source, targets: Sequence[str]) -> list[Row]:
    """Rows whose label has a value of each of several columns; none where a cell is empty."""
    columns = {name: plain_numbers(to_labels([row[name] for row in source.table.rows])[0])[0] for name in targets}
    made: list[Row] = []
    for place, row in enumerate(rows):
        values = {name: column[place] for name, column in columns.items()}
        made.append({**row, "label": values if all(values.values()) else ""})
    return made


def with_plain_numbers(rows: Sequence[Row]) -> tuple[list[Row], tuple[str, ...]]:
    """Rows whose labels have points for decimal commas; see `plain_numbers`."""
    labels, notes = plain_numbers([row["label"] or None for row in rows])
    return [
        {**row, "label": row["label"] if label is None else label} for row, label in zip(rows, labels, strict=True)
    ], notes


def head_of(path: Path) -> Table:
    """The rows that stand whole in the first bytes. Raises DataError when there are none."""
    try:
        with path.open("rb") as file:
            content = file.read(HEAD)
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror}", where=str(path), fix="check it with `ls -l`") from error
    if len(content) == HEAD:
        content = content[: last_whole_line(content)]
    return reader_of(path, content).read(content, path.name, skip_bad=True)


def last_whole_line(content: bytes) -> int:
    """Where the last line ends, not counting lines within an open quote; 0 when no line ends."""
    start, quotes, end = 0, 0, 0
    while (stop := content.find(b"\n", start) + 1) > 0:
        quotes += content.count(b'"', start, stop)
        start, end = stop, stop if quotes % 2 == 0 else end
    return end or start


def image_column(table: Table, folder: Path) -> str | None:
    """The first column of which most cells are names of images and at least one of them exists."""
    step = max(1, len(table.rows) // TRIED)
    for column in table.columns:
        cells = [str(row[column] or "") for row in table.rows[::step]]
        named = [cell for cell in cells if is_image_name(cell)]
        if 2 * len(named) > len(cells) and any(found_files(folder, named).values()):
            return column
    return None


def found_files(folder: Path, names: Sequence[str]) -> Mapping[str, Sequence[Path]]:
    """The files of each name: the one relative to the table, or, where none is, all below its folder that end so.

    Names that lead out of the folder are not followed.
    """
    files = {name: [folder / name] if is_inside(name) and os.path.isfile(folder / name) else [] for name in names}
    below: dict[str, list[Path]] = defaultdict(list)
    if any(is_inside(name) for name, own in files.items() if not own):
        for file in image_files(folder):
            below[file.name].append(file)
    for name, own in files.items():
        if not own and is_inside(name):
            parts = Path(name).parts
            own += [file for file in below.get(Path(name).name, []) if file.parts[-len(parts) :] == parts]
    return files


def is_inside(name: str) -> bool:
    return bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts


def problem(name: str, found: Sequence[Path], folder: Path) -> str:
    """Why a name gives no image."""
    if found:
        listed = ", ".join(file.relative_to(folder).as_posix() for file in found[:LISTED])
        return f"{len(found)} images are called {name!r}: {listed}"
    if name and not is_inside(name):
        return f"{name!r} leads out of the folder of the table"
    return f"there is no image {name!r} beside the table"
