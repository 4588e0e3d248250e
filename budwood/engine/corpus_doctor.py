"""What is wrong with texts to learn writing from: repeats, leaks, broken letters, leftovers of markup, too little text.

Such rows have no labels; for labelled texts see `budwood.engine.doctor`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from budwood.core.task import Row
from budwood.engine.findings import LEAK_GATE, Finding, Severity, gravest_first
from budwood.engine.reading import Reading
from budwood.engine.similarity import Vectors, nearest, nearest_before, ngram_vectors, normalise
from budwood.engine.table import Place

__all__ = ["diagnose_corpus"]

NEAR = 0.9
"""Cosine of character n-grams from which two texts are nearly the same."""
NEAR_ROWS = 5_000
LOOKED_AT = 2_000
"""Characters of a text by which it is compared."""
SHORT = 20
"""Characters below which a text teaches nothing."""
LITTLE = 50_000
"""Characters of all texts together below which a model repeats them rather than writes like them."""
SHARE = 0.01
"""Share of the texts that have a leftover before it is told."""
MOJIBAKE = re.compile("\N{REPLACEMENT CHARACTER}|[ÃÂ][\u0080-\u00bf]|â€[\u0080-\u203a™œ\u009d]?|ï»¿")
"""UTF-8 that was read as Western Windows text, and bytes that somebody gave up on."""
CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
TAGS = "p|br|div|span|a|b|i|em|strong|li|ul|td|tr|table|script|style"
MARKUP = re.compile(rf"</?(?:{TAGS})\b[^<>]{{0,200}}>|&(?:[a-z]{{2,6}}|#\d{{2,5}});")


@dataclass(frozen=True)
class Texts:
    rows: Sequence[Row]
    places: Sequence[Place]

    @cached_property
    def keys(self) -> list[str]:
        return [normalise(str(row["text"])) for row in self.rows]

    def at(self, indices: Iterable[int]) -> tuple[Place, ...]:
        return tuple(self.places[i] for i in indices)

    def pick(self, wanted: Sequence[bool]) -> "Texts":
        kept = [i for i, one in enumerate(wanted) if one]
        return Texts([self.rows[i] for i in kept], self.at(kept))


def diagnose_corpus(reading: Reading, test: Reading | None = None) -> list[Finding]:
    """All findings, the gravest first.

    Args:
        reading: rows with a `text`; those that carry the split test are what leaks are looked for in.
        test: other test rows.
    """
    everything = Texts(reading.dataset.rows, reading.places)
    held = [row.get("split") == "test" for row in everything.rows]
    train = everything.pick([not one for one in held])
    tested = everything.pick(held) if test is None else Texts(test.dataset.rows, test.places)
    return gravest_first(
        [
            *little_text(train),
            *leakage(train, tested),
            *repeats(train),
            *near_repeats(train),
            *leftovers(everything),
            *too_short(everything),
        ]
    )


def little_text(train: Texts) -> Iterable[Finding]:
    total = sum(len(row["text"]) for row in train.rows)
    if total < LITTLE:
        message = f"{total:,} characters in all: a model learns so few by heart and repeats them"
        yield Finding(
            "little_text", "warning", message, fix=f"give {LITTLE:,} or more, or take a base that writes well"
        )


def repeats(train: Texts) -> Iterable[Finding]:
    seen: set[str] = set()
    again = []
    for index, key in enumerate(train.keys):
        if key in seen:
            again.append(index)
        seen.add(key)
    if again:
        most, count = Counter(train.keys).most_common(1)[0]
        message = (
            f"{len(again):,} texts repeat an earlier one; the most frequent is there {count:,} times: {most[:60]!r}"
        )
        fix = "drop the repeats: what is read often is written often"
        yield Finding("duplicate", "warning", message, train.at(again), fix)


def near_repeats(train: Texts) -> Iterable[Finding]:
    """Texts that nearly repeat an earlier one; equal ones are told as repeats. The first 5,000 are compared."""
    first: dict[str, int] = {}
    for index, key in enumerate(train.keys):
        if len(key) >= SHORT:
            first.setdefault(key, index)
    chosen = list(first.values())[:NEAR_ROWS]
    pairs = nearest_before(vectors([train.keys[i] for i in chosen]), NEAR)
    if not pairs:
        return
    i, j, cosine = max(pairs, key=lambda pair: pair[2])
    example = f"{train.keys[chosen[i]][:60]!r} and {train.keys[chosen[j]][:60]!r} ({cosine:.2f})"
    extent = f"; only the first {NEAR_ROWS:,} of {len(first):,} texts were compared" if len(first) > NEAR_ROWS else ""
    message = f"{len(pairs):,} texts nearly repeat an earlier one, by character n-grams; such as {example}{extent}"
    rows = train.at(sorted({chosen[row] for row, _, _ in pairs}))
    yield Finding("near_duplicate", "info", message, rows, "look at them: templates and versions are learnt by heart")


def leakage(train: Texts, held: Texts) -> Iterable[Finding]:
    """Test texts that are, or nearly are, among those to learn from: their perplexity flatters."""
    if not held.rows or not train.rows:
        return
    known = set(train.keys)
    same = [i for i, key in enumerate(held.keys) if key in known]
    if same:
        grave = len(same) > LEAK_GATE * len(held.rows)
        message = f"{len(same):,} of {len(held.rows):,} texts of test are also in train"
        yield Finding("leakage", "error" if grave else "warning", message, held.at(same), "drop them from train")
    fresh = [i for i, key in enumerate(held.keys) if key not in known and len(key) >= SHORT]
    both = vectors([*(held.keys[i] for i in fresh), *train.keys[:NEAR_ROWS]])
    pairs = nearest(both[: len(fresh)], both[len(fresh) :], NEAR) if fresh else []
    if pairs:
        message = f"{len(pairs):,} texts of test nearly repeat one of train, by character n-grams"
        rows = held.at(sorted(fresh[i] for i, _, _ in pairs))
        yield Finding("near_leakage", "warning", message, rows, "look at them, and drop them from train")


def vectors(texts: Sequence[str]) -> Vectors:
    return ngram_vectors([text[:LOOKED_AT] for text in texts])


def leftovers(texts: Texts) -> Iterable[Finding]:
    """Letters that were read in the wrong encoding, control characters, and markup."""
    checks: tuple[tuple[str, Severity, str, re.Pattern[str], str, float], ...] = (
        ("mojibake", "warning", "letters in the wrong encoding", MOJIBAKE, "save the source as UTF-8 again", 0.0),
        ("control", "warning", "control characters", CONTROL, "remove them", 0.0),
        ("markup", "info", "markup such as HTML", MARKUP, "remove it, unless it is what you want written", SHARE),
    )
    for kind, severity, what, pattern, fix, least in checks:
        found = {i: match[0] for i, row in enumerate(texts.rows) if (match := pattern.search(row["text"]))}
        if found and len(found) >= least * len(texts.rows):
            examples = ", ".join(repr(item) for item in sorted(set(found.values()))[:3])
            message = f"{len(found):,} texts have {what}, such as {examples}"
            yield Finding(kind, severity, message, texts.at(found), fix)


def too_short(texts: Texts) -> Iterable[Finding]:
    short = [i for i, row in enumerate(texts.rows) if len(row["text"].strip()) < SHORT]
    if short:
        message = f"{len(short):,} texts have fewer than {SHORT} characters: they teach the model to stop at once"
        yield Finding("too_short", "info", message, texts.at(short), "join them to longer ones, or drop them")
