"""The page of live figures in a real browser: plots that are drawn, tables beside them, both colour schemes."""

import httpx
import pytest
from chromium import BROWSER, Tab

from budwood.serving.server import Handle

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")

INK = """(name) => {
    const canvas = document.querySelector(`#plot-${name} canvas`);
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return data.reduce((sum, value, at) => sum + (at % 4 === 3 && value > 0), 0);
}"""
"""How many pixels of a plot are drawn."""


@pytest.fixture
def tab(page_tab: Tab, evil: Handle) -> Tab:
    page_tab.messages.clear()
    page_tab.scheme("light")
    for _ in range(5):
        httpx.post(f"{evil.url}/predict", json={"text": "hello"})
    page_tab.open(f"{evil.url}/live")
    return page_tab


def test_the_plots_are_drawn_and_the_tables_tell_the_same(tab: Tab, evil: Handle) -> None:
    tab.wait_for("document.querySelectorAll('.uplot canvas').length >= 4")
    for name in ("rate", "latency", "queue"):
        assert tab.js(f"({INK})('{name}')") > 100
    httpx.post(f"{evil.url}/predict", json={"text": "hello"})
    tab.wait_for("!document.getElementById('plot-classes').hidden")
    assert "<img src=x" in tab.js("document.querySelector('#plot-classes .u-legend').textContent")
    assert tab.js("document.querySelectorAll('#part-live tbody tr').length") >= 2
    assert "<img src=x" in tab.js("document.querySelector('#part-live section').textContent")
    assert tab.js("document.querySelectorAll('img[src=x]').length") == 0
    assert tab.js("[...document.querySelectorAll('.plot')].every((plot) => plot.ariaHidden === 'true')")
    options = tab.js("[...document.getElementById('watched').options].map((option) => option.value)")
    assert options == ["", "tiny:1"]
    tab.js("document.getElementById('watched').value = 'tiny:1'")
    tab.js("document.getElementById('watched').dispatchEvent(new Event('change'))")
    assert tab.js(f"({INK})('rate')") > 100
    assert tab.complaints() == []
    assert tab.hosts() == {evil.url.removeprefix("http://")}


def test_both_colour_schemes(tab: Tab) -> None:
    tab.wait_for("document.querySelector('#plot-rate canvas') !== null")
    look = "getComputedStyle(document.body).backgroundColor"
    pixel = "document.querySelector('#plot-rate canvas').toDataURL()"
    light = tab.js(look), tab.js(pixel)
    tab.scheme("dark")
    tab.wait_for(f"{look} !== '{light[0]}'")
    tab.wait_for(f"{pixel} !== {light[1]!r}")
    assert tab.complaints() == []


def test_it_can_be_paused(tab: Tab) -> None:
    tab.wait_for("document.querySelector('#plot-rate canvas') !== null")
    tab.js("document.getElementById('pause').focus()")
    tab.press(" ", 32)
    assert tab.js("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
    asked = len(tab.seen("Network.requestWillBeSent"))
    tab.js("new Promise((done) => setTimeout(done, 2200))")
    assert len(tab.seen("Network.requestWillBeSent")) == asked
    tab.press(" ", 32)
    tab.wait_for("document.getElementById('pause').getAttribute('aria-pressed') === 'false'")
    tab.js("document.getElementById('drawn').dataset.old = 1")
    tab.wait_for("!('old' in document.getElementById('drawn').dataset)")
