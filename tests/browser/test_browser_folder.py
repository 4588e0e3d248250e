"""`budwood export browser` in a real browser: transformers.js gives the label that Budwood gives.

Its two packages, 35 MB, are fetched once into the user's cache where a registry can be reached; otherwise these tests
are skipped.
"""

import json
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import exported
import pictures
import pytest
import tiny
from chromium import BROWSER, Tab, browser

from budwood.core.bundle import Bundle
from budwood.core.errors import UsageError
from budwood.engine.browser import LIBRARY, page, write_browser
from budwood.engine.predictor import Predictor, task_of
from budwood.engine.user_cache import user_cache

BACK_END = "onnxruntime-web"
NEEDED = ("package/package.json", "package/dist/transformers.min.js", "package/dist/ort-wasm-simd-threaded")
FETCH_SECONDS = 60

needs_a_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


def fetch(package: str, version: str, target: Path) -> Path:
    """The files of a package that a page needs, from the cache or from the registry that npm is set up for."""
    kept = user_cache("test-packages") / f"{package.replace('/', '-')}-{version}"
    if not (kept / "package.json").exists():
        if shutil.which("npm") is None:
            pytest.skip("npm, which fetches transformers.js, is not installed")
        work = target / "packed"
        work.mkdir(parents=True)
        command = ["npm", "pack", "--silent", "--pack-destination", str(work), f"{package}@{version}"]
        try:
            subprocess.run(command, cwd=work, check=True, capture_output=True, timeout=FETCH_SECONDS)
        except subprocess.SubprocessError:
            pytest.skip(f"{package} {version} cannot be fetched: no registry can be reached")
        (archive,) = work.glob("*.tgz")
        with tarfile.open(archive) as tar:
            members = [item for item in tar.getmembers() if item.name.startswith(NEEDED)]
            tar.extractall(work, members, filter="data")
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(work / "package", kept, dirs_exist_ok=True)
    return kept


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    name, version = LIBRARY
    library = fetch(name, version, tmp_path_factory.mktemp("library"))
    wanted = json.loads((library / "package.json").read_text())["dependencies"][BACK_END]
    return {name: library, BACK_END: fetch(BACK_END, wanted, tmp_path_factory.mktemp("back-end"))}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is told of requests."""


@contextmanager
def static(folder: Path, packages: dict[str, Path]) -> Iterator[str]:
    """The folder behind a plain server of files, with the packages where npm would put them."""
    for name, place in packages.items():
        (folder / "node_modules" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "node_modules" / name).symlink_to(place)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def opened(tab: Tab, url: str) -> None:
    tab.open(url)
    tab.wait_for("document.querySelector('#status').textContent.startsWith('ready')")


@needs_a_browser
def test_a_text_gets_the_same_label_and_score(packages, tab: Tab, tiny_bert: Path, tmp_path: Path) -> None:
    bundle = exported.text(tmp_path / "made", tiny_bert)
    folder = write_browser(bundle, tmp_path / "page", "tickets")
    texts = ["Where is my parcel?", "I want my money back.", "Ça va? 你好 🙂", "refund " * 60]
    expected = Predictor.open(bundle, "onnxruntime", 1).predict_all([{"text": text} for text in texts], batch_size=1)
    with static(folder, packages) as url:
        opened(tab, url)
        for text, answer in zip(texts, expected, strict=True):
            found = tab.js(f"classify({json.dumps(text)}).then((all) => all[0])")
            assert found["label"] == answer["label"]
            assert found["score"] == pytest.approx(answer["score"], abs=1e-3)
        tab.js(
            "document.querySelector('textarea').value = 'Where is my parcel?';"
            "document.querySelector('textarea').dispatchEvent(new Event('input'))"
        )
        tab.wait_for("document.querySelectorAll('td').length === 6")
        assert tab.js("document.querySelector('td').textContent") == expected[0]["label"]
        library = f"./node_modules/{LIBRARY[0]}/dist/transformers.min.js"
        through_pipeline = tab.js(
            f"import({json.dumps(library)}).then(({{ pipeline }}) => pipeline('text-classification', 'model', "
            f"{{ dtype: 'fp32', device: 'wasm' }})).then((run) => run({json.dumps(texts[0])}))"
        )
        assert through_pipeline[0]["label"] == expected[0]["label"]


@needs_a_browser
def test_an_image_gets_the_same_label(packages, tab: Tab, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    bundle = exported.image(tmp_path / "made")
    folder = write_browser(bundle, tmp_path / "page", "colours")
    predictor = Predictor.open(bundle, "onnxruntime", 1)
    with static(folder, packages) as url:
        opened(tab, url)
        for number, label in enumerate(pictures.COLOURS):
            content = pictures.encoded(pictures.scene(label, 900 + number))
            (folder / f"{label}.png").write_bytes(content)
            (answer,) = predictor.predict([{"image": content}])
            assert tab.js(f"classify('{label}.png').then((all) => all[0].label)") == answer["label"]


def test_the_folder_has_labels_and_a_head_and_the_smallest_graph(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = write_browser(tiny_bundle, tmp_path / "page", "tickets")
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {str(number): label for number, label in enumerate(tiny.LABELS)}
    assert config["label2id"] == {label: number for number, label in enumerate(tiny.LABELS)}
    assert config["problem_type"] == "single_label_classification"
    assert (folder / "model" / "onnx" / "model.onnx").read_bytes() == tiny_bundle.read("onnx/model.onnx")
    assert json.loads((folder / "package.json").read_text())["dependencies"] == dict([LIBRARY])
    with pytest.raises(UsageError, match="already exists"):
        write_browser(tiny_bundle, folder, "tickets")


def test_a_name_can_not_end_the_script(tiny_bundle: Bundle) -> None:
    text = page(tiny_bundle, task_of(tiny_bundle), "</script><script>alert(1)</script>", "fp32")
    assert text.count("</script>") == 1
    assert "alert(1)" in text


def test_a_task_without_a_page_is_refused(tmp_path: Path) -> None:
    task = {"name": "text_generation", "kind": "documents", "max_tokens": 8}
    with pytest.raises(UsageError, match="no page for text_generation"):
        write_browser(tiny.small_bundle(tmp_path / "b", task=task), tmp_path / "page", "x")
    assert not (tmp_path / "page").exists()
