"""A causal language model as one ONNX graph that reads prompts and continues them. Import only inside functions.

Use it when a generator is exported. Inputs and outputs have the names that optimum and transformers.js look for:
`input_ids`, `attention_mask`, `position_ids`, `past_key_values.N.key|value` in, `logits`, `present.N.key|value` out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from budwood.core.errors import BundleError
from budwood.engine.onnx_graph import write_graph
from budwood.engine.transformers_import import load_pretrained

__all__ = ["export_causal_graph"]


class Cached(nn.Module):
    """The model as a function of tensors only: the cache comes in and goes out as plain arrays.

    Shapes: `input_ids`, `position_ids` (batch, sequence), `attention_mask` (batch, past + sequence), each past array
    (batch, key-value heads, past, width); `num_logits_to_keep` is a scalar, 0 for the logits of every position.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.body, self.head = body_of(model), model.get_output_embeddings()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        num_logits_to_keep: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        cache = filled_cache(past)
        states = self.body(
            input_ids=input_ids,
            attention_mask=additive_mask(attention_mask, input_ids, past[0].dtype),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        # A prompt of 1,000 tokens has 200 MB of logits in GPT-2's vocabulary; sampling needs the last row only.
        length = input_ids.shape[1] + torch.zeros_like(num_logits_to_keep)
        first = torch.where(num_logits_to_keep > 0, length - num_logits_to_keep, torch.zeros_like(length))
        kept = states.index_select(1, torch.arange(first, length))  # type: ignore[call-overload]  # ends as tensors
        return (self.head(kept), *(item for layer in cache.layers for item in (layer.keys, layer.values)))


def body_of(model: Any) -> nn.Module:
    """The decoder below the vocabulary head. Raises BundleError for a model that ends in more than a linear head."""
    body = getattr(model, str(getattr(model, "base_model_prefix", "")), None)
    if body is None or not isinstance(model.get_output_embeddings(), nn.Linear):
        raise BundleError(
            f"{type(model).__name__} does not end in one linear head over the vocabulary",
            fix="pass a GPT-2 or Llama model, or one built like them",
        )
    return body  # type: ignore[no-any-return]


def additive_mask(attention_mask: Tensor, input_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a new token may look, the lowest number elsewhere: (batch, 1, sequence, past + sequence).

    It is made here and not by transformers, whose shortcuts look at values and would be frozen into the graph.
    """
    total, new = attention_mask.shape[1], input_ids.shape[1]
    columns = torch.arange(total)
    rows = torch.arange(new) + (total - new)
    seen = (columns[None, :] <= rows[:, None])[None, None] & (attention_mask[:, None, None, :] > 0)
    lowest = torch.full((1, 1, 1, 1), torch.finfo(dtype).min, dtype=dtype)
    return torch.where(seen, torch.zeros_like(lowest), lowest)


def filled_cache(past: tuple[Tensor, ...]) -> Any:
    """transformers' growing cache with these keys and values in it, set directly: its own way in adds a zeroth part."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    cache.layers = []
    for key, value in zip(past[::2], past[1::2], strict=True):
        layer = DynamicLayer()  # type: ignore[no-untyped-call]
        layer.keys, layer.values = key, value
        layer.dtype, layer.device, layer.is_initialized = key.dtype, key.device, True
        cache.layers.append(layer)
    return cache


def export_causal_graph(folder: Path, path: Path) -> None:
    """Write the causal language model in `folder` as ONNX to `path`; batch, sequence and past lengths stay free.

    GPT-2 and Llama are written in fused kernels, whose cache takes one new token for each of many rows or many new
    ones for a single row. Their relatives are traced as they are.

    Raises:
        BundleError: transformers cannot load it, or its attention is not of the plain, full kind.
    """
    from budwood.engine.decoder_graph import build_decoder_graph, buildable

    model = load_pretrained("AutoModelForCausalLM", folder, "eager")
    check_attention(model.config)
    if buildable(model.config):
        build_decoder_graph(model, path)
        return
    wrapper = Cached(model).eval()
    sample = sample_inputs(wrapper, int(model.config.num_hidden_layers))
    outputs = ["logits"] + [name.replace("past_key_values", "present") for name in sample if name.startswith("past")]
    write_graph(wrapper, sample, outputs, axes(sample, outputs), path)


def check_attention(config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "is_encoder_decoder", False):
        raise BundleError(
            f"the attention of {config.model_type} is not plain full attention ({', '.join(sorted(kinds))})",
            fix="pass a GPT-2 or Llama model; others run over torch",
        )


def sample_inputs(wrapper: Cached, layers: int) -> dict[str, Tensor]:
    """Two rows of three tokens after a past of two, to be traced. The shapes of the cache are asked of the model."""
    with torch.no_grad():
        first = wrapper.body(input_ids=torch.zeros((2, 2), dtype=torch.int64), use_cache=True).past_key_values
    sample = {
        "input_ids": torch.zeros((2, 3), dtype=torch.int64),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]),
        "position_ids": torch.tensor([[2, 3, 4], [1, 2, 3]]),
        "num_logits_to_keep": torch.tensor(2),
    }
    for number in range(layers):
        sample[f"past_key_values.{number}.key"] = first.layers[number].keys
        sample[f"past_key_values.{number}.value"] = first.layers[number].values
    return sample


def axes(sample: Mapping[str, Tensor], outputs: list[str]) -> dict[str, dict[int, str]]:
    total = "past_sequence_length + sequence_length"
    result = {
        "input_ids": {0: "batch_size", 1: "sequence_length"},
        "position_ids": {0: "batch_size", 1: "sequence_length"},
        "attention_mask": {0: "batch_size", 1: total},
        "logits": {0: "batch_size", 1: "num_logits"},
    }
    result |= {name: {0: "batch_size", 2: "past_sequence_length"} for name in sample if name.startswith("past")}
    return result | {name: {0: "batch_size", 2: total} for name in outputs[1:]}
