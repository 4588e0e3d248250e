"""Tables of prompts with their completions, and of chats, to learn answering from; told by their column names.

    {"prompt": "Subject: late parcel", "completion": "Dear customer, …"}
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]}

A table with a column of labels is left to the readers of tables.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from budwood.core.dataset import Dataset
from budwood.core.task import Row
from budwood.engine.collection import Collection
from budwood.engine.columns import plain_name
from budwood.engine.reading import Reading, read_source, split_of
from budwood.engine.row_roles import SPLIT_FILE, role_columns, with_roles
from budwood.engine.table import Place
from budwood.engine.writing_rows import writing_rows

__all__ = ["Conversations"]

JSON = (".jsonl", ".ndjson", ".json")
TABLES = (".csv", ".tsv")
PAIRS = ({"prompt", "completion"}, {"prompt", "response"}, {"instruction", "output"}, {"instruction", "response"})
CHATS = {"messages", "conversation", "conversations"}
LABELS = {"label", "labels", "class", "category", "target", "intent"}
HEAD = 1 << 16


@final
@dataclass(frozen=True)
class Conversations(Collection):
    def claims(self, path: Path) -> bool:
        """Whether a file's first line (or a folder's train file) names prompts with completions, or messages."""
        files = tables_of(path)
        return bool(files) and all(is_conversation(columns_of(file)) for file in files)

    def read(
        self, path: Path, target: str | None = None, input: str | None = None, group: str | None = None
    ) -> Reading:
        """Rows `{"text", "prompt", "completion"}` or `{"text", "messages"}`, and `split` and `group` where named.

        Raises:
            DataError: a file is broken, a column is missing, a completion is empty, or a message has no known role.
        """
        rows: list[Row] = []
        places: list[Place] = []
        notes: list[str] = []
        sources: list[dict[str, Any]] = []
        for file in tables_of(path):
            source = read_source(file, split_of(file, path) if path.is_dir() else None, skip_bad=False)
            roles = role_columns(source.table, file.name, target=target, input=input, group=group)
            found = writing_rows(roles.without(source.table), file.name, target=target, input=input)
            made, more = with_roles(found.rows, found.numbers, source.table, roles, source.split)
            rows += made
            places += [Place(file.name, number) for number in found.numbers]
            notes += [*source.table.notes, *found.notes, *more]
            sources.append({"path": str(file), "sha256": source.sha256, "bytes": source.bytes, "split": source.split})
        facts = {"sources": sources, "input": ["text"], "target": target, "group": group, "rows": len(rows)}
        names = tuple(Path(item["path"]).name for item in sources)
        return Reading(Dataset(tuple(rows), names), tuple(places), tuple(notes), facts)

    def inputs(self, path: Path, input: str | None = None) -> list[Row]:
        """Prompts to answer: `{"text"}`, or `{"messages"}` without the last answer."""
        asked: list[Row] = []
        for row in self.read(path, None, input).dataset:
            if "messages" in row:
                turns = list(row["messages"])
                while turns and turns[-1]["role"] == "assistant":
                    turns.pop()
                asked.append({"text": "", "messages": turns})
            else:
                asked.append({"text": row["prompt"]})
        return asked


def tables_of(path: Path) -> list[Path]:
    """The file, or the files of a folder that are called train, test and so on."""
    if path.is_file():
        return [path] if path.suffix.lower() in (*JSON, *TABLES) else []
    if not path.is_dir():
        return []
    files = (file for suffix in (*JSON, *TABLES) for file in path.glob(f"*{suffix}"))
    return sorted(file for file in files if SPLIT_FILE.fullmatch(file.stem))


def columns_of(file: Path) -> set[str]:
    """The names in the first line of a table, or the keys of the first object; empty where there are none."""
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD).decode("utf-8-sig", "replace")
    except OSError:
        return set()
    if file.suffix.lower() not in JSON:
        return {plain_name(cell.strip('"')) for cell in re.split(r"[,;\t]", head.split("\n", 1)[0])}
    start = head.lstrip()
    try:
        first, _ = json.JSONDecoder().raw_decode(start[1:].lstrip() if start.startswith("[") else start)
    except ValueError:  # the first object is longer than what was read, or broken: its first key tells
        return {plain_name(key) for key in re.findall(r'^\[?\s*\{\s*"([^"]+)"', start)}
    return {plain_name(key) for key in first} if isinstance(first, dict) else set()


def is_conversation(columns: set[str]) -> bool:
    return not columns & LABELS and (bool(columns & CHATS) or any(pair <= columns for pair in PAIRS))
