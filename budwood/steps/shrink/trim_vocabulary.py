"""Leave out the vocabulary that a task does not meet: in small encoders the token table is half of the model.

Method: Abdaoui et al. 2020, "Load What You Need" (arXiv:2010.05609). A word that is left out is read as its pieces.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from budwood.core.bundle import Bundle
from budwood.core.errors import StepError
from budwood.core.step import Context, Step
from budwood.core.task import Row
from budwood.engine import graft
from budwood.engine.distilling import same_order
from budwood.engine.predictor import task_of

__all__ = ["TrimVocabulary"]

TOKENIZER = "tokenizer.json"


@final
@dataclass(frozen=True)
class TrimVocabulary(Step):
    """For encoders of texts with a WordPiece vocabulary (BERT, MiniLM, DistilBERT).

    Texts whose tokens are all kept, as those of the training are, get the very answers that they got before. Single
    characters stay, so that no word becomes unknown that was not.
    """

    tokens: int = 10_000
    """Entries to keep: those of the training texts whatever their number, then the others in their order, which in
    WordPiece vocabularies is that of their frequency."""

    name: ClassVar[str] = "shrink.trim_vocabulary"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch"})
    tasks: ClassVar[frozenset[str]] = frozenset({"text_classification"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        """Raises StepError without data, for other labels, another kind of vocabulary, and nothing to leave out."""
        studied = graft.lesson(parent, context)
        same_order(studied.model, task_of(parent), studied.task)
        content = json.loads(parent.read(TOKENIZER))
        if content["model"].get("type") != "WordPiece":
            raise refusal(f"the tokenizer is {content['model'].get('type')}, not WordPiece", "leave this step out")
        vocabulary: dict[str, int] = content["model"]["vocab"]
        rows = [*studied.splits.train.rows, *context.unlabelled]
        kept = kept_ids(vocabulary, content, met(studied, rows), self.tokens)
        if len(kept) == len(vocabulary):
            raise refusal(f"all {len(vocabulary):,} entries would be kept", "keep fewer tokens, or leave this step out")
        changed = trim(studied.model, kept)
        names = {number: piece for piece, number in vocabulary.items()}
        content["model"]["vocab"] = {names[number]: place for place, number in enumerate(kept)}
        report = {"tokens": len(kept), "tokens_before": len(vocabulary), "parameters_saved": changed}
        draft = parent.draft(
            self.name,
            self.parameters(),
            task={"name": studied.task.name, **studied.task.to_json()},
            report=report,
        )

        def write(stage: Path) -> None:
            graft.copy_files(parent, studied.task.preprocessing, stage)
            text = json.dumps(content, ensure_ascii=False, indent=2)
            (stage / TOKENIZER).write_text(text + "\n", encoding="utf-8")
            studied.task.save(studied.model, stage)

        return Bundle.create(context.out, draft, write)


def met(studied: graft.Lesson, rows: Sequence[Row]) -> set[int]:
    """The entries that occur in these rows, as the model reads them."""
    found: set[int] = set()
    for start in range(0, len(rows), 256):
        found.update(studied.encoder(rows[start : start + 256]).inputs["input_ids"].ravel().tolist())
    return found


def kept_ids(vocabulary: dict[str, int], content: dict[str, Any], seen: set[int], tokens: int) -> list[int]:
    """The numbers to keep, in their order: special tokens keep theirs, because all before the last of them stay."""
    prefix = str(content["model"].get("continuing_subword_prefix") or "##")
    special = max((int(item["id"]) for item in content.get("added_tokens", ())), default=0)
    if special > len(vocabulary) // 2:
        raise refusal("the special tokens stand at the end of the vocabulary", "leave this step out")
    letters = {number for piece, number in vocabulary.items() if len(piece.removeprefix(prefix)) == 1}
    kept = set(range(special + 1)) | letters | seen
    for number in sorted(vocabulary.values()):
        if len(kept) >= tokens:
            break
        kept.add(number)
    return sorted(kept)


def trim(model: Any, kept: Sequence[int]) -> int:
    """Shorten the token table in place and say so in the configuration; how many numbers are gone."""
    import torch

    table = model.encoder.get_input_embeddings()
    shorter = torch.nn.Embedding(len(kept), table.embedding_dim, padding_idx=table.padding_idx)
    with torch.no_grad():
        shorter.weight.copy_(table.weight[list(kept)])
    model.encoder.set_input_embeddings(shorter)
    model.encoder.config.vocab_size = len(kept)
    return int(table.weight.numel() - shorter.weight.numel())


def refusal(problem: str, fix: str) -> StepError:
    return StepError(problem, where=TrimVocabulary.name, fix=fix)
