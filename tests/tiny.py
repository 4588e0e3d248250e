"""Small fakes for tests: a bundle that answers in a millisecond, and a BERT of two layers for what needs torch.

Take `bundle` wherever the model's quality does not matter, and the fixture `tiny_bert` where training is tested.
"""

import json
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.bundle import Bundle, Draft, StepRecord
from budwood.core.dataset import Dataset, Splits

LABELS = ("delivery", "praise", "refund")
SENTENCES = (
    "Where is my parcel?",
    "The parcel was sent to the wrong address.",
    "My order has not arrived, when will it come?",
    "Thank you, this was fast and friendly.",
    "Great service, I am very happy with it.",
    "I love the colour and the quality is good.",
    "I want my money back.",
    "Please refund the second payment on my card.",
    "The jacket is broken, I will return it for a refund.",
)
"""Three sentences for each label, in the order of `LABELS`."""
HIDDEN = 32
MAX_TOKENS = 32
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def rows(repeats: int = 1) -> list[dict[str, Any]]:
    """Labelled rows, nine for each repeat; no two texts are equal."""
    return [
        {"text": text if not turn else f"{text} ({turn})", "label": LABELS[index // 3]}
        for turn in range(repeats)
        for index, text in enumerate(SENTENCES)
    ]


def splits(repeats: int = 6, seed: int = 0) -> Splits:
    """Train, validation and test rows with every label in each."""
    every = rows(repeats)
    train, validation, test = every[:-18], every[-18:-9], every[-9:]
    return Splits(*(Dataset.of(part, "tiny.csv") for part in (train, validation, test)), seed=seed)


def tokenizer_json() -> str:
    """A WordPiece tokenizer of the sentences' words and letters, as transformers and `tokenizers` read it.

    It is not trained: training breaks ties by chance, and another vocabulary in each process makes tests waver.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({word for text in SENTENCES for word in re.findall(r"[a-z]+", text.lower())})
    pieces = [*SPECIAL, *string.ascii_lowercase, *string.digits, *string.punctuation, *words]
    pieces += [f"##{letter}" for letter in string.ascii_lowercase + string.digits]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    text: str = tokenizer.to_str(pretty=True)
    return text


def configuration(vocabulary: int) -> dict[str, Any]:
    """The `config.json` of a BERT of two layers."""
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": MAX_TOKENS + 2,
        "pad_token_id": 0,
    }


def tokenizer_configuration() -> dict[str, Any]:
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return {"tokenizer_class": "BertTokenizer", "model_max_length": MAX_TOKENS, **names}


def weights(vocabulary: int, labels: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """What `graph` computes with."""
    random = np.random.default_rng(seed)
    shapes = {"embedding": (vocabulary, HIDDEN), "head.weight": (HIDDEN, labels), "head.bias": (labels,)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def logits(tensors: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """What the graph answers, by numpy: the mean embedding of the tokens that count, times the head."""
    mask = inputs["attention_mask"][:, :, None].astype(np.float32)
    pooled = (tensors["embedding"][inputs["input_ids"]] * mask).sum(1) / mask.sum(1)
    result: NDArray[Any] = pooled @ tensors["head.weight"] + tensors["head.bias"]
    return result


def graph(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """An ONNX model with the inputs of a text classifier and one output, `logits`."""
    from onnx import TensorProto, helper, numpy_helper

    ints, floats, shape = TensorProto.INT64, TensorProto.FLOAT, ["batch", "tokens"]
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["floats"], to=floats),
        helper.make_node("Unsqueeze", ["floats", "last"], ["mask"]),
        helper.make_node("Mul", ["tokens", "mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "middle"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["pooled"]),
        helper.make_node("MatMul", ["pooled", "head.weight"], ["product"]),
        helper.make_node("Add", ["product", "head.bias"], ["logits"]),
    ]
    constants = {**tensors, "last": np.array([2], np.int64), "middle": np.array([1], np.int64)}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info(name, ints, shape) for name in ("input_ids", "attention_mask")],
            [helper.make_tensor_value_info("logits", floats, ["batch", len(tensors["head.bias"])])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    content: bytes = model.SerializeToString()
    return content


def write_files(folder: Path, labels: Sequence[str] = LABELS, seed: int = 0) -> None:
    """The files of a small text classifier: configuration, tokenizer, safetensors, ONNX and a card."""
    from safetensors.numpy import save

    tokenizer = tokenizer_json()
    vocabulary = len(json.loads(tokenizer)["model"]["vocab"])
    tensors = weights(vocabulary, len(labels), seed)
    (folder / "onnx").mkdir()
    (folder / "config.json").write_text(json.dumps(configuration(vocabulary)))
    (folder / "tokenizer.json").write_text(tokenizer)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_configuration()))
    (folder / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
    (folder / "onnx" / "model.onnx").write_bytes(graph(tensors))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA tiny model for tests.\n")


def draft(**changes: Any) -> Draft:
    """What a tiny bundle says of itself."""
    task = {"name": "text_classification", "labels": list(LABELS), "multi_label": False, "max_tokens": MAX_TOKENS}
    fields = {"parent": None, "history": (StepRecord(name="adapt.head"),), "task": task, "base": "tiny"}
    return Draft.model_validate(fields | {"license": "apache-2.0"} | changes)


def bundle(path: Path, *, seed: int = 0, **changes: Any) -> Bundle:
    """A valid bundle at `path` that answers over ONNX Runtime; `changes` are fields of its draft."""
    return Bundle.create(path, draft(**changes), lambda folder: write_files(folder, seed=seed))


def small_bundle(path: Path, content: str = "{}", **changes: Any) -> Bundle:
    """A bundle of two small files and no model, where only the storing matters; it is made in a millisecond."""

    def write(folder: Path) -> None:
        (folder / "config.json").write_text(content)
        (folder / "README.md").write_text("small\n")

    return Bundle.create(path, draft(**changes), write)


def bert(folder: Path) -> Path:
    """A plain Hugging Face folder with a BERT of two layers and random weights. It imports torch and transformers."""
    from budwood.engine.transformers_import import quiet_transformers

    transformers = quiet_transformers()
    import torch

    tokenizer = tokenizer_json()
    torch.manual_seed(0)
    values = configuration(len(json.loads(tokenizer)["model"]["vocab"]))
    model = transformers.BertModel(transformers.BertConfig(**values))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_configuration()))
    return folder
