"""Classifies texts with nothing but onnxruntime and numpy: `python run.py "a text"`, or one text a line on its input.

The tokenizer is WordPiece after BERT's clean-up (Devlin et al. 2018), with the same numbers as the model learnt with.
"""

import json
import re
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent


class Tokenizer:
    """Texts to numbers of word pieces, by the facts in `model.json` and the pieces in `vocabulary.json`."""

    def __init__(self, facts: dict[str, Any], vocabulary: dict[str, int]) -> None:
        self.facts, self.vocabulary = facts, vocabulary
        special = sorted(facts["special"], key=len, reverse=True)
        self.special = re.compile("(" + "|".join(map(re.escape, special)) + ")") if special else None

    def __call__(self, text: str, limit: int) -> tuple[list[int], bool]:
        """The numbers of a text, at most `limit`, and whether some were cut off."""
        before, after = self.facts["before"], self.facts["after"]
        found: list[int] = []
        for part in self.special.split(text) if self.special else [text]:
            known = self.facts["special"].get(part)
            found += [known] if known is not None else [n for word in self.words(part) for n in self.pieces(word)]
        room = max(0, limit - len(before) - len(after))
        return [*before, *found[:room], *after], len(found) > room

    def of_kind(self, kind: str, character: str) -> bool:
        """Whether a character is of a kind, told by the sorted bounds of the kind's ranges."""
        return bisect_right(self.facts[kind], ord(character)) % 2 == 1

    def words(self, text: str) -> list[str]:
        """Cleaned and split at white space; marks of punctuation stand alone."""
        kept = (" " if self.of_kind("spaces", c) else c for c in text if not self.of_kind("removed", c))
        clean = "".join(f" {c} " if self.of_kind("ideographs", c) else c for c in kept)
        if self.facts["strip_accents"]:
            clean = "".join(c for c in unicodedata.normalize("NFD", clean) if not self.of_kind("accents", c))
        if self.facts["lowercase"]:
            clean = "".join(c.lower() for c in clean)  # one by one: a sigma at the end of a word stays an ordinary one
        return "".join(f" {c} " if self.of_kind("punctuation", c) else c for c in clean).split()

    def pieces(self, word: str) -> list[int]:
        """The longest piece that the vocabulary has, again and again; one unknown number where that does not work."""
        found, start = [], 0
        while start < len(word) <= self.facts["longest_word"]:
            prefix = self.facts["prefix"] if start else ""
            for end in range(len(word), start, -1):
                if (number := self.vocabulary.get(prefix + word[start:end])) is not None:
                    break
            else:
                return [self.facts["unknown"]]
            found.append(number)
            start = end
        return found or [self.facts["unknown"]]


class Model:
    """`Model().answer(["a text"])`; one model may be used from several threads."""

    def __init__(self, folder: Path = HERE, threads: int = 0) -> None:
        import onnxruntime

        self.facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer(self.facts["tokenizer"], vocabulary)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self.inputs = [item.name for item in self.session.get_inputs()]

    def logits(self, texts: Sequence[str]) -> tuple[Any, list[bool]]:
        """Shape (texts, labels), and which texts were cut."""
        rows = [self.tokenizer(text, self.facts["max_tokens"]) for text in texts]
        shape = (len(rows), max(len(numbers) for numbers, _ in rows))
        feed = {"input_ids": np.full(shape, self.facts["pad"], np.int64), "attention_mask": np.zeros(shape, np.int64)}
        for row, (numbers, _) in enumerate(rows):
            feed["input_ids"][row, : len(numbers)] = numbers
            feed["attention_mask"][row, : len(numbers)] = 1
        feed["token_type_ids"] = np.zeros(shape, np.int64)
        (logits,) = self.session.run(["logits"], {name: feed[name] for name in self.inputs})
        return logits, [cut for _, cut in rows]

    def answer(self, texts: Sequence[str], top: int = 3) -> list[dict[str, Any]]:
        """For each text its label, or its labels, and the `top` best with their probabilities."""
        logits, cut = self.logits(texts)
        scaled = logits.astype(np.float64) / self.facts["temperature"]
        several, labels = self.facts["multi_label"], self.facts["labels"]
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        shares = np.exp(-np.logaddexp(0.0, -scaled)) if several else powers / powers.sum(axis=1, keepdims=True)
        answers: list[dict[str, Any]] = []
        for row, truncated in zip(shares, cut, strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            scores = {labels[i]: round(float(row[i]), 6) for i in best}
            given = {"labels": [label for label, share in zip(labels, row, strict=True) if share >= 0.5]}
            first = {"label": labels[best[0]], "score": scores[labels[best[0]]]}
            note = {"truncated": True} if truncated else {}
            answers.append({**(given if several else first), "scores": scores, **note})
        return answers


def main() -> None:
    texts = sys.argv[1:] or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    model = Model()
    for text in texts:
        sys.stdout.write(json.dumps({"text": text, **model.answer([text])[0]}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
