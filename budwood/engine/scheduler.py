"""Writes many texts at once: between any two steps texts may join and leave, and long prompts are read in parts.

A turn admits what waits, reads a bounded number of prompt tokens, then writes one token of every text that has been
read (Yu et al. 2022, Orca; chunks after Agrawal et al. 2023, Sarathi). What a finished text left in memory stays there
while there is room, and is not read again by a prompt that begins with it.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from budwood.engine.decoder_rows import Row, Rows
from budwood.engine.decoding import Finish, Piece, Writer

__all__ = ["Room", "Scheduler", "Work"]

KEPT = 0.75
"""Share of the window that is read again when a text outgrows it: more remembers better, less reads less often."""
PROMPT_TOKENS = 128
"""Prompt tokens that are read between two steps, while others write: about 50 ms of GPT-2 on two cores."""
MOST_PARTS = 3
"""So many times as much where many prompts wait, as long as turns are short."""
LONG_TURN = 0.2
"""Seconds of a turn that a reader does not notice: four to five tokens a second."""
PATIENCE = 32
"""A prompt that waits for a turn is treated like one that is so many tokens shorter."""
QUANTUM = 64
"""A text that has written so many tokens in one go makes room for one that waits."""
LEAST_COMMON = 16
"""Tokens that a prompt must share with a row to be worth a copy of it."""


class Room(NamedTuple):
    """What texts may take up."""

    texts: int = 64
    """Texts that are written side by side."""
    rows: int = 64
    """Rows of memory, of those and of texts that ended."""
    tokens: int = 1 << 20
    """Tokens in all rows. One text may always be written, however long."""


def reraise(error: Exception) -> None:
    raise error


@dataclass(eq=False)
class Work:
    """The texts of one request."""

    writers: Sequence[Writer]
    emit: Callable[[Piece], None]
    """Called for each piece of text, in the thread that takes the turns."""
    until: float | None = None
    """On the clock of `time.monotonic`: texts that are not done then end with `deadline`."""
    cancelled: Callable[[], bool] = lambda: False
    """Asked before each token; True ends all texts with `cancelled`."""
    failed: Callable[[Exception], None] = reraise
    """Called where a text's options do not go with the model, or the model failed as it read the text's prompt."""
    owner: object = None
    """Who asks: places go to those who have the fewest."""
    tokens: int = 0
    """New tokens so far."""
    begun: bool = False
    """Whether one of its texts has had a place."""


@dataclass(eq=False)
class Prompt:
    """What several samples of one request begin with, so that one of them reads it for all."""

    ids: list[int]
    reader: "Text | None" = None
    logits: NDArray[np.float32] | None = None
    """Of the first new token, once it has been read."""


@dataclass(eq=False)
class Text:
    """One text that is written or waits."""

    work: Work
    writer: Writer
    prompt: Prompt
    order: int
    """Its place among those that wait."""
    head: list[int]
    """What its window began with: its prompt, or its last tokens when the window slid."""
    since: int
    """The tokens that were written from there on are in the window, too."""
    pending: list[int] = field(default_factory=list)
    """Tokens to read before it can go on."""
    row: Row | None = None
    quantum: int = 0
    """Tokens since it was admitted."""
    waited: int = 0
    """Turns since a part of its prompt was read."""


class Scheduler:
    """Texts over the rows of one model. One thread calls `add` and `turn`.

    Args:
        window: tokens that the model remembers at most.
        start: the token that begins a document, kept when a window slides; None where there is none.
    """

    def __init__(self, rows: Rows, window: int, start: int | None, room: Room) -> None:
        self.rows, self.window, self.start, self.room = rows, window, start, room
        self.waiting: list[Text] = []
        self.active: list[Text] = []
        self.retired: list[Row] = []
        """Rows of texts that ended, the oldest first."""
        self.held = 0
        """Tokens in all rows."""
        self.order = 0
        self.seconds = 0.0
        """What the last turn took."""

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.active)

    def add(self, work: Work) -> None:
        """Let these texts wait for their places; samples of one prompt share its reading."""
        prompts: dict[tuple[int, ...], Prompt] = {}
        for writer in work.writers:
            ids = fit(writer.ids, self.window, self.start)
            prompt = prompts.setdefault(tuple(ids), Prompt(ids))
            self.waiting.append(Text(work, writer, prompt, self.next_order(), ids, len(writer.ids)))

    def next_order(self) -> int:
        self.order += 1
        return self.order

    def turn(self) -> None:
        """One step of everything. Raises whatever the model does in a step; the texts are then lost."""
        began = time.perf_counter()
        self.sweep()
        self.admit()
        writing = [text for text in self.active if not text.pending]
        self.read()
        self.write(writing)
        self.seconds = time.perf_counter() - began

    def drop(self) -> None:
        """Forget all texts and rows."""
        self.waiting.clear()
        for text in self.active:
            self.release(text)
        self.active.clear()
        while self.retired:
            self.forget(self.retired[0])
        self.held = 0  # a turn that failed may have counted what it did not read

    # Beginning and end

    def sweep(self) -> None:
        """End the texts that nobody waits for, and those whose time is over."""
        now = time.monotonic()
        texts = [*self.active, *self.waiting]
        reasons = {work: ending(work, now) for work in {text.work for text in texts}}
        for text in texts:
            if (reason := reasons[text.work]) is not None:
                text.work.emit(text.writer.end(reason))
                self.leave(text)

    def leave(self, text: Text) -> None:
        if text in self.active:
            self.active.remove(text)
            self.release(text)
        else:
            self.waiting.remove(text)

    def release(self, text: Text) -> None:
        """Give up a text's place; its row is kept for prompts that begin like it."""
        if text.prompt.reader is text:
            text.prompt.reader = None
        if text.row is not None:
            self.retired.append(text.row)
            text.row = None

    def admit(self) -> None:
        """Fill the free places, those first who have the fewest."""
        while self.waiting:
            owners = Counter(text.work.owner for text in self.active)
            works = Counter(text.work for text in self.active)
            ready = [text for text in self.waiting if text.prompt.reader is None or text.prompt.logits is not None]
            if not ready:
                return
            text = min(ready, key=lambda text: (owners[text.work.owner], works[text.work], text.order))
            if not self.has_place(text):
                return
            self.waiting.remove(text)
            self.active.append(text)
            text.work.begun = True
            self.open(text)

    def has_place(self, text: Text) -> bool:
        """Whether a text can be admitted, if need be in the place of one that has written for long."""
        if not self.active:
            return True
        held = sum(len(other.row.ids) + len(other.pending) for other in self.active if other.row is not None)
        needed = held + min(len(text.writer.ids), self.window)
        if len(self.active) < self.room.texts and needed + QUANTUM * (len(self.active) + 1) <= self.room.tokens:
            return True
        longest = max(self.active, key=lambda other: other.quantum)
        if longest.quantum < QUANTUM:
            return False
        self.displace(longest)
        return len(self.active) < self.room.texts

    def displace(self, text: Text) -> None:
        """Let a text wait again; its row is kept as long as nobody needs the room."""
        self.active.remove(text)
        self.release(text)
        text.order = self.next_order()
        self.waiting.append(text)

    def open(self, text: Text) -> None:
        """Give a text a row, with as much of its beginning as some row remembers."""
        begun = len(text.writer.ids) > text.writer.prompt_tokens
        ids = text.head + text.writer.ids[text.since :]
        if len(ids) > self.window:
            ids = self.slide(text)
        logits = None if begun else text.prompt.logits
        text.row, common = self.recall(ids, text.work.owner, whole=logits is not None)
        text.row.owner = text.work.owner
        text.pending, text.quantum, text.waited = ids[common:], 0, 0
        if logits is not None and common == len(ids):
            self.take(text, logits)
        elif not begun and text.prompt.logits is None:
            text.prompt.reader = text

    def recall(self, ids: Sequence[int], owner: object, *, whole: bool) -> tuple[Row, int]:
        """A row that remembers the beginning of `ids`, and how much; of all of it only where `whole`.

        Only rows of the same owner: by the time that an answer takes, others could tell what somebody has asked.
        """
        known = [*self.retired, *(text.row for text in self.active if text.row is not None)]
        rows = [row for row in known if row.owner == owner]
        sizes = [shared(row.ids, ids) for row in rows]
        best = max(range(len(rows)), key=lambda at: sizes[at], default=None)
        common = 0 if best is None else min(sizes[best], len(ids) - (not whole))
        if best is None or (common < LEAST_COMMON and not (whole and common == len(ids))):
            self.make_room(len(ids), None)
            return self.rows.open(), 0
        row = rows[best]
        if row in self.retired and 2 * common >= len(row.ids):
            self.retired.remove(row)
            self.held -= len(row.ids) - common
            self.rows.cut(row, common)
            self.make_room(len(ids) - common, None)
            return row, common
        self.make_room(len(ids), row)
        self.held += common
        return self.rows.fork(row, common), common

    def make_room(self, tokens: int, keep: Row | None) -> None:
        """Forget the oldest of the texts that ended, until one more row and so many more tokens fit."""
        for row in [row for row in self.retired if row is not keep]:
            if len(self.retired) + len(self.active) <= self.room.rows and self.held + tokens <= self.room.tokens:
                return
            self.forget(row)

    def forget(self, row: Row) -> None:
        self.retired.remove(row)
        self.held -= len(row.ids)
        self.rows.close(row)

    # Reading and writing

    def read(self) -> None:
        """Read on in the prompts, the shortest rests first."""
        reading = [text for text in self.active if text.pending]
        # Where nobody writes nobody is stalled; but whoever comes meanwhile waits for the end of this turn.
        crowd = min(1 + len(reading) // 3, MOST_PARTS) if self.seconds < LONG_TURN else 1
        left = PROMPT_TOKENS * (crowd if len(reading) < len(self.active) else max(crowd, 2))
        for text in sorted(reading, key=lambda text: len(text.pending) - PATIENCE * text.waited):
            if left <= 0:
                text.waited += 1
                continue
            part, text.pending = text.pending[:left], text.pending[left:]
            left -= len(part)
            text.waited = 0
            self.make_room(len(part), None)
            self.held += len(part)
            assert text.row is not None
            try:
                logits = self.rows.read(text.row, part)
            except Exception as error:  # noqa: BLE001  # one text was read, so only that one is lost
                self.lose(text, text.row, len(part), error)
                continue
            if not text.pending:
                if text.prompt.reader is text and text.prompt.logits is None:
                    text.prompt.logits = logits
                self.take(text, logits)

    def lose(self, text: Text, row: Row, part: int, error: Exception) -> None:
        """Give up a text on which the model failed, with its row: nobody knows what that holds now."""
        text.row = None
        self.held -= len(row.ids) + part
        self.rows.close(row)
        self.leave(text)
        text.work.failed(error)

    def write(self, texts: Sequence[Text]) -> None:
        """One more token in each of these; a text whose window is full is read again, shortened."""
        writing: list[tuple[Text, Row]] = []
        for text in texts:
            assert text.row is not None
            if len(text.row.ids) < self.window:
                writing.append((text, text.row))
            else:
                text.pending = self.slide(text)
                self.held -= len(text.row.ids)
                self.rows.cut(text.row, 0)
        if not writing:
            return
        self.make_room(len(writing), None)
        self.held += len(writing)
        logits = self.rows.step([row for _, row in writing], [text.writer.ids[-1] for text, _ in writing])
        for (text, _), row in zip(writing, logits, strict=True):
            self.take(text, row)
        if self.held > self.room.tokens and len(self.active) > 1:
            self.displace(self.active[-1])

    def slide(self, text: Text) -> list[int]:
        """What a text's window begins with anew."""
        text.head, text.since = fit(text.writer.ids, self.window, self.start, slide=True), len(text.writer.ids)
        return list(text.head)

    def take(self, text: Text, logits: NDArray[np.float32]) -> None:
        """Choose a text's next token, and end the text where that was its last."""
        before = text.writer.tokens
        try:
            piece = text.writer.take(logits)
        except Exception as error:  # noqa: BLE001  # what one request asks for must not end the others
            text.work.failed(error)
            self.leave(text)
            return
        text.quantum += 1
        text.work.tokens += text.writer.tokens - before
        if piece.text or piece.finish:
            text.work.emit(piece)
        if piece.finish:
            self.leave(text)


def ending(work: Work, now: float) -> Finish | None:
    if work.cancelled():
        return "cancelled"
    return "deadline" if work.until is not None and now > work.until else None


def fit(ids: Sequence[int], window: int, start: int | None, *, slide: bool = False) -> list[int]:
    """The ids, or their end where they are too many for the window to hold and one token to be added."""
    if len(ids) < window and not slide:
        return list(ids)
    first = [ids[0]] if ids[0] == start else []
    return first + list(ids[len(ids) - max(1, int(window * KEPT) - len(first)) :])


def shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    size = min(len(first), len(second))
    if first[:size] == second[:size]:
        return size
    if first[:LEAST_COMMON] != second[:LEAST_COMMON]:
        return next(at for at in range(size) if first[at] != second[at])
    return int(np.argmin(np.equal(first[:size], second[:size])))
