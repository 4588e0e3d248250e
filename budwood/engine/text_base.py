"""A text encoder as a base: checked, and written with its tokenizer and its way of pooling."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from budwood.core import registry
from budwood.core.errors import BundleError, DataError
from budwood.core.opening import check_model_folder
from budwood.engine.transformers_import import quiet_transformers

__all__ = ["embed_texts", "write_base"]

POOLING = "pooling.json"


def write_base(folder: Path, stage: Path) -> None:
    """Write the encoder of a transformers or sentence-transformers folder, or of a bundle, to `stage`.

    Raises:
        BundleError: it is not a text encoder with a fast tokenizer.
    """
    from budwood.engine.text_model import load_encoder, write_pooling

    transformers = quiet_transformers()
    try:
        encoder = load_encoder(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # each model's code in transformers raises its own kinds
        raise BundleError(
            f"transformers cannot load the base: {error}", where=str(folder), fix="pass a text encoder, such as MiniLM"
        ) from error
    decodes = getattr(encoder.config, "is_encoder_decoder", False)
    if decodes or not getattr(tokenizer, "is_fast", False) or not hasattr(encoder.config, "hidden_size"):
        raise BundleError(
            "the base is not a text encoder with a fast tokenizer",
            where=str(folder),
            fix="pass a text encoder, such as MiniLM",
        )
    encoder.save_pretrained(str(stage))
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(str(stage))
    pooling, normalize = read_pooling(folder)
    write_pooling(stage, pooling, normalize)


def embed_texts(folder: Path, texts: Sequence[str]) -> NDArray[Any]:
    """Embeddings of texts by a base model as it is, shape (texts, width); for finding near duplicates."""
    from torch import nn

    from budwood.engine.batching import Rows, run
    from budwood.engine.text_model import TextClassifier, load_encoder

    check_model_folder(folder)
    encoder = load_encoder(folder)
    model = TextClassifier(encoder, nn.Linear(int(encoder.config.hidden_size), 1), *read_pooling(folder))
    task = registry.get("tasks", "text_classification")(("",))
    rows = [{"text": text, "label": ""} for text in texts]
    return run(model, Rows(task, task.encoder(folder), rows), "embedding")


def read_pooling(folder: Path) -> tuple[str, bool]:
    """Pooling and normalisation as a bundle or a sentence-transformers folder states them; else a plain mean."""
    own = read_json(folder / POOLING)
    if isinstance(own, dict):
        return str(own["pooling"]), bool(own["normalize"])
    modules = read_json(folder / "modules.json")
    normalize = isinstance(modules, list) and any(str(item.get("type", "")).endswith(".Normalize") for item in modules)
    facts = read_json(folder / "1_Pooling" / "config.json")
    if not isinstance(facts, dict):
        return "mean", normalize
    if facts.get("pooling_mode_cls_token") or facts.get("pooling_mode") == "cls":
        return "cls", normalize
    if facts.get("pooling_mode_mean_tokens") or facts.get("pooling_mode") == "mean":
        return "mean", normalize
    raise BundleError("only mean and cls pooling are supported", where=str(folder / "1_Pooling" / "config.json"))


def read_json(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path.name} is not JSON: {error}", where=str(path)) from error
