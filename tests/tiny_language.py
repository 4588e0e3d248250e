"""Small language models for tests: GPT-2 and Llama with random weights, and a corpus that is learnt in seconds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budwood.core.bundle import Bundle

STORIES = (
    "Once upon a time there was a little bird. The bird could not fly, so it walked to the lake.",
    "The old man had a red boat. Every day he rowed the boat over the lake and came back at night.",
    "A girl found a key in the garden. She tried the key in every door, and the last door opened.",
    "In the night the wind sang. Nobody heard the wind but the cat, and the cat told nobody.",
)
CORPUS = [f"Story {number}. {story}" for number in range(30) for story in STORIES]


def gpt2(folder: Path) -> Path:
    """A new GPT-2 of the smallest size with a tokenizer of `CORPUS`. It imports torch and transformers."""
    from budwood.engine.language_model import new_model

    new_model(CORPUS, folder, seed=1)
    return folder


def llama(folder: Path, gpt2_folder: Path) -> Path:
    """A Llama of two layers whose heads share keys, with the tokenizer of `gpt2`."""
    from budwood.engine.transformers_import import quiet_transformers

    transformers = quiet_transformers()
    import torch

    torch.manual_seed(0)
    config = json.loads((gpt2_folder / "config.json").read_text())
    values = {name: config[name] for name in ("vocab_size", "bos_token_id", "eos_token_id")}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings = transformers.LlamaConfig(
        **values, **sizes, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3
    )
    transformers.LlamaForCausalLM(settings).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((gpt2_folder / name).read_bytes())
    return folder


def bundle(path: Path, kind: str = "documents") -> "Bundle":
    """A bundle with the graph of a new GPT-2, and the model's folder beside it."""
    from budwood.core.bundle import Bundle, Draft, StepRecord
    from budwood.engine.causal_graph import export_causal_graph
    from budwood.tasks.text_generation import TextGeneration

    plain = gpt2(path.with_name("plain"))

    def write(stage: Path) -> None:
        TextGeneration.take_base(plain, stage)
        (stage / "onnx").mkdir()
        export_causal_graph(plain, stage / "onnx" / "model.onnx")

    task = {"name": "text_generation", **TextGeneration(kind, 64).to_json()}
    return Bundle.create(path, Draft(parent=None, history=(StepRecord(name="base"),), task=task, base="tiny"), write)
