"""The torch side of a causal language model: loading, a new small one for a machine without a hub, loss, likelihood.

Import this module only inside functions. Training itself is `engine/language_lesson.py`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from budwood.core.errors import BundleError, DataError, UsageError
from budwood.engine.causal_graph import Cached
from budwood.engine.packing import IGNORED, Blocks, pack, segments
from budwood.engine.text_quality import Likelihood
from budwood.engine.transformers_import import load_pretrained, quiet_transformers
from budwood.engine.vocabulary import Document

__all__ = [
    "NEW",
    "LanguageModel",
    "likelihood",
    "load_language_model",
    "new_model",
    "packed_loss",
    "save_language_model",
]

NEW = "new:gpt2-mini"
"""The base that is made from the user's own texts instead of being fetched."""
END = "<|endoftext|>"


class LanguageModel(nn.Module):
    """A transformers causal language model whose parameters are named once: tied weights are not saved twice.

    Called with the arrays of `causal_graph.Cached` by name it gives `logits` and `present.N.key|value`, so the torch
    runtime generates as the exported graph does.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        cached = Cached(model)
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        self.body = cached.body
        self.head = None if tied else cached.head
        # In a list, so that torch does not register the same parameters under a second name.
        self.whole, self.cached = [model], [cached]

    @property
    def config(self) -> Any:
        return self.whole[0].config

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:  # the cache's names depend on the number of layers
        past = {name: value for name, value in arrays.items() if name.startswith("past_key_values.")}
        if not past:
            return {"logits": self.logits(self.states(arrays["input_ids"], arrays.get("position_ids")))}
        values = self.cached[0](
            arrays["input_ids"],
            arrays["attention_mask"],
            arrays["position_ids"],
            arrays.get("num_logits_to_keep", torch.tensor(0)),
            *past.values(),
        )
        names = ["logits", *(name.replace("past_key_values", "present") for name in past)]
        return dict(zip(names, values, strict=True))

    def states(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """The last hidden states, (rows, length, width). Positions that start again at 0 start another document."""
        result: Tensor = self.body(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        return result

    def logits(self, states: Tensor) -> Tensor:
        weight = self.whole[0].get_input_embeddings().weight if self.head is None else self.head.weight
        return functional.linear(states, weight, None if self.head is None else self.head.bias)

    @property
    def parameter_count(self) -> int:
        return sum(item.numel() for item in self.parameters())


def load_language_model(folder: Path) -> LanguageModel:
    """The causal language model of a transformers folder in float32, in evaluation mode. No code of it runs.

    Raises:
        BundleError: transformers cannot load it as a causal language model.
    """
    try:
        model = load_pretrained("AutoModelForCausalLM", folder, "sdpa")
    except Exception as error:  # each model's code in transformers raises its own kinds
        raise BundleError(
            f"transformers cannot load a causal language model: {error}",
            where=str(folder),
            fix="pass a GPT-2 or Llama model, or --base new:gpt2-mini",
        ) from error
    return LanguageModel(model).eval()


def save_language_model(model: LanguageModel, folder: Path) -> None:
    """Write it as an ordinary transformers folder, without the tokenizer."""
    model.whole[0].save_pretrained(str(folder))


def packed_loss(model: LanguageModel, blocks: Blocks) -> Tensor:
    """The mean of -log p over the learnt tokens of a batch, a scalar."""
    targets = torch.from_numpy(blocks.targets)
    learnt = targets != IGNORED
    states = model.states(torch.from_numpy(blocks.ids), torch.from_numpy(blocks.positions))
    # Only the learnt positions meet the vocabulary: masked prompts and padding cost no logits.
    return functional.cross_entropy(model.logits(states[learnt]), targets[learnt])


def likelihood(model: LanguageModel, documents: Sequence[Document], block: int, batch_size: int = 8) -> Likelihood:
    """What the model thinks of each document's learnt tokens, long documents read in separate windows of `block`.

    A window's first tokens have little before them, so perplexities are a little higher than with a sliding window;
    they are so for every model that is compared.
    """
    was_training = model.training
    model.eval()
    nats, tokens = np.zeros(len(documents)), np.zeros(len(documents), np.int64)
    with torch.inference_mode():
        for batch in pack(segments(documents, block), block).batches(batch_size):
            learnt = batch.targets != IGNORED
            targets = torch.from_numpy(batch.targets[learnt])
            states = model.states(torch.from_numpy(batch.ids), torch.from_numpy(batch.positions))
            logits = model.logits(states[torch.from_numpy(learnt)])
            costs = functional.cross_entropy(logits, targets, reduction="none").double().numpy()
            np.add.at(nats, batch.documents[learnt], costs)
            np.add.at(tokens, batch.documents[learnt], 1)
    model.train(was_training)
    return Likelihood(nats, tokens)


class Size(NamedTuple):
    """A new model for corpora of up to so many characters."""

    characters: float
    vocabulary: int
    layers: int
    width: int
    heads: int


SIZES = (
    Size(2e5, 512, 3, 96, 3),
    Size(6e5, 1_024, 4, 128, 4),
    Size(3e6, 2_048, 4, 192, 6),
    Size(1e7, 4_096, 6, 256, 8),
    Size(float("inf"), 8_192, 8, 384, 8),
)
"""About one parameter for each character to learn from, up to 20 M: more than compute-optimal training would take
(Hoffmann et al. 2022), because a small text is read many times, and little enough for minutes on two CPU cores."""
WINDOW = 256


def new_model(texts: Sequence[str], folder: Path, seed: int = 0) -> None:
    """Write an untrained GPT-2 of a size that fits the texts, with a byte-level BPE learnt from them, to `folder`.

    `END` begins and ends documents. Any text can be encoded: what the texts do not have is spelled in bytes.

    Raises:
        DataError: the texts are too short to learn anything from.
        UsageError: `folder` has a config.json already.
    """
    if (folder / "config.json").exists():
        raise UsageError("there is a model already", where=str(folder), fix="name an empty folder")
    characters = sum(map(len, texts))
    if characters < 2_000:
        raise DataError(
            f"{characters:,} characters are too few for a new model",
            where=NEW,
            fix="add texts (100,000 characters are a beginning), or start from a trained model with --base",
        )
    size = next(size for size in SIZES if characters <= size.characters)
    tokenizer = byte_level_bpe(texts, size.vocabulary)
    transformers = quiet_transformers()
    end = tokenizer.token_to_id(END)
    config = transformers.GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=WINDOW,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        attn_pdrop=0.0,  # dropping attention costs a quarter of a step on a CPU: it rules out the fused kernel
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.GPT2LMHeadModel(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": END, "eos_token": END, "pad_token": END, "unk_token": END}
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": WINDOW, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def byte_level_bpe(texts: Sequence[str], vocabulary: int) -> Any:
    """GPT-2's kind of tokenizer (Radford et al. 2019, section 2.2), the same whenever the texts are the same."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
