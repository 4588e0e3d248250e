"""GPT-2 and Llama decoders as ONNX graphs of ONNX Runtime's fused kernels. Import only inside functions.

Use it where a generator is exported: ten nodes a layer instead of fifty, and every matrix product a plain `MatMul`
with its weights in one tensor, which is what quantizing looks for.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["build_decoder_graph", "buildable"]

FUSED = "com.microsoft"
OPSET = 17
LOWEST = float(np.finfo(np.float32).min)


def buildable(config: Any) -> bool:
    """Whether a model with this configuration is one of those that this file writes; others can be traced."""
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    if width % 8:  # the fused attention takes no other widths
        return False
    if config.model_type == "gpt2":
        plain = config.scale_attn_weights and not config.add_cross_attention
        return bool(plain and config.activation_function in ("gelu_new", "gelu_pytorch_tanh"))
    if config.model_type == "llama":
        kind = (config.rope_parameters or {}).get("rope_type", "default")
        return bool(config.hidden_act == "silu" and kind in ("default", "linear", "llama3"))
    return False


def build_decoder_graph(model: Any, path: Path) -> None:
    """Write a causal language model for which `buildable` holds as ONNX to `path`.

    The names are those of `engine/causal_graph.py`. Rows may be padded on either side, as `attention_mask` says.
    """
    kind = Gpt2 if model.config.model_type == "gpt2" else Llama
    with torch.no_grad():
        onnx.save_model(kind(model).build(), str(path))


class Graph:
    """Nodes and weights in order, with a name for everything."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def fused(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> str:
        """A kernel that only ONNX Runtime has. Gives the name of its first output."""
        node = helper.make_node(kind, list(inputs), list(outputs), name=outputs[0], domain=FUSED, **attributes)
        self.nodes.append(node)
        return outputs[0]

    def weight(self, name: str, value: torch.Tensor | NDArray[Any] | np.float32) -> str:
        array = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        self.weights[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def product(self, states: str, name: str, weight: torch.Tensor, bias: torch.Tensor | None = None) -> str:
        """`states` times a weight of shape (in, out), plus a bias."""
        found = self.add("MatMul", [states, self.weight(f"{name}.weight", weight)], f"{name}.product")
        return found if bias is None else self.add("Add", [found, self.weight(f"{name}.bias", bias)], f"{name}.sum")


class Decoder(Graph, ABC):
    """What both families share: inputs, the mask, attention over the cache, the last states and the vocabulary."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.layers, self.heads = int(self.config.num_hidden_layers), int(self.config.num_attention_heads)
        self.shared_heads = int(getattr(self.config, "num_key_value_heads", None) or self.heads)
        self.width = int(getattr(self.config, "head_dim", None) or self.config.hidden_size // self.heads)

    def build(self) -> onnx.ModelProto:
        self.masks()
        self.vocabulary(self.last(self.body()))
        inputs, outputs = self.signature()
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, list(self.weights.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="budwood")
        # Rows of different lengths may have their cache in one block that is written in place.
        model.metadata_props.add(key="budwood.cache", value="in place")
        return model

    @abstractmethod
    def body(self) -> str:
        """The last hidden states, (batch, sequence, width of the model)."""

    def signature(self) -> tuple[list[Any], list[Any]]:
        total, whole = "past_sequence_length + sequence_length", TensorProto.INT64
        batch, heads, width = "batch_size", self.shared_heads, self.width
        inputs = [
            helper.make_tensor_value_info("input_ids", whole, ["batch_size", "sequence_length"]),
            helper.make_tensor_value_info("attention_mask", whole, ["batch_size", total]),
            helper.make_tensor_value_info("position_ids", whole, ["batch_size", "sequence_length"]),
            helper.make_tensor_value_info("num_logits_to_keep", whole, []),
        ]
        logits = (batch, "num_logits", int(self.config.vocab_size))
        past, present = (batch, heads, "past_sequence_length", width), (batch, heads, total, width)
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)]
        for layer in range(self.layers):
            for part in ("key", "value"):
                name = f"past_key_values.{layer}.{part}"
                inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, past))
                outputs.append(helper.make_tensor_value_info(f"present.{layer}.{part}", TensorProto.FLOAT, present))
        return inputs, outputs

    def masks(self) -> None:
        """What may be looked at: the kernel knows of the order of tokens, `bias` forbids the padding.

        A row ends with the last column that its mask shows, and its new tokens stand there. So rows of different
        lengths may share a batch and a cache, begun at its first column or padded on the left.
        """
        shape = self.add("Shape", ["attention_mask"], "mask.shape")
        self.weight("one", np.asarray([1], np.int64))
        total = self.add("Gather", [shape, self.weight("second", np.asarray(1, np.int64))], "mask.total")
        self.add("Cast", [total], "total", to=TensorProto.INT32)
        last = self.add("ArgMax", ["attention_mask"], "mask.last", axis=1, keepdims=0, select_last_index=1)
        self.add("Cast", [last], "lengths", to=TensorProto.INT32)
        seen = self.add("Cast", ["attention_mask"], "mask.seen", to=TensorProto.BOOL)
        zero, lowest = self.weight("zero", np.float32(0)), self.weight("lowest", np.float32(LOWEST))
        rows = self.add("Where", [seen, zero, lowest], "mask.rows")
        wide = self.add("Unsqueeze", [rows, self.weight("middle", np.asarray([1, 2], np.int64))], "mask.wide")
        sequence = self.add("Shape", ["input_ids"], "sequence", start=1, end=2)
        shape = self.add("Concat", ["one", "one", sequence, "one"], "mask.spread", axis=0)
        self.add("Expand", [wide, shape], "bias")

    def attend(self, layer: int, queries: str, keys: str, values: str) -> str:
        """Attention of the new tokens over the cache and themselves; empty keys stand for all three packed in one."""
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        present = [f"present.{layer}.{part}" for part in ("key", "value")]
        return self.fused(
            "GroupQueryAttention",
            [queries, keys, values, *past, "lengths", "total", "", "", "", "bias"],
            [f"layer.{layer}.attended", *present],
            num_heads=self.heads,
            kv_num_heads=self.shared_heads,
            scale=self.scale(layer),
        )

    def scale(self, layer: int) -> float:
        return float(self.width**-0.5)

    def last(self, states: str) -> str:
        """The states of the last `num_logits_to_keep` positions, all for 0."""
        length = self.add("Squeeze", ["sequence"], "kept.length")
        start = self.add("Sub", [length, "num_logits_to_keep"], "kept.start")
        some = self.add("Cast", ["num_logits_to_keep"], "kept.some", to=TensorProto.BOOL)
        none = self.weight("none", np.asarray(0, np.int64))
        begin = self.add("Where", [some, start, none], "kept.begin")
        begins = self.add("Unsqueeze", [begin, self.weight("axis", np.asarray([0], np.int64))], "kept.begins")
        return self.add("Slice", [states, begins, "sequence", "one"], "kept")

    def embedding(self, weight: torch.Tensor) -> str:
        return self.add("Gather", [self.weight("embedding.weight", weight), "input_ids"], "embedded")

    def vocabulary(self, states: str) -> None:
        head = self.model.get_output_embeddings()
        if head.weight is self.model.get_input_embeddings().weight:  # stored once, turned when the graph is loaded
            weight = self.add("Transpose", ["embedding.weight"], "head.weight", perm=[1, 0])
        else:
            weight = self.weight("head.weight", head.weight.T)
        self.nodes.append(helper.make_node("MatMul", [states, weight], ["logits"], name="head"))


class Gpt2(Decoder):
    """Radford et al. 2019: learnt positions, layer norms before attention and before the perceptron."""

    def scale(self, layer: int) -> float:
        return float(self.model.transformer.h[layer].attn.scaling)

    def body(self) -> str:
        body = self.model.transformer
        self.embedding(body.wte.weight)
        self.add("Gather", [self.weight("positions.weight", body.wpe.weight), "position_ids"], "placed")
        state, change, bias = "embedded", "placed", None
        for layer, block in enumerate(body.h):
            name = f"layer.{layer}"
            normed, state = self.norm(f"{name}.first", block.ln_1, state, change, bias)
            packed = self.product(normed, f"{name}.attention", block.attn.c_attn.weight, block.attn.c_attn.bias)
            found = self.attend(layer, packed, "", "")
            change = self.product(found, f"{name}.projection", block.attn.c_proj.weight)
            normed, state = self.norm(f"{name}.second", block.ln_2, state, change, block.attn.c_proj.bias)
            wide = self.product(normed, f"{name}.up", block.mlp.c_fc.weight)
            bias_name = self.weight(f"{name}.up.bias", block.mlp.c_fc.bias)
            active = self.fused("FastGelu", [wide, bias_name], [f"{name}.active"])
            change, bias = self.product(active, f"{name}.down", block.mlp.c_proj.weight), block.mlp.c_proj.bias
        return self.norm("final", body.ln_f, state, change, bias)[0]

    def norm(self, name: str, norm: Any, state: str, change: str, bias: torch.Tensor | None) -> tuple[str, str]:
        """The layer norm of `state + change + bias`, and that sum."""
        weights = [self.weight(f"{name}.weight", norm.weight), self.weight(f"{name}.shift", norm.bias)]
        weights += [] if bias is None else [self.weight(f"{name}.bias", bias)]
        outputs = [f"{name}.normed", "", "", f"{name}.state"]
        self.fused("SkipLayerNormalization", [state, change, *weights], outputs, epsilon=float(norm.eps))
        return outputs[0], outputs[3]


class Llama(Decoder):
    """Touvron et al. 2023 (arXiv:2302.13971): rotated positions, root-mean-square norms, a gated perceptron."""

    def body(self) -> str:
        body = self.model.model
        self.rotations(body.rotary_emb)
        state, change = self.embedding(body.embed_tokens.weight), ""
        for layer, block in enumerate(body.layers):
            name = f"layer.{layer}"
            normed, state = self.norm(f"{name}.first", block.input_layernorm, state, change)
            found = self.attend(layer, *self.rotated(name, normed, block.self_attn))
            output = block.self_attn.o_proj
            change = self.product(found, f"{name}.projection", output.weight.T, output.bias)
            normed, state = self.norm(f"{name}.second", block.post_attention_layernorm, state, change)
            change = self.perceptron(name, normed, block.mlp)
        return self.norm("final", body.norm, state, change)[0]

    def rotations(self, module: Any) -> None:
        """Cosines and sines of every position of the window, half of each head's width."""
        places = torch.arange(int(self.config.max_position_embeddings))[None]
        for name, table in zip(("cosines", "sines"), module(torch.zeros(1), places), strict=True):
            self.weight(name, table[0, :, : self.width // 2])

    def rotated(self, name: str, normed: str, attention: Any) -> list[str]:
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        packed = self.joined(f"{name}.attention", normed, parts)
        queries, keys, values = (f"{name}.{part}" for part in ("queries", "keys", "values"))
        self.split(packed, [self.heads * self.width, *[self.shared_heads * self.width] * 2], [queries, keys, values])
        for item in (queries, keys):
            self.fused("RotaryEmbedding", [item, "position_ids", "cosines", "sines"], [f"{item}.rotated"])
        return [f"{queries}.rotated", f"{keys}.rotated", values]

    def perceptron(self, name: str, normed: str, module: Any) -> str:
        packed = self.joined(f"{name}.up", normed, (module.gate_proj, module.up_proj))
        gate, up = f"{name}.gate", f"{name}.values.up"
        self.split(packed, [int(self.config.intermediate_size)] * 2, [gate, up])
        active = self.fused("QuickGelu", [gate], [f"{name}.active"], alpha=1.0)  # x sigmoid(x), which is SiLU
        gated = self.add("Mul", [active, up], f"{name}.gated")
        return self.product(gated, f"{name}.down", module.down_proj.weight.T, module.down_proj.bias)

    def joined(self, name: str, states: str, parts: Sequence[Any]) -> str:
        """Several linear layers of the same input as one product."""
        bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
        return self.product(states, name, torch.cat([part.weight for part in parts]).T, bias)

    def split(self, packed: str, sizes: Sequence[int], outputs: Sequence[str]) -> None:
        lengths = self.weight(f"{packed}.sizes", np.asarray(sizes, np.int64))
        self.nodes.append(helper.make_node("Split", [packed, lengths], list(outputs), name=f"{packed}.split", axis=-1))

    def norm(self, name: str, norm: Any, state: str, change: str) -> tuple[str, str]:
        """The norm of `state + change`, and that sum; there is no change before the first layer."""
        weight, epsilon = self.weight(f"{name}.weight", norm.weight), float(norm.variance_epsilon)
        if not change:
            # A kernel of ONNX Runtime that it keeps in the standard domain.
            self.add("SimplifiedLayerNormalization", [state, weight], f"{name}.normed", epsilon=epsilon, axis=-1)
            return f"{name}.normed", state
        outputs = [f"{name}.normed", "", "", f"{name}.state"]
        self.fused("SkipSimplifiedLayerNormalization", [state, change, weight], outputs, epsilon=epsilon)
        return outputs[0], outputs[3]
