"""The page in a real browser, where there is one: type, answer, live figures, and labels that try to be markup."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pictures
import pytest
import scenes
import served
from chromium import BROWSER, Tab, browser

from budwood import flow
from budwood.core.bundle import Bundle
from budwood.serving.auth import create_key
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import Handle, start

EVIL = "<img src=x onerror=document.title=1>"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    """A server whose labels and name are markup."""
    bundle = served.null_bundle(tmp_path_factory.mktemp("evil") / "bundle", labels=(EVIL, EVIL + "2", EVIL + "3"))
    with start([Served("tiny", "1", bundle)], runtime="null", limits=served.QUICK) as handle:
        yield handle


def test_type_and_see_the_answer(tab: Tab, evil: Handle) -> None:
    tab.open(evil.url)
    tab.wait_for("document.getElementById('title').textContent === 'tiny 1'")
    tab.js("document.getElementById('text').focus()")
    tab.call("Input.insertText", text="Where is my parcel?")
    tab.press("Enter", 13, modifiers=2)
    tab.wait_for("!document.getElementById('answer').hidden")
    assert tab.js("document.getElementById('label').textContent").startswith("<img")
    assert tab.js("document.querySelectorAll('#scores tr').length") == 3
    widths = tab.js(
        "[...document.querySelectorAll('#scores rect:last-child')].map(r => Number(r.getAttribute('width')))"
    )
    assert widths == sorted(widths, reverse=True)
    tab.wait_for("Number(document.getElementById('rate').textContent) > 0")
    tab.wait_for("document.querySelectorAll('#counts tr').length === 1")
    assert tab.js("document.getElementById('p50').textContent").endswith(" ms")
    assert tab.js("document.querySelectorAll('img:not([id])').length") == 0
    assert tab.js("document.title") == "Budwood"
    assert tab.complaints() == []


def test_a_refused_text_is_said(tab: Tab, evil: Handle) -> None:
    tab.open(evil.url)
    tab.wait_for("document.getElementById('title').textContent !== ''")
    tab.js("document.getElementById('text').value = ' '; document.getElementById('form').requestSubmit()")
    tab.wait_for("!document.getElementById('error').hidden")
    assert "text is empty" in tab.js("document.getElementById('error').textContent")


def test_the_keyboard_reaches_everything(tab: Tab, evil: Handle) -> None:
    tab.open(evil.url)
    tab.wait_for("document.getElementById('title').textContent !== ''")
    seen = []
    for _ in range(7):
        tab.press("Tab", 9)
        seen.append(tab.js("document.activeElement.textContent.trim() || document.activeElement.id"))
    assert seen[:6] == ["Skip to the text", "Try it", "Report", "API", "text", "Predict"]


def test_the_report_is_one_click_away(tab: Tab, evil: Handle) -> None:
    tab.open(evil.url)
    tab.wait_for("!document.getElementById('report').hidden")
    tab.js("document.getElementById('report').click()")
    tab.wait_for("location.pathname === '/models/tiny/report' && document.readyState === 'complete'")
    assert tab.js("document.querySelector('h1').textContent").startswith("<img src=x")
    assert tab.js("self.origin") == "null"
    assert tab.complaints() == []


def test_the_page_of_the_api(tab: Tab, evil: Handle) -> None:
    tab.open(f"{evil.url}/docs")
    tab.wait_for("document.querySelectorAll('#routes details').length > 10")
    assert "/predict" in tab.js("document.getElementById('curl').textContent")
    assert tab.complaints() == []


def test_a_text_is_written_as_it_comes_and_can_be_stopped(tab: Tab, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    import tiny_language

    with start([Served("writer", "1", tiny_language.bundle(tmp_path / "bundle"))], limits=served.QUICK) as handle:
        tab.open(handle.url)
        tab.wait_for("!document.getElementById('writing-row').hidden")
        assert tab.js("document.getElementById('send').textContent") == "Write"
        ask = (
            "document.getElementById('text').value = '<b>Once';"
            "document.getElementById('max-tokens').value = '{tokens}';"
            "document.getElementById('form').requestSubmit()"
        )
        tab.js(ask.format(tokens=12))
        tab.wait_for("document.getElementById('ended').textContent === 'Cut at the limit.'")
        written = tab.js("document.getElementById('written').textContent")
        assert written.startswith("<b>Once")
        assert len(written) > len("<b>Once")
        assert tab.js("document.querySelectorAll('#written *').length") == 0
        tab.js(ask.format(tokens=100_000))
        tab.wait_for("document.getElementById('written').textContent.length > 100")
        tab.js("document.getElementById('stop').click()")
        tab.wait_for("document.getElementById('ended').textContent === 'Stopped.'")
        assert tab.complaints() == []
        tab.open("about:blank")


def test_a_molecule_is_drawn(tab: Tab, tmp_path: Path) -> None:
    pytest.importorskip("rdkit", reason="molecules need the extra chem")
    import compounds

    with start([Served("drugs", "1", compounds.fingerprint_bundle(tmp_path))], limits=served.QUICK) as handle:
        tab.open(handle.url)
        tab.wait_for("document.getElementById('title').textContent === 'drugs 1'")
        assert tab.js("document.querySelector('label[for=text]').textContent") == "SMILES"
        ask = "document.getElementById('text').value = '{}'; document.getElementById('form').requestSubmit()"
        tab.js(ask.format("c1ccccc1CCl"))
        tab.wait_for("document.getElementById('drawing').naturalWidth === 320")
        assert tab.js("document.getElementById('drawing').alt") == "Drawing of c1ccccc1CCl"
        assert tab.js("document.getElementById('label').textContent") in ("0", "1")
        tab.js(ask.format("not smiles"))
        tab.wait_for("!document.getElementById('error').hidden")
        assert tab.js("document.getElementById('drawing').hidden")
        assert tab.complaints() == []
        tab.open("about:blank")


def test_a_number_is_shown_with_its_interval_and_its_heat_map(tab: Tab, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    pictures.base(tmp_path / "base", "resnet")
    data = pictures.greys(tmp_path / "greys", 120)
    made = flow.adapt(data, target="bright", base=str(tmp_path / "base"), store=tmp_path / "models")
    with start([Served("greys", "1", Bundle.open(made.path))], limits=Limits(notice_seconds=0)) as handle:
        tab.open(handle.url)
        tab.wait_for("!document.getElementById('explain-row').hidden")
        tab.js("document.getElementById('explain').checked = true")
        tab.js(
            "new Promise(done => { const canvas = document.createElement('canvas'); canvas.width = canvas.height = 40;"
            "canvas.getContext('2d').fillRect(0, 0, 40, 40);"
            "canvas.toBlob(blob => { take(new File([blob], 'x.png', { type: 'image/png' })); done(1); }); })"
        )
        tab.wait_for("document.getElementById('heat-map').naturalWidth >= 32")
        assert "9 of 10 true values lie between" in tab.js("document.getElementById('range').textContent")
        places = tab.js("[...document.querySelectorAll('.range rect')].map(r => Number(r.getAttribute('x')))")
        assert len(places) == 3
        assert all(0 <= place <= 100 for place in places)
        assert tab.complaints() == []
        tab.open("about:blank")


def test_objects_are_boxed_and_listed(tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pycocotools")
    data = scenes.voc(tmp_path / "shapes", splits={"train": 12, "val": 4, "test": 4})
    base = str(scenes.backbone(tmp_path / "base"))
    options = {"image_size": 64}
    from budwood.engine.detector_network import Detector
    from budwood.engine.detector_recipe import own_recipe

    def short(n_images: int, *, frozen: bool) -> Any:
        return replace(own_recipe(n_images, frozen=frozen), images=480)

    monkeypatch.setattr(Detector, "recipe", staticmethod(short))
    made = flow.adapt(data, base=base, method="head", options=options, store=tmp_path / "models")
    photo = base64.b64encode((data / "JPEGImages" / "001.jpg").read_bytes()).decode()
    with start([Served("shapes", "1", Bundle.open(made.path))], limits=Limits(notice_seconds=0)) as handle:
        tab.open(handle.url)
        tab.wait_for("document.getElementById('title').textContent === 'shapes 1'")
        tab.js(f"""(() => {{
            const bytes = Uint8Array.from(atob("{photo}"), letter => letter.charCodeAt(0));
            take(new File([bytes], "x.jpg", {{ type: "image/jpeg" }}));
        }})()""")
        tab.wait_for("!document.getElementById('answer').hidden")
        label = tab.js("document.getElementById('label').textContent")
        lines = tab.js("[...document.querySelectorAll('#objects li')].map(line => line.textContent)")
        boxes = tab.js("document.querySelectorAll('#boxes rect').length")
        assert len(lines) == boxes
        assert label == "no objects" or any(label.endswith(name) for name in scenes.COLOURS)
        assert tab.js("document.getElementById('boxes').getAttribute('viewBox')") == "0 0 96 72"
        evil = json.dumps([{"label": EVIL, "score": 0.5, "box": [1, 2, 30, 40]}])
        tab.js(f"showObjects({{ objects: {evil} }})")
        assert EVIL in tab.js("document.getElementById('objects').textContent")
        tab.js("document.querySelector('#objects li').focus()")
        assert tab.js("document.querySelector('#boxes rect').classList.contains('chosen')")
        assert tab.js("document.title") == "Budwood"
        assert tab.complaints() == []
        tab.open("about:blank")


def test_a_key_is_asked_for(tab: Tab, tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys", "alice")
    with served.start_null(tmp_path / "bundle", keys=tmp_path / "keys") as handle:
        tab.open(handle.url)
        tab.wait_for("!document.getElementById('key-row').hidden")
        tab.js("document.getElementById('key').focus()")
        tab.call("Input.insertText", text=key)
        tab.wait_for("document.getElementById('title').textContent === 'tiny 1'")
        tab.js("document.getElementById('text').value = 'hello'; document.getElementById('form').requestSubmit()")
        tab.wait_for("!document.getElementById('answer').hidden")
        assert tab.js("document.getElementById('label').textContent") != ""
        tab.open("about:blank")
