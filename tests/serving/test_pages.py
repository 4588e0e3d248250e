"""The pages: complete, small, escaped, readable in light and dark, and without anything from elsewhere."""

import hashlib
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import served
import tiny

from budwood.serving.auth import create_key
from budwood.serving.model import Served
from budwood.serving.pages import SHELLS, chance, environment, figure, milliseconds, state_of, static_files
from budwood.serving.server import start

WEB = files("budwood").joinpath("web")
SCRIPTS = sorted(path for path in static_files() if path.endswith(".js") and "vendor" not in path)
CSS = WEB.joinpath("static/page.css").read_text("utf-8")
PAGES = (*SHELLS, "/docs")
PARTS = ("/page/models", "/page/try", "/page/write", "/page/live")
EVIL = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All pages and parts of a server whose labels are markup, after an answer."""
    bundle = served.null_bundle(tmp_path_factory.mktemp("evil") / "bundle", labels=(EVIL, EVIL + "2", EVIL + "3"))
    with start([Served("tiny", "1", bundle)], runtime="null", limits=served.QUICK) as handle:
        httpx.post(f"{handle.url}/predict", json={"text": "hello"})
        return {path: httpx.get(handle.url + path).text for path in (*PAGES, *PARTS)}


def test_every_file_is_served(client: httpx.Client) -> None:
    for path, (kind, body) in static_files().items():
        reply = client.get(path)
        assert (reply.status_code, reply.headers["content-type"], reply.content) == (200, kind.decode(), body)
        long = "/vendor/" in path
        assert reply.headers["cache-control"] == ("public, max-age=604800" if long else "no-cache")
        assert client.head(path).status_code == 200
        assert client.post(path).status_code == 405


def test_a_whole_page_is_small(client: httpx.Client) -> None:
    for path in PAGES:
        text = client.get(path).text
        parts = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', text)) | {"/static/common.js", "/static/answer.js"}
        size = len(text) + sum(len(static_files()[name][1]) for name in parts)
        assert size < 150_000, path


def test_vendored_files_are_those_that_were_recorded() -> None:
    folder = WEB.joinpath("static/vendor")
    recorded = tomllib.loads(folder.joinpath("vendored.toml").read_text("utf-8"))
    known = {name: file["sha256"] for package in recorded.values() for name, file in package["files"].items()}
    found = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.name != "vendored.toml"
    }
    assert found == known
    for package in recorded.values():
        assert any("LICENSE" in name for name in package["files"])
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
    assert recorded["uplot"]["version"] in folder.joinpath("uplot.iife.min.js").read_text("utf-8")
    assert f'version:"{recorded["htmx"]["version"]}"' in folder.joinpath("htmx.min.js").read_text("utf-8")


def test_what_the_models_say_is_escaped(evil: dict[str, str]) -> None:
    for path, text in evil.items():
        assert "<img src=x" not in text, path
    assert "&lt;img src=x" in evil["/page/live"]
    assert "&lt;img src=x" in evil["/live"]


def test_the_query_is_escaped(client: httpx.Client) -> None:
    reply = client.get("/live", params={"x": '"><img src=x>'})
    assert reply.status_code == 200
    assert "<img src=x" not in reply.text
    assert client.get("/", params={"model": '"><img src=x>'}).status_code == 404


def test_a_model_is_chosen_by_its_name_or_its_version(tmp_path: Path) -> None:
    entries = [Served("tiny", str(n), served.null_bundle(tmp_path / str(n))) for n in (1, 2)]
    with start(entries, runtime="null", limits=served.QUICK) as handle:
        for query, full, address in (("", "tiny:1", "tiny"), ("?model=tiny:2", "tiny:2", "tiny:2")):
            text = httpx.get(f"{handle.url}/page/try{query}").text
            assert f'data-address="{address}" data-full="{full}"' in text
            reply = httpx.post(f"{handle.url}/models/{address}/predict", json={"text": "hello"})
            assert reply.headers["x-model-version"] == full[-1]
        assert httpx.get(f"{handle.url}/page/try?model=tiny:3").status_code == 404
        assert len(re.findall("<tr>", httpx.get(f"{handle.url}/page/models").text)) == 3


def test_with_keys_the_pages_are_empty_until_their_parts_are_asked_for(tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys", "alice")
    with served.start_null(tmp_path / "bundle", keys=tmp_path / "keys") as handle:
        for path in PAGES:
            reply = httpx.get(handle.url + path)
            assert reply.status_code == 200
            assert "data-guarded" in reply.text
            assert "tiny" not in reply.text
            for part in SHELLS.get(path, ("", ()))[1]:
                assert f'hx-get="/page/{part}" hx-trigger="load, keyed from:body' in reply.text
        for path in PARTS:
            assert httpx.get(handle.url + path).status_code == 401
            assert httpx.get(handle.url + path, headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_a_server_without_writers_says_how_to_get_some(client: httpx.Client) -> None:
    assert "budwood serve BASE ADAPTED SHRUNK" in client.get("/page/write").text


def test_what_is_not_known_yet_leaves_no_trace() -> None:
    """The figures of monitoring are shown where they are there, and only then."""
    base = {"name": "a", "version": "1", "full": "a:1", "counts": [], "answers": 0}
    drift = {
        "verdict": "drift",
        "rows": 500,
        "tests": [{"what": EVIL, "method": "PSI", "value": 0.31, "p": None, "verdict": "drift"}],
    }
    feedback = {"n": 40, "metric": "accuracy", "value": 0.9, "ci": [0.8, 0.95]}
    full = {
        **base,
        "requests_per_second": 2.0,
        "p50_ms": 1.5,
        "p95_ms": 2.0,
        "p99_ms": 3.0,
        "errors": 4,
        "drift": drift,
        "feedback": feedback,
        "confidence": {"mean": 0.91},
    }
    live = {"requests_per_second": 0.0, "p50_ms": None, "p95_ms": None, "queue_depth": 0, "workers_ready": 1}
    template = environment().get_template("parts/live.html")
    empty = template.render(live=live, models=[base], drawn="{}", longest=20)
    assert "Drift against" not in empty
    assert "not watched" in empty
    text = template.render(live=live, models=[full], drawn="{}", longest=20)
    assert "Accuracy 90.00 %, 80.00 to 95.00, on 40" in text
    assert '<td class="number">91.0 %</td>' in text
    assert "Drift against held-out rows, over 500 answers" in text
    assert "&lt;img src=x" in text
    assert "<img" not in text


@pytest.mark.parametrize(
    ("ready", "opened", "problem", "state"),
    [
        (True, True, "", "ready"),
        (True, False, "", "opens when asked"),
        (True, True, "version 2: damaged", "reload failed"),
        (True, False, "version 2: damaged", "cannot be opened"),
        (False, True, "", "stopping"),
    ],
)
def test_the_state_of_a_model_is_told(ready: bool, opened: bool, problem: str, state: str) -> None:
    service: Any = SimpleNamespace(ready=ready, draining=False)
    assert state_of(service, {"open": opened, "problem": problem}) == state


def test_figures_are_written_as_people_read_them() -> None:
    assert [figure(value) for value in (None, 0.0, 0.12345, 12345.6)] == ["–", "0", "0.1235", "12,346"]
    assert [chance(value) for value in (None, 1e-9, 0.0321)] == ["–", "< 0.0001", "0.032"]
    assert [milliseconds(value) for value in (None, 1.26, 1234.5)] == ["–", "1.3 ms", "1,234 ms"]


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
        assert 'class="report"' not in httpx.get(f"{handle.url}/page/models").text


@pytest.mark.parametrize("path", PAGES)
def test_references_are_our_own(evil: dict[str, str], path: str) -> None:
    links = re.findall(r'(?:src|href|hx-get)="([^"]+)"', evil[path])
    known = {*static_files(), *PAGES, *PARTS, "/openapi.json", "#main", "/models/tiny/report"}
    assert links
    assert {link for link in links if not link.startswith("/?model=")} <= known


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_usable_without_eyes_or_mouse(evil: dict[str, str], path: str) -> None:
    text = evil[path]
    for control in re.findall(r'<(?:input|select|textarea)[^>]* id="([^"]+)"', text):
        assert f'<label for="{control}">' in text, control
    for needed in ('<html lang="en">', '<a class="skip"', "<main", "<h1>", 'role="alert"', "<noscript>"):
        assert needed in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for name in re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', text):
        assert name in ids


@pytest.mark.parametrize("path", SCRIPTS)
def test_scripts_put_in_text_and_never_markup(path: str) -> None:
    text = static_files()[path][1].decode()
    for forbidden in (
        *("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", ".style"),
        *("localStorage", "document.cookie"),
    ):
        assert forbidden not in text


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it, of `#rrggbb`."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(theme: int, front: str, back: str) -> float:
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", CSS.split("prefers-color-scheme: dark")[theme]))
    light, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("front", ["ink", "quiet", "leaf", "bad"])
@pytest.mark.parametrize("back", ["ground", "panel"])
def test_text_has_contrast_in_both_themes(theme: int, front: str, back: str) -> None:
    assert contrast(theme, front, back) >= 4.5


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_buttons_and_lines_have_contrast(theme: int) -> None:
    assert contrast(theme, "on-leaf", "leaf") >= 4.5
    for number in range(6):
        assert contrast(theme, f"series-{number}", "panel") >= 3  # graphics: WCAG 2.1, criterion 1.4.11
