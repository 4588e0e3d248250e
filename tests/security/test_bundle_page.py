"""The report's page: one of ours passes, and one that was tampered with is refused, with the file's name."""

from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.core.opening import check_content
from budwood.core.page import PAGE_END, PAGE_START

HEAD = "<title>a &amp; b</title><style>a { color: red; } @media (prefers-color-scheme: dark) { a { top: 0; } }</style>"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
GOOD = (
    f'<h1 id="top">Tickets &lt;3</h1><a href="#top">up</a><img src="data:image/png;base64,{PIXEL}" alt="a &lt;b&gt;">'
    '<svg viewBox="0 0 1 1" role="img" aria-label="javascript: is only said"><defs><clipPath id="c"><rect x="0"/>'
    '</clipPath></defs><g clip-path="url(#c)" style="fill: var(--good)"><use xlink:href="#c"/></g></svg>'
    '<table class="plain"><tbody><tr><th scope="row">x</th><td colspan="2">url(http://evil) is text here</td></tr>'
    "</tbody></table><br>"
)


def page(body: str = GOOD, head: str = HEAD) -> str:
    return f"{PAGE_START}{head}</head><body>{body}{PAGE_END}"


def check(folder: Path, text: str) -> None:
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8", newline="")
    check_content(path, "report.html")


def test_a_page_of_ours_passes(tmp_path: Path) -> None:
    check(tmp_path, page())


@pytest.mark.parametrize(
    "body",
    [
        "<script>alert(1)</script>",
        '<script src="data:text/javascript,alert(1)"></script>',
        "<SCRIPT></SCRIPT>",
        '<p onclick="x()">a</p>',
        '<p ONCLICK="x()">a</p>',
        '<svg><rect onload="x()"/></svg>',
        "<svg><script>alert(1)</script></svg>",
        "<svg><style>a { }</style></svg>",
        "<svg><foreignObject></foreignObject></svg>",
        '<svg><animate attributeName="href"/></svg>',
        '<svg><a href="#x"></a></svg>',
        '<svg><use href="http://evil/x.svg#a"/></svg>',
        '<svg><use xlink:href="data:image/svg+xml;base64,AAAA"/></svg>',
        '<svg><rect fill="url(http://evil/x)"/></svg>',
        '<svg><rect style="fill: url( //evil/x )"/></svg>',
        '<svg><rect style="fill: u\\72l(//evil)"/></svg>',
        '<svg><rect style="fill: &#117;rl(//evil)"/></svg>',
        "<svg><p>out</p></svg>",
        "<svg>text</svg>",
        '<svg xmlns="http://www.w3.org/1999/xhtml"></svg>',
        "<math></math>",
        '<a href="http://evil">x</a>',
        '<a href="javascript:alert(1)">x</a>',
        '<a href="java&#115;cript:alert(1)">x</a>',
        '<a href="#x" target="_blank">x</a>',
        '<a href="report.html">x</a>',
        '<img src="http://evil/x.png">',
        '<img src="data:image/svg+xml;base64,PHN2Zz4=">',
        '<img src="data:image/png;base64,AAAAAAAA">',
        '<img src="x" onerror="alert(1)">',
        '<img srcset="http://evil/x.png">',
        '<p style="background: red">x</p>',
        '<form action="http://evil"><input name="a"></form>',
        "<button>x</button>",
        '<iframe src="#x"></iframe>',
        '<object data="x"></object>',
        '<embed src="x">',
        '<link rel="stylesheet" href="x">',
        '<base href="http://evil/">',
        '<meta http-equiv="refresh" content="0; url=http://evil">',
        '<meta name="viewport" content="1">',
        "<style>a { }</style>",
        "<template></template>",
        "<noscript></noscript>",
        "<textarea></textarea>",
        "<xmp></xmp>",
        "<plaintext>",
        "<p>a",
        "a</p>",
        "<p/>",
        "<h1><h2>a</h1></h2>",
        "<!-- a -->",
        "<![CDATA[a]]>",
        "<?php x ?>",
        "<!doctype html>",
        "<p class=a>x</p>",
        "<p class='a'>x</p>",
        '<p class="a" class="b">x</p>',
        '<p class="a"id="b">x</p>',
        '<p class="a<b">x</p>',
        "<p hidden>x</p>",
        "a < b",
        "</body></html><script>",
        "</body><p>x</p>",
    ],
)
def test_a_tampered_body_is_refused(tmp_path: Path, body: str) -> None:
    with pytest.raises(BundleError, match=r"report\.html") as caught:
        check(tmp_path, page(GOOD + body))
    assert caught.value.where == str(tmp_path / "report.html")


@pytest.mark.parametrize(
    "head",
    [
        '<meta http-equiv="refresh" content="0; url=http://evil">',
        '<meta name="referrer" content="unsafe-url">',
        '<meta name="viewport" content="url(http://evil)">',
        '<link rel="icon" href="http://evil">',
        "<script></script>",
        "<base>",
        "<p>x</p>",
        "<style>@import 'http://evil/x.css';</style>",
        "<style>@font-face { src: url(http://evil/x); }</style>",
        "<style>a { background: url(data:image/png;base64,AAAA); }</style>",
        "<style>a { background: image-set('http://evil/x' 1x); }</style>",
        "<style>a { background: ur/**/l(http://evil); }</style>",
        "<style>a { background: \\75rl(http://evil); }</style>",
        "<style>a { width: expression(alert(1)); }</style>",
        "<style></style><svg></svg>",
        "<style><img></style>",
        "<title><b>x</b></title>",
        "text",
    ],
)
def test_a_tampered_head_is_refused(tmp_path: Path, head: str) -> None:
    with pytest.raises(BundleError, match=r"report\.html"):
        check(tmp_path, page(head=HEAD + head))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "<!doctype html>\n<html><head></head><body></body></html>\n",
        page().replace("default-src 'none'", "default-src *"),
        page().replace("<meta http-equiv", "<meta  http-equiv"),
        " " + page(),
        "\ufeff" + page(),
        page() + " ",
        page() + page(),
        page().replace("</body>", "", 1),
        page().replace("<body>", ""),
        page("\0"),
        page("x" * (5 << 20)),
    ],
    ids=range(13),
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BundleError, match=r"report\.html"):
        check(tmp_path, text)


def accepted(folder: Path, text: str) -> bool:
    try:
        check(folder, text)
    except BundleError:
        return False
    return True


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.integers(0, len(GOOD)))
def test_no_text_makes_the_check_crash(tmp_path_factory: pytest.TempPathFactory, text: str, place: int) -> None:
    changed = page(GOOD[:place] + text + GOOD[place:])
    if accepted(tmp_path_factory.getbasetemp(), changed):
        assert "<script" not in changed.lower()


def test_a_bundle_takes_no_tampered_page_and_opens_none(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        (folder / "report.html").write_text(page("<script></script>"))

    with pytest.raises(BundleError, match=r"report\.html"):
        Bundle.create(tmp_path / "bundle", tiny.draft(), write)
