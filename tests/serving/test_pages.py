"""The pages: complete, small, readable in light and dark, and without anything from elsewhere."""

import re
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
import served
import tiny

from budwood.serving.app import FILES, pages
from budwood.serving.model import Served
from budwood.serving.server import start

WEB = files("budwood").joinpath("web")
MARKUP = {name: WEB.joinpath(name).read_text("utf-8") for name in ("index.html", "docs.html")}
CSS = WEB.joinpath("static/page.css").read_text("utf-8")


def test_every_file_is_served(client: httpx.Client) -> None:
    for path, (name, kind) in FILES.items():
        reply = client.get(path)
        assert (reply.status_code, reply.headers["content-type"]) == (200, kind)
        assert reply.content == WEB.joinpath(name).read_bytes()
    assert sum(len(body) for _, body in pages().values()) < 40_000


def test_the_report_is_a_page_of_nobody(client: httpx.Client) -> None:
    reply = client.get("/models/tiny/report")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "<h1>delivery, praise, refund</h1>" in reply.text
    policy = reply.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "img-src data:", "form-action 'none'", "frame-ancestors 'none'", "sandbox"} <= set(
        policy
    )
    assert not any(part.startswith(("script-src", "connect-src")) for part in policy)
    assert client.get("/stats").json()["models"][0]["report"] is True


def test_a_model_without_a_report_says_so(tmp_path: Path) -> None:
    bundle = tiny.bundle(tmp_path / "bundle")
    with start([Served("plain", "1", bundle)], limits=served.QUICK) as handle:
        reply = httpx.get(f"{handle.url}/models/plain/report")
        assert (reply.status_code, reply.json()["detail"]) == (
            404,
            "this model has no report: its bundle was made without one",
        )
        assert httpx.get(f"{handle.url}/models/other/report").status_code == 404
        assert httpx.get(f"{handle.url}/stats").json()["models"][0]["report"] is False


@pytest.mark.parametrize("name", MARKUP)
def test_references_are_our_own_files(name: str) -> None:
    links = re.findall(r'(?:src|href)="([^"#]+)"', MARKUP[name])
    assert links
    assert set(links) <= {*FILES, "/openapi.json"}


@pytest.mark.parametrize("name", MARKUP)
def test_every_control_has_a_label(name: str) -> None:
    controls = re.findall(
        r'<(?:input|select|textarea)[^>]* id="([^"]+)"|<(?:input|select|textarea) id="([^"]+)"', MARKUP[name]
    )
    for control in {a or b for a, b in controls}:
        assert f'<label for="{control}">' in MARKUP[name]
    for needed in ('<html lang="en">', '<a class="skip"', "<main", "<h1>", 'role="alert"', "<noscript>"):
        assert needed in MARKUP[name]


@pytest.mark.parametrize("script", ["page.js", "docs.js"])
def test_scripts_put_in_text_and_never_markup(script: str) -> None:
    text = WEB.joinpath("static", script).read_text("utf-8")
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        ".style",
    ):
        assert forbidden not in text


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it, of `#rrggbb`."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("front", "back"),
    [("ink", "ground"), ("quiet", "ground"), ("leaf", "ground"), ("bad", "ground"), ("on-leaf", "leaf")],
)
def test_text_has_contrast_in_both_themes(theme: int, front: str, back: str) -> None:
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", CSS.split("prefers-color-scheme: dark")[theme]))
    light, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5
