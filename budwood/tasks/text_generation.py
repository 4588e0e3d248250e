"""Text generation: writing on from a prompt, in the manner of the texts that were learnt.

A row: {"text": "a whole document"}, with {"prompt": …, "completion": …} or {"messages": [{"role": …, "content": …}]}
where only answers are learnt. A request: {"text": "Once upon a time", "max_tokens": 50}.

The forward pass gives the likelihood of texts, which is what is measured; writing is a loop over the same runtime
(`engine/generator.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import BundleError, DataError, UsageError
from budwood.core.task import Answer, Arrays, Calibration, Encoded, Encoder, Row, Task
from budwood.engine.chat_template import keep_template
from budwood.engine.decoding import Sampling
from budwood.engine.generator import Decoder, Generator, Shape
from budwood.engine.splits import identity, make_splits
from budwood.engine.text_quality import Likelihood, token_logs
from budwood.engine.vocabulary import Vocabulary
from budwood.engine.writing_rows import joined

__all__ = ["TextGeneration"]

MAX_CHARACTERS = 1_000_000
KINDS = ("documents", "completions", "chats")
MEASURED = ("text", "prompt", "completion", "messages", "starts", "ends")
"""The fields of a row whose likelihood is asked for."""
OPENAI_ONLY = ("logit_bias", "alternatives")
"""Options whose answers have no place in an answer of this task; /v1 has them in its own words."""
ASKED_CHARACTERS = 120
"""Of a document are the prompt when speed is measured: about 30 tokens of English."""
ASKED_TOKENS = 20
"""Written after it: what a suggestion at a keystroke takes."""
FIX = 'send {"text": "…"}'
CHAT_FIX = 'send {"messages": [{"role": "user", "content": "…"}]}'

LEAST = 1e-12
"""A score as small as this is no probability at all; its logarithm is still a number."""


@final
@dataclass(frozen=True)
class TextGeneration(Task):
    kind: str = "documents"
    """What was learnt: `documents`, `completions` of prompts, or `chats`."""
    max_tokens: int = 512
    """Of a row, so many tokens are measured; the model's own window when that is smaller."""

    name: ClassVar[str] = "text_generation"
    metric: ClassVar[str] = "token_probability"
    """The geometric mean of a document's token probabilities, 1 / perplexity, averaged over documents."""
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    pipeline_tag: ClassVar[str] = "text-generation"
    preprocessing: ClassVar[tuple[str, ...]] = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    batch_size: ClassVar[int] = 4
    learning: ClassVar[str] = "language"
    writes: ClassVar[bool] = True
    default_base: ClassVar[str] = "new:gpt2-mini"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        try:
            task = cls(**fields)
        except TypeError as error:
            raise BundleError(f"the task's fields are off: {error}", where="bundle.json, task") from error
        if task.kind not in KINDS or not isinstance(task.max_tokens, int) or task.max_tokens < 2:
            raise BundleError("the task's fields have wrong values", where="bundle.json, task")
        return task

    # Serving half

    def parse(self, item: object) -> Row:
        """A text to go on from, or messages to answer, with options of `Sampling`; `measure` asks for a likelihood."""
        if not isinstance(item, Mapping):
            raise DataError("each input must be an object", where="input", fix=FIX)
        if item.get("measure") is True:
            return measured(item)
        known = [field.name for field in fields(Sampling) if field.name not in OPENAI_ONLY]
        for name in item:
            if name not in (*known, "text", "messages"):
                raise DataError(f"unknown field {name!r}", where=str(name), fix=f"known: text, {', '.join(known)}")
        chosen = "messages" if "messages" in item else "text"
        given = part(item, chosen)
        if self.kind == "completions" and chosen == "text" and given:
            given = joined(given)  # as the prompts were that it learnt from
        return {chosen: given, "options": sampling({name: item[name] for name in known if name in item})}

    def item(self, row: Row) -> dict[str, Any]:
        """A request to measure this row."""
        return {name: row[name] for name in MEASURED if name in row} | {"measure": True}

    def encoder(self, folder: Path) -> Encoder:
        return TextEncoder.open(folder, self.max_tokens)

    def answer(
        self,
        rows: Sequence[Row],
        encoder: Encoder,
        run: Callable[[Arrays], Arrays],
        calibration: Calibration,
        top: int,
    ) -> list[Answer]:
        """Answers for one batch: rows with options are written on from, the others are measured."""
        assert isinstance(encoder, TextEncoder)
        answers: list[Answer] = [{}] * len(rows)
        asked = [at for at, row in enumerate(rows) if "options" in row]
        if asked:
            generator = Generator(Decoder(run, encoder.shape), encoder.vocabulary)
            prompts = [rows[at].get("messages") or rows[at].get("text", "") for at in asked]
            written = generator.complete(prompts, [rows[at]["options"] for at in asked])
            for at, found in zip(asked, written, strict=True):
                answers[at] = found.answer()
        measured = [at for at in range(len(rows)) if at not in asked]
        if measured:
            encoded = encoder([rows[at] for at in measured])
            decoded = self.decode(self.finish(encoded.inputs, run(encoded.inputs)), calibration, top)
            for at, answer, note in zip(measured, decoded, encoded.notes, strict=True):
                answers[at] = answer | note
        return answers

    def finish(self, inputs: Arrays, outputs: Arrays) -> Arrays:
        """`logits`: log-probabilities of each row's own tokens, (rows, max_tokens), padded with 1.

        The vocabulary's logits stay inside: of eight texts in GPT-2's vocabulary they fill a gigabyte.
        """
        return {"logits": token_logs(outputs["logits"], inputs["targets"], self.max_tokens)}

    def decode(self, outputs: Arrays, calibration: Calibration, top: int) -> list[Answer]:
        answers: list[Answer] = []
        for row in outputs["logits"]:
            own = row[row <= 0].astype(np.float64)
            mean = float(own.mean()) if len(own) else 0.0
            answers.append({"perplexity": round(float(np.exp(-mean)), 6), "tokens": len(own)})
        return answers

    def lengths(self, rows: Sequence[Row]) -> list[int]:
        return [sum(map(len, texts_of(row))) for row in rows]

    @classmethod
    def request_schema(cls) -> dict[str, Any]:
        share, whole = {"type": "number", "minimum": 0}, {"type": "integer", "minimum": 0}
        stop = {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 16}
        properties = {
            "text": {"type": "string", "maxLength": MAX_CHARACTERS, "description": "to go on from; empty: begin anew"},
            "max_tokens": whole | {"minimum": 1, "default": Sampling.max_tokens},
            "min_tokens": whole | {"default": Sampling.min_tokens},
            "temperature": share | {"maximum": 100, "default": Sampling.temperature},
            "top_k": whole | {"default": Sampling.top_k},
            "top_p": share | {"maximum": 1, "default": Sampling.top_p},
            "repetition_penalty": {"type": "number", "minimum": 0.01, "default": Sampling.repetition_penalty},
            "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2, "default": Sampling.presence_penalty},
            "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2, "default": Sampling.frequency_penalty},
            "stop": {"anyOf": [{"type": "string", "minLength": 1}, stop]},
            "seed": whole | {"default": Sampling.seed},
        }
        required = list(cls.inputs)
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        properties = {
            "text": {"type": "string"},
            "finish_reason": {"enum": ["stop", "length", "deadline", "cancelled"]},
            "tokens": {"type": "integer", "minimum": 0},
            "perplexity": {"type": "number", "minimum": 1, "description": "of a text that was sent to be measured"},
            "truncated": {"type": "boolean", "description": "the text was longer than the model reads and was cut"},
        }
        return {"type": "object", "properties": properties, "required": ["tokens"]}

    # Data half

    @classmethod
    def suits(cls, rows: Sequence[Row]) -> float:
        return 0.9 if rows and all("label" not in row for row in rows[:100]) else 0.0

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> Self:
        if not rows:
            raise DataError("there are no texts", where="the data", fix="give texts to learn from")
        return cls("chats" if "messages" in rows[0] else "completions" if "completion" in rows[0] else "documents")

    @classmethod
    def split(cls, dataset: Dataset, *, test: Dataset | None, seed: int, shots: int | None) -> Splits:
        if shots is not None:
            raise UsageError("--shots counts rows of a class, and texts have none", where="--shots", fix="leave it out")
        return make_splits(dataset, test=test, seed=seed)

    def identity(self, row: Row) -> str:
        return identity(row, self.inputs)

    def fit_to(self, folder: Path) -> Self:
        if not (folder / "model.safetensors").exists():  # a new model's window is chosen with its size
            return self
        return replace(self, max_tokens=min(self.max_tokens, Shape.read(folder).window))

    def targets(self, rows: Sequence[Row]) -> NDArray[Any]:
        """Nothing to look up: a text is its own target. Zeros, shape (rows,)."""
        return np.zeros(len(rows), np.int64)

    # Measuring half

    def asked(self, rows: Sequence[Row]) -> Sequence[Row]:
        """To write a few tokens after the beginning of each text: reading alone would not tell how fast it is."""
        few = Sampling(max_tokens=ASKED_TOKENS, min_tokens=ASKED_TOKENS, temperature=0.0)
        return [{**beginning(row), "options": few} for row in rows]

    def row_scores(self, answers: Sequence[Answer], rows: Sequence[Row]) -> NDArray[np.float64]:
        """1 / perplexity of each row: the geometric mean of the probabilities of its tokens."""
        return np.asarray([1.0 / answer["perplexity"] for answer in answers])

    drop_note: ClassVar[str] = "a drop of one point is a rise of the perplexity by 1 %, as the mean over rows"

    def losses(self, parent: NDArray[np.float64], child: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rise of the log perplexity: 0.01 is 1 % more, whether the parent's is 5 or 50."""
        return np.asarray(np.log(np.maximum(parent, LEAST)) - np.log(np.maximum(child, LEAST)))

    def metrics(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, float]:
        """`perplexity` over all tokens, and `bits_per_character` where rows were measured whole."""
        tokens = np.asarray([answer["tokens"] for answer in answers], np.float64)
        nats = np.log([answer["perplexity"] for answer in answers]) * tokens
        found = {"perplexity": float(np.exp(nats.sum() / max(tokens.sum(), 1)))}
        if self.kind == "documents" and not any(answer.get("truncated") for answer in answers):
            found["bits_per_character"] = float(nats.sum() / np.log(2) / sum(self.lengths(rows)))
        return found

    def intervals(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
        """Of `perplexity`, by the bootstrap over rows."""
        tokens = np.asarray([answer["tokens"] for answer in answers], np.int64)
        nats = np.asarray([np.log(answer["perplexity"]) * answer["tokens"] for answer in answers], np.float64)
        return {"perplexity": Likelihood(nats, tokens).interval()} if tokens.sum() else {}

    # Training half

    @classmethod
    def take_base(cls, folder: Path, stage: Path) -> None:
        from budwood.engine.language_model import load_language_model, save_language_model

        Vocabulary.open(folder)
        save_language_model(load_language_model(folder), stage)
        for name in cls.preprocessing:
            if (folder / name).exists() and not (stage / name).exists():
                (stage / name).write_bytes((folder / name).read_bytes())
        keep_template(folder, stage)

    @classmethod
    def new_base(cls, stage: Path) -> None:
        """Its size and vocabulary come from the texts, when these are learnt."""
        (stage / "config.json").write_text('{"model_type": "gpt2"}\n', encoding="utf-8")

    def build(self, folder: Path) -> Any:
        from budwood.engine.language_model import load_language_model

        return load_language_model(folder)

    def save(self, model: Any, folder: Path) -> None:
        from budwood.engine.language_model import save_language_model

        save_language_model(model, folder)

    def loss(self, outputs: Any, targets: Any) -> Any:
        from torch.nn import functional

        return functional.cross_entropy(outputs["logits"].flatten(0, 1), targets.flatten(), ignore_index=-1)

    @classmethod
    def example(cls) -> tuple[Self, list[Row]]:
        pair = {"prompt": "Where is my parcel?\n", "completion": "It is on its way."}
        rows = [{"text": pair["prompt"] + pair["completion"], **pair}] * 4
        return cls("completions"), [dict(row) for row in rows]


def measured(item: Mapping[Any, Any]) -> Row:
    """A text, or messages, whose likelihood is asked for. Raises DataError naming the field."""
    for name in item:
        if name not in (*MEASURED, "measure"):
            raise DataError(f"unknown field {name!r}", where=str(name), fix=f"known: {', '.join(MEASURED)}")
    if not {"text", "messages"} & set(item):
        raise DataError("text is missing", where="text", fix=FIX)
    if ("prompt" in item) != ("completion" in item):
        lacking = "completion" if "prompt" in item else "prompt"
        raise DataError(f"{lacking} is missing", where=lacking, fix="send both, beside text")
    return {name: part(item, name) for name in MEASURED if name in item}


def sampling(options: Mapping[str, Any]) -> Sampling:
    """Raises DataError whose `where` is the field that is off."""
    stop = options.get("stop", ())
    stops = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, list | tuple):
        raise DataError("stop must be a text or a list of texts", where="stop", fix='send {"stop": ["\\n"]}')
    try:
        return Sampling(**{name: plain(name, value) for name, value in options.items()} | {"stop": tuple(stops)})
    except UsageError as error:
        raise DataError(error.cause, where=error.where, fix=error.fix) from error


def plain(name: str, value: Any) -> Any:
    """JSON knows one kind of number: 8.0 is whole, too."""
    whole = isinstance(getattr(Sampling, name), int) and isinstance(value, float) and value.is_integer()
    return int(value) if whole else value


def part(item: Mapping[Any, Any], name: str) -> Any:
    """One field of a row, checked."""
    if name not in item:
        raise DataError(f"{name} is missing", where=name, fix=FIX)
    value = item[name]
    if name in ("starts", "ends"):
        if not isinstance(value, bool):
            raise DataError(f"{name} must be true or false", where=name)
        return value
    if name != "messages":
        return checked(value, name, empty=name == "text")
    if not isinstance(value, list) or not value or not all(isinstance(turn, Mapping) for turn in value):
        raise DataError("messages must be a list of objects", where=name, fix=CHAT_FIX)
    for turn in value:
        if turn.get("role") not in ("system", "user", "assistant"):
            raise DataError(f"the role {turn.get('role')!r} is unknown", where=name, fix=CHAT_FIX)
    return [{"role": turn["role"], "content": checked(turn.get("content"), name, empty=True)} for turn in value]


def checked(text: object, name: str, *, empty: bool = False) -> str:
    if not isinstance(text, str):
        raise DataError(f"{name} must be a string, not {type(text).__name__}", where=name, fix=FIX)
    if not text and not empty:
        raise DataError(f"{name} is empty", where=name, fix="send at least one character")
    if len(text) > MAX_CHARACTERS:
        raise DataError(f"{name} has {len(text)} characters, at most {MAX_CHARACTERS} are read", where=name)
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"{name} is not valid Unicode: it has a lone surrogate", where=name)
    return text


def beginning(row: Row) -> Row:
    """The prompt of a row: its own, or a chat before the last answer, or the first characters of a document."""
    if "messages" in row:
        turns = list(row["messages"])
        return {"messages": turns[:-1] if len(turns) > 1 and turns[-1]["role"] == "assistant" else turns}
    return {"text": row.get("prompt", row["text"][:ASKED_CHARACTERS])}


def texts_of(row: Row) -> list[str]:
    if "messages" in row:
        return [message["content"] for message in row["messages"]]
    return [row["text"]]


@dataclass(frozen=True)
class TextEncoder:
    """Rows as model inputs to be measured: documents from their start, with the tokens that follow as `targets`."""

    vocabulary: Vocabulary
    shape: Shape
    max_tokens: int

    @classmethod
    def open(cls, folder: Path, max_tokens: int) -> Self:
        return cls(Vocabulary.open(folder), Shape.read(folder), max_tokens)

    def __call__(self, rows: Sequence[Row]) -> Encoded:
        documents = [self.vocabulary.document(row) for row in rows]
        sizes = [min(len(document.ids) - 1, self.max_tokens) for document in documents]
        ids = np.zeros((len(rows), max(1, *sizes)), np.int64)
        mask, targets = np.zeros_like(ids), np.full_like(ids, -1)
        for at, (document, size) in enumerate(zip(documents, sizes, strict=True)):
            ids[at, :size] = document.ids[:size]
            mask[at, :size] = 1
            targets[at, :size] = np.where(document.learnt[1 : size + 1], document.ids[1 : size + 1], -1)
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape).copy()
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "targets": targets}
        inputs["num_logits_to_keep"] = np.asarray(0, np.int64)
        longer = [len(document.ids) - 1 > self.max_tokens for document in documents]
        return Encoded(inputs | self.shape.empty(len(rows)), [{"truncated": True} if cut else {} for cut in longer])
