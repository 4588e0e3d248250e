"""A transformer that reads SMILES: its small from-scratch form, its tokenizer, loading and saving. Needs torch.

Import only inside functions. The encoder is an ordinary transformers model; the head goes beside it.
"""

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from budwood.core.errors import BundleError
from budwood.engine.molecule_inputs import Inputs
from budwood.engine.transformers_import import quiet_transformers

__all__ = ["SmilesModel", "load_model", "save_model", "smiles_tokenizer", "take_base", "write_new_base"]

HEAD = "head.safetensors"
VARIANTS = 5
"""Spellings that are averaged in serving; more cost time in proportion and gain little."""
MAX_TOKENS = 200
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = r"Cl|Br|@@|%\d\d|."
"""Single characters, except where two are one symbol: fixed for all data, so nothing is ever unknown."""
MINI = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "max_position_embeddings": MAX_TOKENS + 8,
}
"""0.5 million weights: what a few thousand molecules can teach, and what two cores can train in minutes."""


class SmilesModel(nn.Module):
    """Encoder, mean over the tokens, linear head; several spellings of a molecule are averaged.

    Inputs are int64 of shape (batch, variants * tokens). Gives `logits` (batch, properties), `embedding` (batch, width)
    and `spread` (batch, properties), the standard deviation between the spellings of the probability or of the value.
    """

    inputs = ("input_ids", "attention_mask")
    outputs = ("logits", "embedding", "spread")

    def __init__(
        self,
        encoder: Any,
        head: nn.Linear,
        variants: int,
        centres: Sequence[float],
        scales: Sequence[float],
        classification: bool,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.variants = variants
        self.classification = classification
        self.register_buffer("centres", torch.tensor(list(centres)), persistent=False)
        self.register_buffer("scales", torch.tensor(list(scales)), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        batch = input_ids.shape[0]
        width = input_ids.shape[1] // self.variants
        ids = input_ids.reshape(batch * self.variants, width)
        mask = attention_mask.reshape(batch * self.variants, width)
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        values = self.head(pooled) * self.scales + self.centres
        each = values.reshape(batch, self.variants, -1)
        seen = torch.sigmoid(each) if self.classification else each
        gap = seen - seen.mean(dim=1, keepdim=True)
        embedding = pooled.reshape(batch, self.variants, -1).mean(dim=1)
        return {"logits": each.mean(dim=1), "embedding": embedding, "spread": (gap * gap).mean(dim=1).sqrt()}


def load_model(folder: Path, centres: Sequence[float], scales: Sequence[float], *, classification: bool) -> SmilesModel:
    """The model of a folder. Without `model.safetensors` its weights are random, the same ones each time."""
    transformers = quiet_transformers()
    options = {"trust_remote_code": False}
    if (folder / "model.safetensors").exists():
        encoder = transformers.AutoModel.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True, use_safetensors=True, **options
        )
    else:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, **options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = transformers.AutoModel.from_config(config, **options)
    head = nn.Linear(int(encoder.config.hidden_size), len(centres))
    if (folder / HEAD).exists():
        head.load_state_dict(load_file(folder / HEAD))
    else:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    variants = max(1, Inputs.open(folder).variants)
    return SmilesModel(encoder, head, variants, centres, scales, classification).eval()


def save_model(model: SmilesModel, folder: Path) -> None:
    """Write the encoder as a transformers model, and the head beside it."""
    model.encoder.save_pretrained(str(folder))
    save_file({name: tensor.contiguous() for name, tensor in model.head.state_dict().items()}, folder / HEAD)


def smiles_tokenizer() -> Any:
    """The tokenizer of the from-scratch model: characters, and the few symbols that have two."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    symbols = [*string.ascii_letters, *string.digits, *"()[]=#$:/\\.+-@%*~>", "Cl", "Br", "@@"]
    symbols += [f"%{number}" for number in range(10, 100)]
    vocabulary = {piece: number for number, piece in enumerate((*SPECIAL, *symbols))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tokenizer.add_special_tokens(list(SPECIAL))
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    return tokenizer


def write_new_base(stage: Path) -> None:
    """A base without pretrained weights: the configuration of a small BERT, the tokenizer, and what a model reads."""
    tokenizer = smiles_tokenizer()
    config = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": tokenizer.get_vocab_size(), **MINI}
    (stage / "config.json").write_text(json.dumps({**config, "pad_token_id": 0}, indent=1) + "\n", encoding="utf-8")
    (stage / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_TOKENS, **names}
    (stage / "tokenizer_config.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    Inputs(max_tokens=MAX_TOKENS).save(stage, fingerprint=True, variants=VARIANTS)


def take_base(folder: Path, stage: Path) -> None:
    """Write a pretrained SMILES encoder, such as ChemBERTa, to `stage`.

    Raises:
        BundleError: transformers cannot load it, or it is not an encoder with a fast tokenizer.
    """
    transformers = quiet_transformers()
    options = {"local_files_only": True, "trust_remote_code": False}
    fix = "pass a SMILES encoder, such as ChemBERTa, or leave out --base"
    try:
        encoder = transformers.AutoModel.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, **options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **options)
    except Exception as error:  # each model's code in transformers raises its own kinds
        raise BundleError(f"transformers cannot load the base: {error}", where=str(folder), fix=fix) from error
    decodes = getattr(encoder.config, "is_encoder_decoder", False)
    if decodes or not getattr(tokenizer, "is_fast", False) or not hasattr(encoder.config, "hidden_size"):
        raise BundleError("the base is not a text encoder with a fast tokenizer", where=str(folder), fix=fix)
    encoder.save_pretrained(str(stage))
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(str(stage))
    # RoBERTa-like models count positions from the padding id on, hence the two spare ones.
    positions = int(getattr(encoder.config, "max_position_embeddings", 0) or MAX_TOKENS + 2) - 2
    Inputs(max_tokens=min(MAX_TOKENS, positions)).save(stage, fingerprint=True, variants=VARIANTS)
