"""Narrower transformers: every layer loses as many units, the configuration says so, and transformers loads them."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import teachers  # noqa: E402
import tiny  # noqa: E402

from budwood.core.errors import StepError  # noqa: E402
from budwood.core.recipe import Recipe  # noqa: E402
from budwood.core.step import Context  # noqa: E402
from budwood.engine.predictor import task_of  # noqa: E402
from budwood.engine.transformers_import import load_pretrained  # noqa: E402
from budwood.steps.export.onnx import Onnx  # noqa: E402
from budwood.steps.shrink.prune_width import PruneWidth  # noqa: E402


def test_an_untrained_text_model_has_half_of_the_units_and_learns(tiny_bert: Path, tmp_path: Path) -> None:
    parent = teachers.texts(tmp_path, tiny_bert)
    context = Context(out=tmp_path / "unused", work=tmp_path / "w", splits=tiny.splits())
    cut = Recipe((PruneWidth(epochs=0), Onnx())).run(parent, context, tmp_path / "cut")
    assert cut.manifest.report["width"] == [64, 32]
    assert cut.manifest.report["steps"] == 0
    assert json.loads(cut.read("config.json"))["intermediate_size"] == 32
    assert load_pretrained("AutoModel", cut.path).encoder.layer[1].intermediate.dense.out_features == 32
    trained = PruneWidth(epochs=2, hidden=1.0).apply(
        parent, Context(out=tmp_path / "trained", work=tmp_path / "w2", splits=tiny.splits())
    )
    assert trained.manifest.report["steps"] > 0
    assert trained.manifest.report["parameters"] < trained.manifest.report["teacher_parameters"]


def test_units_stay_in_their_order_with_their_weights(tiny_bert: Path, tmp_path: Path) -> None:
    parent = teachers.texts(tmp_path, tiny_bert)
    context = Context(out=tmp_path / "cut", work=tmp_path / "w", splits=tiny.splits())
    child = PruneWidth(epochs=0, keep=0.25, round_to=8).apply(parent, context)
    wide, narrow = (task_of(bundle).build(bundle.path).encoder.encoder.layer[0] for bundle in (parent, child))
    rows, kept = wide.intermediate.dense.weight, narrow.intermediate.dense.weight
    places = [int((rows == row).all(dim=1).nonzero()[0, 0]) for row in kept]
    assert len(places) == 16
    assert places == sorted(places)
    assert torch.equal(narrow.output.dense.weight, wide.output.dense.weight[:, places])
    assert torch.equal(narrow.intermediate.dense.bias, wide.intermediate.dense.bias[places])


def test_a_vision_transformer_loses_units_and_heads(tmp_path: Path) -> None:
    parent, splits = teachers.images(tmp_path, "vit")
    context = Context(out=tmp_path / "unused", work=tmp_path / "w", splits=splits)
    child = Recipe((PruneWidth(epochs=1, heads=0.5, round_to=8), Onnx())).run(parent, context, tmp_path / "cut")
    report = child.manifest.report
    assert (report["heads"], report["width"]) == ([2, 1], [32, 16])
    config = json.loads(child.read("config.json"))
    assert (config["num_attention_heads"], config["head_dim"], config["intermediate_size"]) == (1, 8, 16)
    network = load_pretrained("AutoModelForImageClassification", child.path)
    assert sum(item.numel() for item in network.parameters()) == report["parameters"]
    assert report["conformance"]["difference"] < 1e-3


def test_heads_whose_size_hangs_on_their_number_are_kept(tiny_bert: Path, tmp_path: Path) -> None:
    parent = teachers.texts(tmp_path, tiny_bert)
    with pytest.raises(StepError, match="tied to their number"):
        PruneWidth(heads=0.5).apply(parent, Context(tmp_path / "out", tmp_path / "w", tiny.splits()))


def test_other_tasks_are_refused_with_what_is_for_them(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = teachers.texts(tmp_path, tiny_bert)
    monkeypatch.setattr(PruneWidth, "tasks", frozenset({"image_classification"}))
    with pytest.raises(StepError, match="not cut in width") as caught:
        PruneWidth().apply(parent, Context(out=tmp_path / "out", work=tmp_path / "w", splits=tiny.splits()))
    assert "shrink.quantize" in caught.value.fix


def test_convolutional_networks_are_refused(tmp_path: Path) -> None:
    parent, splits = teachers.images(tmp_path, "mobilenet_v2")
    with pytest.raises(StepError, match="how wide the feed-forward is") as caught:
        PruneWidth().apply(parent, Context(tmp_path / "out", tmp_path / "w", splits))
    assert "prune_channels" in caught.value.fix


@pytest.mark.parametrize("keep", [0.0, 1.0, 1.5, -0.5])
def test_impossible_shares_are_refused(tiny_bert: Path, tmp_path: Path, keep: float) -> None:
    parent = teachers.texts(tmp_path, tiny_bert)
    with pytest.raises(StepError, match="cannot be kept"):
        PruneWidth(keep=keep).apply(parent, Context(tmp_path / "out", tmp_path / "w", tiny.splits()))


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
ARCHITECTURES = {
    "Bert": {"intermediate_size": 64},
    "ModernBert": {"intermediate_size": 64, "pad_token_id": 0, "layer_types": ["full_attention"] * 2},
    "DistilBert": {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "MPNet": {"intermediate_size": 64, "pad_token_id": 1},
    "Electra": {"intermediate_size": 64, "embedding_size": 16},
    "Llama": {"intermediate_size": 64, "num_key_value_heads": 2, "pad_token_id": 0},
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 4},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_with_a_stated_width_is_cut(architecture: str, tmp_path: Path) -> None:
    from budwood.engine.transformers_import import quiet_transformers
    from budwood.engine.width_pruning import cut_feed_forward

    transformers = quiet_transformers()
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(**SIZES, **ARCHITECTURES[architecture])
    model = getattr(transformers, f"{architecture}Model")(config).eval()
    tokens = torch.randint(2, 40, (4, 9))

    def losses() -> list[torch.Tensor]:
        return [model(input_ids=tokens).last_hidden_state.square().sum()]

    assert cut_feed_forward(model, 0.5, losses, round_to=8) == (64, 32)
    with torch.no_grad():
        expected = model(input_ids=tokens).last_hidden_state
        model.save_pretrained(tmp_path)
        found = load_pretrained("AutoModel", tmp_path)(input_ids=tokens).last_hidden_state
    torch.testing.assert_close(found, expected)


def test_a_decoder_with_shared_keys_loses_whole_groups_of_heads(tmp_path: Path) -> None:
    from budwood.engine.transformers_import import quiet_transformers
    from budwood.engine.width_pruning import cut_heads

    transformers = quiet_transformers()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, **ARCHITECTURES["Llama"])
    model = transformers.LlamaModel(config).eval()
    tokens = torch.randint(2, 40, (4, 9))
    with torch.no_grad():  # so that the second group of heads says nothing at all
        for layer in model.layers:
            layer.self_attn.o_proj.weight[:, 8:] = 0
        before = model(input_ids=tokens).last_hidden_state

    assert cut_heads(model, 0.5, lambda: [model(input_ids=tokens).last_hidden_state.square().sum()]) == (4, 2)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=tokens).last_hidden_state, before)
        model.save_pretrained(tmp_path)
        loaded = load_pretrained("AutoModel", tmp_path)
        torch.testing.assert_close(loaded(input_ids=tokens).last_hidden_state, before)
    assert (loaded.config.num_key_value_heads, loaded.config.head_dim) == (1, 4)


def test_units_that_say_nothing_go_first() -> None:
    from budwood.engine.transformers_import import quiet_transformers
    from budwood.engine.width_pruning import cut_feed_forward

    transformers = quiet_transformers()
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**SIZES, intermediate_size=64)).eval()
    tokens, wanted = torch.randint(2, 40, (4, 9)), torch.randn(4, 9, 16)
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.output.dense.weight[:, ::2] = 0
        before = model(input_ids=tokens).last_hidden_state
    cut_feed_forward(model, 0.5, lambda: [(model(input_ids=tokens).last_hidden_state * wanted).sum()], 8)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=tokens).last_hidden_state, before)
