"""The writing page in a real browser: suggestions of several generators as one types, by keyboard alone."""

import pytest
from chromium import BROWSER, Tab

from budwood.serving.server import Handle

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")

FOUND = "[...document.querySelectorAll('.timing')].filter((item) => item.textContent.includes(' ms')).length"
TAKEN = "[...document.querySelectorAll('.card')].findIndex((card) => card.classList.contains('chosen'))"
TEXT = "document.getElementById('text').value"
SAID = "document.getElementById('said').textContent"
DOWN, ESCAPE, TAB = 40, 27, 9
ALT, SHIFT = 1, 8


@pytest.fixture
def tab(page_tab: Tab, writers: Handle) -> Tab:
    page_tab.messages.clear()
    page_tab.open(f"{writers.url}/write")
    page_tab.js("document.getElementById('text').focus()")
    return page_tab


def suggested(tab: Tab, text: str) -> str:
    """Type, and wait for both suggestions."""
    tab.type(text)
    tab.wait_for(f"{FOUND} === 2 && {SAID} !== ''")
    return str(tab.js("document.querySelector('.suggestion').textContent"))


def test_typing_shows_what_each_model_would_write_and_tab_takes_it(tab: Tab, writers: Handle) -> None:
    words = suggested(tab, "Once upon <b>")
    assert words
    assert tab.js("document.querySelector('#ghost span').textContent") == words
    assert "base:1 suggests: " in tab.js(SAID)
    assert "Tab takes it. 2 suggestions." in tab.js(SAID)
    assert tab.js("document.getElementById('said').getAttribute('role')") == "status"
    tab.press("Tab", TAB)
    assert tab.js(TEXT) == "Once upon <b>" + words
    assert tab.js("document.activeElement.id") == "text"
    tab.wait_for(f"{FOUND} === 2")
    assert tab.js("document.querySelectorAll('#ghost b').length") == 0
    assert tab.complaints() == []
    assert tab.hosts() == {writers.url.removeprefix("http://")}


def test_the_keyboard_chooses_dismisses_and_leaves(tab: Tab) -> None:
    suggested(tab, "Once")
    assert tab.js(TAKEN) == 0
    tab.press("ArrowDown", DOWN, ALT)
    assert tab.js(TAKEN) == 1
    assert tab.js("document.getElementById('take-2').checked")
    assert "small:2 suggests: " in tab.js(SAID)
    tab.press("ArrowDown", DOWN, ALT)
    assert tab.js(TAKEN) == 0
    tab.press("Escape", ESCAPE)
    assert tab.js(TAKEN) == -1
    assert tab.js(SAID) == "Dismissed. Tab leaves the field."
    tab.press("Tab", TAB)
    assert tab.js(TEXT) == "Once"
    assert tab.js("document.activeElement.id") == "take-1"
    tab.press("Tab", TAB, SHIFT)
    assert tab.js("document.activeElement.id") == "text"
    suggested(tab, " upon")
    tab.press("Tab", TAB, SHIFT)
    assert tab.js("document.activeElement.id") != "text"
    assert tab.js(TEXT) == "Once upon"


def test_a_mouse_takes_any_of_them(tab: Tab) -> None:
    words = suggested(tab, "The bird")
    tab.js("document.querySelectorAll('.card button')[1].click()")
    assert tab.js(TEXT) == "The bird" + words


def test_a_keystroke_ends_the_requests_before_it(tab: Tab) -> None:
    tab.js("""(() => {
        const real = window.fetch;
        window.asked = [];
        window.fetch = (url, options) => {
            window.asked.push(options.signal);
            return real(url, options);
        };
        document.getElementById('max-tokens').value = '200';
    })()""")
    tab.type("Once")
    tab.wait_for("window.asked.length === 2")
    tab.type(" upon")
    assert tab.js("window.asked.slice(0, 2).every((signal) => signal.aborted)")
    tab.wait_for("window.asked.length === 4")
    assert tab.js("window.asked.slice(2).some((signal) => signal.aborted)") is False
    for letter in " a time":
        tab.type(letter)
    tab.wait_for(f"{FOUND} === 2")
    # A pause comes before each question, so quick letters ask once.
    assert tab.js("window.asked.length") < 2 * 7


def test_suggestions_are_for_the_end_of_the_text(tab: Tab) -> None:
    suggested(tab, "Once upon")
    tab.js("document.getElementById('text').setSelectionRange(2, 2)")
    tab.wait_for("document.querySelector('#ghost span').textContent === ''")
    tab.press("Tab", TAB)
    assert tab.js(TEXT) == "Once upon"
    assert tab.js("document.activeElement.id") != "text"


def test_a_model_may_be_left_out(tab: Tab) -> None:
    tab.js("document.getElementById('ask-2').click()")
    tab.js("document.getElementById('text').focus()")
    tab.type("Once")
    tab.wait_for(f"{FOUND} === 1 && {SAID} !== ''")
    assert tab.js("document.querySelectorAll('.timing')[1].textContent") == "not asked"
    assert tab.complaints() == []
