"""The playgrounds in a real browser, where there is one: ask, see the answer, and labels that try to be markup."""

import json
import shutil
import subprocess
from pathlib import Path

import pictures
import pytest
import scenes
import served
from chromium import BROWSER, Tab

from budwood import flow
from budwood.core.bundle import Bundle
from budwood.serving.auth import create_key
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import Handle, start

EVIL = "<img src=x onerror=document.title=1>"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


@pytest.fixture
def tab(page_tab: Tab) -> Tab:
    page_tab.messages.clear()
    page_tab.scheme("light")
    page_tab.open("about:blank")
    return page_tab


def ask(tab: Tab, text: str) -> None:
    tab.js(
        f"document.getElementById('text').value = {json.dumps(text)}; document.getElementById('form').requestSubmit()"
    )


def give(tab: Tab, path: Path) -> None:
    """Choose a file."""
    root = tab.call("DOM.getDocument")["root"]["nodeId"]
    field = tab.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    tab.call("DOM.setFileInputFiles", nodeId=field, files=[str(path)])


def text_of(tab: Tab, name: str) -> str:
    return str(tab.js(f"document.getElementById('{name}').textContent"))


def content_with(tab: Tab, handle: Handle) -> None:
    """Nothing was wrong, and nothing was asked of anybody else."""
    assert tab.complaints() == []
    assert tab.hosts() <= {handle.url.removeprefix("http://")}
    tab.open("about:blank")


def test_type_and_see_the_answer(tab: Tab, evil: Handle) -> None:
    tab.open(evil.url)
    tab.js("document.getElementById('text').focus()")
    tab.type("Where is my parcel?")
    tab.press("Enter", 13, modifiers=2)
    tab.wait_for("!document.getElementById('answer').hidden")
    assert text_of(tab, "label").startswith("<img")
    assert text_of(tab, "said").startswith("<img")
    assert tab.js("document.getElementById('said').getAttribute('role')") == "status"
    assert tab.js("document.querySelectorAll('#scores tr').length") == 3
    widths = tab.js(
        "[...document.querySelectorAll('#scores rect:last-child')].map(r => Number(r.getAttribute('width')))"
    )
    assert widths == sorted(widths, reverse=True)
    assert " ms with the network, version 1" in text_of(tab, "timing")
    assert json.loads(text_of(tab, "json"))["label"].startswith("<img")
    tab.js("document.getElementById('top').value = '1'; document.getElementById('form').requestSubmit()")
    tab.wait_for("document.querySelectorAll('#scores tr').length === 1")
    tab.wait_for("Number(document.getElementById('rate').textContent) > 0")
    assert tab.js("document.querySelectorAll('img[src=x]').length") == 0
    assert tab.js("document.title") == "Try it · Budwood"
    content_with(tab, evil)


def test_the_curl_line_asks_the_same(tab: Tab, evil: Handle) -> None:
    tab.open(evil.url)
    tab.js("document.getElementById('text').focus()")
    tab.type('It\'s $HOME; `date` & "more"\\')
    line = text_of(tab, "curl")
    assert "It'\\''s $HOME" in line
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    found = subprocess.run(["sh", "-c", f"{line} -s"], capture_output=True, text=True, check=True, timeout=20)
    assert set(json.loads(found.stdout)["scores"]) == {EVIL, EVIL + "2", EVIL + "3"}
    content_with(tab, evil)


def test_a_refused_text_is_said(tab: Tab, evil: Handle) -> None:
    tab.open(evil.url)
    ask(tab, " ")
    tab.wait_for("!document.getElementById('error').hidden")
    assert "text is empty" in text_of(tab, "error")
    content_with(tab, evil)


def test_the_keyboard_reaches_everything(tab: Tab, evil: Handle) -> None:
    tab.open(evil.url)
    seen = []
    for _ in range(12):
        tab.press("Tab", 9)
        seen.append(tab.js("document.activeElement.id || document.activeElement.textContent.trim()"))
    order = ["Skip to the content", "Try it", "Write", "Live", "API", "model-1", "report-1", "text", "top", "send"]
    assert [name for name in seen if name in order] == order
    assert "The same from a shell" in seen
    tab.open(evil.url)
    tab.press("Tab", 9)
    tab.press("Enter", 13)
    tab.wait_for("document.activeElement.id === 'main'")
    content_with(tab, evil)


def test_the_list_is_fetched_again_and_keeps_the_focus(tab: Tab, evil: Handle) -> None:
    tab.open(evil.url)
    tab.js("document.getElementById('model-1').focus(); document.getElementById('model-1').dataset.old = 1")
    tab.wait_for("!('old' in document.getElementById('model-1').dataset)")
    assert tab.js("document.activeElement.id") == "model-1"
    content_with(tab, evil)


def test_the_report_is_one_click_away(tab: Tab, evil: Handle) -> None:
    tab.open(evil.url)
    tab.js("document.querySelector('a.report').click()")
    tab.wait_for("location.pathname === '/models/tiny/report' && document.readyState === 'complete'")
    assert tab.js("document.querySelector('h1').textContent").startswith("<img src=x")
    assert tab.js("self.origin") == "null"
    content_with(tab, evil)


def test_the_page_of_the_api(tab: Tab, evil: Handle) -> None:
    tab.open(f"{evil.url}/docs")
    tab.wait_for("document.querySelectorAll('#routes details').length > 10")
    assert "/predict" in text_of(tab, "curl")
    assert "/page/" not in text_of(tab, "routes")
    content_with(tab, evil)


def test_a_text_is_written_as_it_comes_and_can_be_stopped(tab: Tab, writers: Handle) -> None:
    tab.open(writers.url)
    assert text_of(tab, "send") == "Write"
    tab.js("document.getElementById('max-tokens').value = '12'")
    ask(tab, "<b>Once")
    tab.wait_for("document.getElementById('timing').textContent.startsWith('Cut at the limit: first words after')")
    assert text_of(tab, "written").startswith("<b>Once")
    assert len(text_of(tab, "written")) > len("<b>Once")
    assert tab.js("document.querySelectorAll('#written *').length") == 0
    tab.js("document.getElementById('max-tokens').value = '100000'")
    ask(tab, "Once")
    tab.wait_for("document.getElementById('written').textContent.length > 100")
    tab.js("document.getElementById('stop').click()")
    tab.wait_for("document.getElementById('timing').textContent.startsWith('Stopped')")
    content_with(tab, writers)


def test_a_molecule_is_drawn(tab: Tab, tmp_path: Path) -> None:
    pytest.importorskip("rdkit", reason="molecules need the extra chem")
    import compounds

    with start([Served("drugs", "1", compounds.fingerprint_bundle(tmp_path))], limits=served.QUICK) as handle:
        tab.open(handle.url)
        assert tab.js("document.querySelector('label[for=text]').textContent") == "SMILES"
        ask(tab, "c1ccccc1CCl")
        tab.wait_for("document.getElementById('drawing').naturalWidth === 320")
        assert tab.js("document.getElementById('drawing').alt") == "Drawing of c1ccccc1CCl"
        assert text_of(tab, "label") in ("0", "1")
        ask(tab, "not smiles")
        tab.wait_for("!document.getElementById('error').hidden")
        assert tab.js("document.getElementById('answer').hidden")
        content_with(tab, handle)


def test_a_number_is_shown_with_its_interval_and_its_heat_map(tab: Tab, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    pictures.base(tmp_path / "base", "resnet")
    data = pictures.greys(tmp_path / "greys", 120)
    made = flow.adapt(data, target="bright", base=str(tmp_path / "base"), store=tmp_path / "models")
    photo = next(path for path in sorted(data.rglob("*")) if path.suffix in (".png", ".jpg"))
    with start([Served("greys", "1", Bundle.open(made.path))], limits=Limits(notice_seconds=0)) as handle:
        tab.open(handle.url)
        tab.js("document.getElementById('explain').checked = true")
        give(tab, photo)
        tab.wait_for("document.getElementById('heat-map').naturalWidth >= 32")
        assert "9 of 10 true values lie between" in text_of(tab, "range")
        places = tab.js("[...document.querySelectorAll('.range rect')].map(r => Number(r.getAttribute('x')))")
        assert len(places) == 3
        assert all(0 <= place <= 100 for place in places)
        assert f"--data-binary @'{photo.name}'" in text_of(tab, "curl")
        content_with(tab, handle)


def detector(folder: Path, data: Path) -> Bundle:
    """A detector that has hardly learnt: what it finds does not matter here."""
    from budwood.core.recipe import Recipe
    from budwood.core.step import Context
    from budwood.engine.base_model import import_base
    from budwood.engine.bases import Found
    from budwood.engine.reading import read_dataset
    from budwood.steps.adapt.detector import Detector
    from budwood.steps.export.onnx import Onnx
    from budwood.tasks.object_detection import ObjectDetection

    splits = ObjectDetection.split(read_dataset(data).dataset, test=None, seed=0, shots=None)
    task = ObjectDetection.from_rows(splits.train.rows).with_options({"image_size": 64})
    base = import_base(Found(scenes.backbone(folder / "backbone"), "tiny", "asked for"), folder, ObjectDetection)
    context = Context(out=folder / "unused", work=folder / "work", splits=splits, task=task)
    return Recipe((Detector(images=4, self_test=False), Onnx())).run(base, context, folder / "cache")


def test_objects_are_boxed_and_listed(tab: Tab, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pycocotools")
    data = scenes.voc(tmp_path / "shapes", splits={"train": 6, "val": 2, "test": 2})
    bundle = detector(tmp_path, data)
    with start([Served("shapes", "1", bundle)], limits=Limits(notice_seconds=0)) as handle:
        tab.open(handle.url)
        give(tab, data / "JPEGImages" / "001.jpg")
        tab.wait_for("!document.getElementById('answer').hidden")
        label = text_of(tab, "label")
        lines = tab.js("[...document.querySelectorAll('#objects li')].map(line => line.textContent)")
        assert len(lines) == tab.js("document.querySelectorAll('#boxes rect').length")
        assert label == "no objects" or any(label.endswith(name) for name in scenes.COLOURS)
        assert tab.js("document.getElementById('boxes').getAttribute('viewBox')") == "0 0 96 72"
        evil = json.dumps([{"label": EVIL, "score": 0.5, "box": [1, 2, 30, 40]}])
        tab.js(f"import('/static/answer.js').then((answers) => answers.showAnswer({{ objects: {evil} }}))")
        assert EVIL in text_of(tab, "objects")
        tab.js("document.querySelector('#objects li').focus()")
        assert tab.js("document.querySelector('#boxes rect').classList.contains('chosen')")
        assert tab.js("document.title") == "Try it · Budwood"
        content_with(tab, handle)


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(tab: Tab, tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys", "alice")
    with served.start_null(tmp_path / "bundle", keys=tmp_path / "keys") as handle:
        tab.open(handle.url)
        tab.wait_for("!document.getElementById('key-row').hidden")
        assert "tiny" not in tab.js("document.body.textContent")
        give_key(tab, "wrong")
        tab.wait_for("document.getElementById('error').textContent === 'This key is not known.'")
        asked = len(tab.seen("Network.requestWillBeSent"))
        tab.js("new Promise((done) => setTimeout(done, 2200))")
        assert len(tab.seen("Network.requestWillBeSent")) == asked  # it is not tried again and again
        give_key(tab, key)
        tab.wait_for("document.getElementById('key-row').hidden && document.getElementById('playground') !== null")
        ask(tab, "hello")
        tab.wait_for("!document.getElementById('answer').hidden")
        assert "$KEY" in text_of(tab, "curl")
        assert key not in tab.js("document.documentElement.outerHTML")
        assert tab.js("sessionStorage.getItem('budwood-key')") == key
        assert tab.js("[Object.values(localStorage), document.cookie]") == [[], ""]
        for path, known in (("/live", "tiny"), ("/write", "budwood serve"), ("/docs", "PredictRequest")):
            tab.open(handle.url + path)
            tab.wait_for(f"document.getElementById('main').textContent.includes('{known}')")
        tab.js("document.getElementById('forget').click()")
        tab.wait_for("document.readyState === 'complete' && !document.getElementById('key-row').hidden")
        assert tab.js("sessionStorage.getItem('budwood-key')") is None
        content_with(tab, handle)


def give_key(tab: Tab, key: str) -> None:
    tab.js("document.getElementById('key').focus()")
    tab.type(key)
    tab.js("document.getElementById('key-row').requestSubmit()")
