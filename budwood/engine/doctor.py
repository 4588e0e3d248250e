"""The data doctor: what is wrong with labelled rows, before they cost an afternoon of training.

`diagnose` only looks; `budwood.engine.mending` repairs what can be repaired safely.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from budwood.core.task import Row
from budwood.engine.findings import IMBALANCE, LEAK_GATE, Finding, gravest_first
from budwood.engine.label_check import label_errors, similar_names, spelling_variants
from budwood.engine.reading import Reading
from budwood.engine.similarity import Embed, nearest, nearest_before, ngram_vectors, normalise, unit
from budwood.engine.splits import labels_of
from budwood.engine.table import Place

__all__ = ["diagnose"]

RARE = 5
"""Rows of a class below which its score says little."""
NEAR_ROWS = 10_000
"""Different texts that are compared with each other; the time grows with the square: some seconds for this many."""
NEAR = 0.85
"""Cosine of character n-grams from which two texts are nearly the same."""
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Part:
    """Rows that are learnt from, or tested on, with what several checks need of them."""

    rows: tuple[Row, ...]
    places: tuple[Place, ...]

    @cached_property
    def keys(self) -> list[str]:
        return [normalise(row["text"]) for row in self.rows]

    def at(self, indices: Iterable[int]) -> tuple[Place, ...]:
        return tuple(self.places[index] for index in indices)

    def pick(self, indices: Sequence[int]) -> "Part":
        return Part(tuple(self.rows[i] for i in indices), self.at(indices))


def diagnose(
    reading: Reading,
    test: Reading | None = None,
    embed: Embed | None = None,
    *,
    near: float | None = None,
    count_tokens: Callable[[str], int] | None = None,
    max_tokens: int = 256,
    probabilities: tuple[Sequence[str], NDArray[np.floating]] | None = None,
) -> list[Finding]:
    """All findings, the gravest first. The rows should have been read with `keep_empty=True`.

    Args:
        reading: the training rows; those that carry the split test are what leakage is looked for in.
        test: other test rows.
        embed: texts to vectors for near duplicates; without it, hashed character n-grams are compared.
        near: cosine from which texts are near duplicates (default 0.95 with `embed`, 0.85 without).
        count_tokens: the tokens of a text; without it, one for every four characters.
        max_tokens: where longer texts are cut.
        probabilities: class names, and an array (rows, classes) predicted by models that had not seen the row.
    """
    everything = Part(reading.dataset.rows, reading.places)
    own_test = [i for i, row in enumerate(everything.rows) if row.get("split") == "test"]
    train = everything.pick([i for i, row in enumerate(everything.rows) if row.get("split") != "test"])
    held = everything.pick(own_test) if test is None else Part(test.dataset.rows, test.places)
    labels = Counter(label for row in train.rows for label in labels_of(row) if label)
    variants = spelling_variants(labels)
    findings = [
        *broken_lines([*reading.skipped, *(test.skipped if test is not None else ())]),
        *empty_cells(everything),
        *spellings(everything, labels, variants),
        *class_sizes(train, merged(labels, variants)),
        *duplicates(everything, variants),
        *conflicts(everything, variants),
        *near_duplicates(train, variants, near if near is not None and embed is None else NEAR),
        *leakage(train, held, embed, near),
        *unknown_classes(held, labels, variants),
        *too_long(everything, count_tokens, max_tokens),
    ]
    if probabilities is not None:
        findings += suspects(everything, *probabilities)
    return gravest_first(findings)


def merged(labels: Mapping[str, int], variants: Mapping[str, str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for label, count in labels.items():
        counts[variants.get(label, label)] += count
    return counts


def broken_lines(skipped: Sequence[tuple[Place, str]]) -> Iterable[Finding]:
    if skipped:
        place, reason = skipped[0]
        message = f"{len(skipped):,} lines cannot be read; {place}: {reason}"
        yield Finding(
            "broken_line", "error", message, tuple(at for at, _ in skipped), "mend them or leave them out", True
        )


def is_empty(row: Row) -> bool:
    return not row["text"].strip() or row["label"] == ""


def empty_cells(part: Part) -> Iterable[Finding]:
    for kind, what, bad in (
        ("empty_text", "text", [i for i, row in enumerate(part.rows) if not row["text"].strip()]),
        ("empty_label", "label", [i for i, row in enumerate(part.rows) if row["label"] == ""]),
    ):
        if bad:
            yield Finding(kind, "error", f"{len(bad):,} rows have no {what}", part.at(bad), "drop them", True)


def spellings(part: Part, labels: Mapping[str, int], variants: Mapping[str, str]) -> Iterable[Finding]:
    if variants:
        rows = [i for i, row in enumerate(part.rows) if any(label in variants for label in labels_of(row))]
        pairs = ", ".join(f"{old!r} -> {new!r}" for old, new in sorted(variants.items()))
        message = f"{len(variants)} labels differ from another only in case, white space or punctuation: {pairs}"
        yield Finding("label_spelling", "warning", message, part.at(rows), "merge them", True, dict(variants))
    for first, second in similar_names(label for label in labels if label not in variants):
        rows = [i for i, row in enumerate(part.rows) if {first, second} & set(labels_of(row))]
        rarer = min(first, second, key=lambda label: labels[label])
        message = f"labels {first!r} ({labels[first]:,} rows) and {second!r} ({labels[second]:,} rows) look alike"
        fix = f"if they mean the same, replace {rarer!r} by {(second if rarer == first else first)!r}"
        yield Finding("similar_labels", "warning", message, part.at(rows), fix)


def class_sizes(train: Part, labels: Mapping[str, int]) -> Iterable[Finding]:
    if len(labels) < 2:
        names = ", ".join(map(repr, labels)) or "none"
        message = f"{len(labels)} class in {len(train.rows):,} rows ({names}); at least 2 are needed"
        yield Finding("single_class", "error", message, (), "add rows of another class, or name the column: --target")
        return
    for label, count in sorted(labels.items(), key=lambda item: (item[1], item[0])):
        if count < RARE:
            rows = [i for i, row in enumerate(train.rows) if label in labels_of(row)]
            effect = "it stays in train and cannot be measured" if count == 1 else "its score will say little"
            message = f"class {label!r} has {count} row{'s' if count > 1 else ''}: {effect}"
            fix = f"add rows ({RARE} or more), or drop the class"
            yield Finding("rare_class", "warning", message, train.at(rows), fix)
    largest, smallest = (choose(labels, key=lambda label: labels[label]) for choose in (max, min))
    if labels[largest] >= IMBALANCE * labels[smallest]:
        message = f"class {largest!r} has {labels[largest]:,} rows, {smallest!r} has {labels[smallest]:,}"
        yield Finding("imbalance", "info", message, (), "look at macro F1 and at each class, not at accuracy alone")


def duplicates(part: Part, variants: Mapping[str, str]) -> Iterable[Finding]:
    """Equal text, label and split; the first is kept."""
    seen: set[tuple[str, tuple[str, ...], object]] = set()
    again = []
    for index, row in enumerate(part.rows):
        key = (row["text"].strip(), canonical(row, variants), row.get("split"))
        if not is_empty(row) and key in seen:
            again.append(index)
        seen.add(key)
    if again:
        message = f"{len(again):,} rows repeat an earlier row, text and label"
        yield Finding("duplicate", "warning", message, part.at(again), "drop the repeats", True)


def conflicts(part: Part, variants: Mapping[str, str]) -> Iterable[Finding]:
    """Equal normalised text within one split, with different labels; nobody can tell which is right."""
    answers: dict[tuple[object, str], set[tuple[str, ...]]] = defaultdict(set)
    usable = {i: (row.get("split"), part.keys[i]) for i, row in enumerate(part.rows) if not is_empty(row)}
    for index, key in usable.items():
        answers[key].add(canonical(part.rows[index], variants))
    torn = [index for index, key in usable.items() if len(answers[key]) > 1]
    if torn:
        texts = len({usable[index] for index in torn})
        message = f"{texts:,} texts have different labels in different rows ({len(torn):,} rows)"
        torn.sort(key=lambda index: (part.keys[index], index))
        yield Finding("conflict", "warning", message, part.at(torn), "decide on one label each, or drop them", True)


def near_duplicates(part: Part, variants: Mapping[str, str], near: float) -> Iterable[Finding]:
    """Texts that nearly repeat an earlier one: a split by chance puts them on both sides. Rows with equal texts are not
    meant, since these are always kept together. Only the first `NEAR_ROWS` different texts are compared."""
    first: dict[str, int] = {}
    for index, key in enumerate(part.keys):
        if key:
            first.setdefault(key, index)
    chosen = list(first.values())[:NEAR_ROWS]
    pairs = nearest_before(ngram_vectors([part.rows[i]["text"] for i in chosen]), near)
    if not pairs:
        return
    labels = [canonical(part.rows[i], variants) for i in chosen]
    differ = sum(labels[i] != labels[j] for i, j, _ in pairs)
    i, j, cosine = max(pairs, key=lambda pair: pair[2])
    example = f"{part.rows[chosen[i]]['text'][:60]!r} and {part.rows[chosen[j]]['text'][:60]!r} ({cosine:.2f})"
    extent = f"; only the first {NEAR_ROWS:,} of {len(first):,} texts were compared" if len(first) > NEAR_ROWS else ""
    message = (
        f"{len(pairs):,} texts nearly repeat an earlier one, by character n-grams, {differ:,} of them under another "
        f"label; such as {example}{extent}"
    )
    rows = part.at(sorted(chosen[row] for row in {i for i, _, _ in pairs} | {j for _, j, _ in pairs}))
    fix = "look at them: copies with small edits on both sides of a split flatter the score; drop them, or set --group"
    grave = len(pairs) > LEAK_GATE * len(chosen)
    yield Finding("near_duplicate", "warning" if grave else "info", message, rows, fix)


def canonical(row: Row, variants: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted({variants.get(label, label) for label in labels_of(row)}))


def leakage(train: Part, held: Part, embed: Embed | None, near: float | None) -> Iterable[Finding]:
    if not held.rows or not train.rows:
        return
    tested = set(held.keys) - {""}
    same = [index for index, key in enumerate(train.keys) if key in tested]
    if same:
        count = len(tested & set(train.keys))
        grave = count > LEAK_GATE * len(held.rows)
        message = f"{count:,} texts of test are also in train ({len(same):,} rows there)"
        fix = "drop these rows from train"
        yield Finding("leakage", "error" if grave else "warning", message, train.at(same), fix, True)
    learnt = set(train.keys)
    fresh = [index for index, key in enumerate(held.keys) if key and key not in learnt]
    pairs = near_pairs(train, held.pick(fresh), embed, near)
    if pairs:
        grave = len(pairs) > LEAK_GATE * len(held.rows)
        how = "by the encoder" if embed is not None else "by character n-grams; an encoder would find paraphrases too"
        first, second, cosine = max(pairs, key=lambda pair: pair[2])
        example = f"{held.rows[fresh[first]]['text'][:60]!r} and {train.rows[second]['text'][:60]!r} ({cosine:.2f})"
        message = f"{len(pairs):,} rows of test nearly repeat one of train, {how}; such as {example}"
        rows = train.at(sorted({j for _, j, _ in pairs})) + held.at(sorted(fresh[i] for i, _, _ in pairs))
        fix = "look at them: copies with small edits flatter the score; drop them from train, or set --group"
        yield Finding("near_leakage", "error" if embed is not None and grave else "warning", message, rows, fix)


def near_pairs(train: Part, held: Part, embed: Embed | None, near: float | None) -> list[tuple[int, int, float]]:
    """(row of held, row of train, cosine) for each row of held that has a near duplicate."""
    texts = [row["text"] for row in (*held.rows, *train.rows)]
    vectors = ngram_vectors(texts) if embed is None else unit(np.asarray(embed(texts)))
    threshold = near if near is not None else (NEAR if embed is None else 0.95)
    return nearest(vectors[: len(held.rows)], vectors[len(held.rows) :], threshold)


def unknown_classes(held: Part, labels: Mapping[str, int], variants: Mapping[str, str]) -> Iterable[Finding]:
    known = set(labels) | set(variants.values())
    rows = [i for i, row in enumerate(held.rows) if any(label and label not in known for label in labels_of(row))]
    if rows:
        names = sorted({label for i in rows for label in labels_of(held.rows[i]) if label not in known})
        message = f"{len(names)} classes of test are not in train: {', '.join(map(repr, names[:5]))}"
        yield Finding("unknown_class", "error", message, held.at(rows), "add training rows, or correct the labels")


def too_long(part: Part, count_tokens: Callable[[str], int] | None, max_tokens: int) -> Iterable[Finding]:
    def tokens(text: str) -> int:
        if len(text) <= max_tokens // 2:
            return 0  # no tokenizer makes more than two tokens of a character, so counting can be spared
        return count_tokens(text) if count_tokens is not None else len(text) // CHARACTERS_PER_TOKEN

    rows = [index for index, row in enumerate(part.rows) if tokens(row["text"]) > max_tokens]
    if rows:
        about = "" if count_tokens is not None else " (estimated at four characters a token)"
        message = f"{len(rows):,} texts have more than {max_tokens} tokens{about}; what is beyond is not read"
        yield Finding("too_long", "info", message, part.at(rows), "put what matters first, or shorten them")


def suspects(part: Part, classes: Sequence[str], probabilities: NDArray[np.floating]) -> Iterable[Finding]:
    number = {label: index for index, label in enumerate(classes)}
    usable = [i for i, row in enumerate(part.rows) if isinstance(row["label"], str) and row["label"] in number]
    given = np.array([number[part.rows[i]["label"]] for i in usable], dtype=np.int64)
    found = label_errors(given, np.asarray(probabilities)[usable])
    if found:
        index, better = found[0]
        row = part.rows[usable[index]]
        example = f"{row['text'][:60]!r} is {row['label']!r}, the models say {classes[better]!r}"
        message = f"{len(found):,} labels look wrong to models that had not seen the row; such as {example}"
        rows = part.at(usable[index] for index, _ in found)
        yield Finding("label_error", "info", message, rows, "look at them, the surest come first")
