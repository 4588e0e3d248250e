"""Encoders of other architectures than BERT, tiny and with random weights, go the same way."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from budwood import flow  # noqa: E402
from budwood.core.bundle import Bundle  # noqa: E402
from budwood.core.errors import BundleError  # noqa: E402
from budwood.engine.layer_cut import keep_layers  # noqa: E402
from budwood.engine.text_model import load_encoder  # noqa: E402
from budwood.runtimes.onnxruntime import OnnxRuntime  # noqa: E402
from budwood.stages import shrink_judging  # noqa: E402

COMMON: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
KINDS: dict[str, dict[str, Any]] = {
    "Roberta": COMMON | {"pad_token_id": 1, "type_vocab_size": 1},
    "DistilBert": {"vocab_size": 200, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "MPNet": COMMON,
    "DebertaV2": COMMON | {"type_vocab_size": 0},
    "ModernBert": COMMON | {"num_hidden_layers": 4, "local_attention": 8, "bos_token_id": 2, "eos_token_id": 3},
    "Albert": COMMON | {"embedding_size": 16},
    "T5": {"vocab_size": 200, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2},
}


def base(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**KINDS[kind])
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


def adapted(kind: str, folder: Path) -> Any:
    data = folder / "t.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in tiny.rows(8)))
    return flow.adapt(data, base=str(base(kind, folder / "base")), method="head", name="t", store=folder / "models")


@pytest.mark.parametrize("kind", ["Roberta", "DistilBert", "MPNet", "DebertaV2", "ModernBert"])
def test_an_encoder_is_adapted_and_its_graph_agrees_with_torch(kind: str, tmp_path: Path) -> None:
    report = Bundle.open(adapted(kind, tmp_path).path).manifest.report
    assert report["conformance"]["difference"] <= report["conformance"]["tolerance"]


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a text encoder"):
        adapted("T5", tmp_path)


@pytest.mark.parametrize("kind", ["DistilBert", "ModernBert"])
def test_an_encoder_of_fewer_layers_is_the_same_when_it_is_loaded_again(kind: str, tmp_path: Path) -> None:
    encoder = load_encoder(base(kind, tmp_path / "base"))
    assert len(keep_layers(encoder, encoder.config.num_hidden_layers // 2)) == encoder.config.num_hidden_layers
    encoder.save_pretrained(tmp_path / "cut")
    numbers = torch.arange(5, 35)[None]
    with torch.inference_mode():
        states = [model(input_ids=numbers).last_hidden_state for model in (encoder, load_encoder(tmp_path / "cut"))]
    np.testing.assert_allclose(states[0], states[1], atol=1e-5)


def test_a_candidate_that_cannot_be_made_is_told_and_the_rest_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shrink_judging, "RACE_SECONDS", 0.1)
    adapted("Albert", tmp_path)
    report = flow.shrink("t", store=tmp_path / "models").report
    found = {item.recipe: item for item in report.candidates}
    assert found["int8"].score is not None
    assert found["layers-1"].score is None
    assert "no list of layers" in found["layers-1"].why


def test_a_graph_that_onnx_runtime_refuses_is_told_plainly() -> None:
    with pytest.raises(BundleError, match="cannot load the graph"):
        OnnxRuntime(b"not a graph")
