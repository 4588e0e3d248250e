"""The torch side of a text encoder with a head: pooled token states, then one linear layer.

The encoder is saved as an ordinary transformers model; the pooling and the head go beside it (`head.safetensors`),
because transformers has no mean-pooled classifier for BERT-like models. Import this module only inside functions.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from budwood.engine.transformers_import import load_pretrained

__all__ = ["TextClassifier", "load_classifier", "load_encoder", "save_classifier"]

HEAD = "head.safetensors"
POOLING = "pooling.json"


class TextClassifier(nn.Module):
    """Encoder, pooling and a linear head. Inputs are int64 of shape (batch, tokens).

    Gives `logits` (batch, labels) and `embedding` (batch, width), the pooled state that the head reads.
    """

    def __init__(self, encoder: Any, head: nn.Linear, pooling: str, normalize: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.pooling = pooling
        self.normalize = normalize
        self.takes_types = bool(getattr(encoder.config, "type_vocab_size", 0))
        types = ("token_type_ids",) if self.takes_types else ()
        self.inputs = ("input_ids", "attention_mask", *types)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        embedding = self.embed(input_ids, attention_mask, token_type_ids)
        return {"logits": self.head(embedding), "embedding": embedding}

    def embed(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None and self.takes_types:
            inputs["token_type_ids"] = token_type_ids
        states: Tensor = self.encoder(**inputs).last_hidden_state
        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return functional.normalize(pooled, dim=-1) if self.normalize else pooled


def load_encoder(folder: Path, attention: str | None = None) -> Any:
    """The transformers model of a folder in float32, in evaluation mode. No code of the folder runs.

    `attention` None takes the fastest implementation that the architecture has (`sdpa` for BERT, not for MPNet).
    """
    return load_pretrained("AutoModel", folder, attention)


def load_classifier(folder: Path, n_labels: int, attention: str | None = None) -> TextClassifier:
    """The classifier of a folder; without `head.safetensors` the head is zero: every label is equally likely."""
    encoder = load_encoder(folder, attention)
    head = nn.Linear(int(encoder.config.hidden_size), n_labels)
    if (folder / HEAD).exists():
        head.load_state_dict(load_file(folder / HEAD))
    else:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    pooling = json.loads((folder / POOLING).read_text(encoding="utf-8"))
    return TextClassifier(encoder, head, pooling["pooling"], pooling["normalize"]).eval()


def save_classifier(model: TextClassifier, folder: Path) -> None:
    """Write the encoder as a transformers model, and the pooling and the head beside it."""
    model.encoder.save_pretrained(str(folder))
    save_file({name: tensor.contiguous() for name, tensor in model.head.state_dict().items()}, folder / HEAD)
    write_pooling(folder, model.pooling, model.normalize)


def write_pooling(folder: Path, pooling: str, normalize: bool) -> None:
    (folder / POOLING).write_text(json.dumps({"pooling": pooling, "normalize": normalize}) + "\n", encoding="utf-8")
