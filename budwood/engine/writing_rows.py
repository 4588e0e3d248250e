"""Rows for text generation out of tables: texts, prompts with completions, and chats.

{"prompt": "Subject: late parcel", "completion": "Dear customer, …"}
{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]}

Every row also has `text`, all of it as one text: by that rows are split, compared and counted.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.engine.columns import find, plain_name
from budwood.engine.table import Table, note

__all__ = ["SEPARATOR", "WritingRows", "joined", "writing_rows"]

PROMPTS = ("prompt", "instruction", "question", "input", "query")
COMPLETIONS = ("completion", "response", "answer", "output", "reply", "target")
CHATS = ("messages", "conversation", "conversations", "chat")
TEXTS = ("text", "texts", "document", "content", "body", "story")
ROLES = ("system", "user", "assistant")
SEPARATOR = "\n"
"""What stands between a prompt and its completion where neither brings white space of its own."""


class WritingRows(NamedTuple):
    rows: list[Row]
    numbers: list[int]
    """The line or row of the file that each row comes from."""
    notes: tuple[str, ...]


def writing_rows(table: Table, name: str, *, target: str | None = None, input: str | None = None) -> WritingRows:
    """A table's rows for text generation; columns are told by flag, else by name.

    Args:
        table: what a reader gave.
        name: the file's, for messages.
        target: the column of the completions; without one, whole texts are learnt.
        input: the column of the prompts (several with commas, joined by line feeds), or of the texts.

    Raises:
        DataError: a column is missing, no column is a text, a completion is empty, or a message has no known role.
    """
    plain = {plain_name(column): column for column in table.columns}
    rows: list[Row]
    chat = next((plain[known] for known in CHATS if known in plain), None)
    if chat is not None and target is None and input is None:
        rows = [chat_row(messages_of(row[chat], name, at)) for row, at in numbered(table)]
        return WritingRows(rows, list(table.numbers), (note("input", chat, "by its name: conversations"),))
    known = next((plain[known] for known in COMPLETIONS if known in plain), None)
    answer = find(table, target, name, "--target") if target else known
    asked = columns_of(input, table) or [plain[known] for known in PROMPTS if known in plain and plain[known] != answer]
    if answer is not None and asked:
        rows = [pair_of(row, asked, answer, name, at) for row, at in numbered(table)]
        why = f"prompts, answered by {answer}"
        return WritingRows(rows, list(table.numbers), (note("input", ",".join(asked), why),))
    texts = columns_of(input, table) or [plain[known] for known in TEXTS if known in plain] or list(table.columns)
    if len(texts) > 1 and not input:
        raise DataError(
            "no column is called text, prompt and completion, or messages",
            where=f"{name}: columns {', '.join(table.columns)}",
            fix="name them: --input COLUMN, and --target COLUMN for completions",
        )
    found = [(join_cells(row, texts), at) for row, at in numbered(table)]
    kept = [(text, at) for text, at in found if text.strip()]
    why = "texts" if len(kept) == len(found) else f"texts; {len(found) - len(kept)} empty ones are left out"
    rows = [{"text": text} for text, _ in kept]
    return WritingRows(rows, [at for _, at in kept], (note("input", ",".join(texts), why),))


def numbered(table: Table) -> list[tuple[Mapping[str, Any], int]]:
    return list(zip(table.rows, table.numbers, strict=True))


def columns_of(names: str | None, table: Table) -> list[str]:
    """The columns that a flag names. Raises DataError when there is no such column."""
    if not names:
        return []
    wanted = [names] if names in table.columns else [part.strip() for part in names.split(",")]
    for column in wanted:
        if column not in table.columns:
            raise DataError(
                f"there is no column {column!r}",
                where=f"columns {', '.join(table.columns)}",
                fix="name one of them with --input or --target",
            )
    return wanted


def join_cells(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    return "\n".join(str(row[column]) for column in columns if row[column] not in (None, ""))


def pair_of(row: Mapping[str, Any], asked: Sequence[str], answer: str, name: str, number: int) -> Row:
    completion = "" if row[answer] is None else str(row[answer])
    prompt = join_cells(row, asked)
    if not completion.strip() or not prompt.strip():
        empty = "prompt" if completion.strip() else "completion"
        raise DataError(
            f"the {empty} is empty", where=f"{name}: row at line {number}", fix="fill it in or remove the row"
        )
    prompt = joined(prompt, completion)
    return {"text": prompt + completion, "prompt": prompt, "completion": completion}


def chat_row(messages: list[dict[str, str]]) -> Row:
    text = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
    return {"text": text, "messages": messages}


def joined(prompt: str, completion: str = "") -> str:
    """The prompt as the model reads it: closed by a separator unless white space closes it or opens the completion."""
    return prompt if prompt[-1:].isspace() or completion[:1].isspace() else prompt + SEPARATOR


def messages_of(cell: Any, name: str, number: int) -> list[dict[str, str]]:
    """A conversation from a list of messages, or from its JSON text as tables without lists hold it."""
    where = f"{name}: row at line {number}"
    fix = 'write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError as error:
            raise DataError(f"the conversation is not JSON: {error}", where=where, fix=fix) from error
    well_formed = isinstance(cell, list) and all(
        isinstance(item, Mapping) and item.get("role") in ROLES and isinstance(item.get("content"), str)
        for item in cell
    )
    if not well_formed or not any(item["role"] == "assistant" for item in cell):
        raise DataError("the conversation has no messages with role and content, or no answer", where=where, fix=fix)
    return [{"role": item["role"], "content": item["content"]} for item in cell]
