"""The check of the one HTML page that a bundle may hold, its report: text, tables and drawings, and nothing that acts.

Two walls: the page begins with a policy under which a browser runs no script and asks no server, and every tag and
attribute is on a list. The grammar is far narrower than HTML, so no two parsers can read such a page differently.
"""

import base64
import html
import re
from collections.abc import Iterator
from pathlib import Path

from budwood.core.formats import decode, read_capped, refuse

__all__ = ["PAGE_END", "PAGE_START", "POLICY", "REPORT", "check_page"]

REPORT = "report.html"
"""The page's name in a bundle."""

MAX_PAGE_BYTES = 4 << 20
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""What a browser may do with a page: show its styles and the images within it."""
PAGE_START = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
"""
"""How every page begins, to the letter."""
PAGE_END = "</body>\n</html>\n"

TOKEN = re.compile(
    r'[^<]+|<(?P<open>[A-Za-z][A-Za-z0-9]*)(?P<attributes>(?:[ \n][A-Za-z][A-Za-z0-9:-]*="[^"<>]*")*)[ ]?(?P<end>/?)>'
    r"|</(?P<close>[A-Za-z][A-Za-z0-9]*)>"
)
ATTRIBUTE = re.compile(r'[ \n]([^=]+)="([^"]*)"')

EVERYWHERE = frozenset({"class", "id", "role", "aria-label", "aria-labelledby", "aria-hidden", "lang", "dir"})
PLAIN_TAGS = frozenset(
    {
        *("style", "title", "body", "header", "main", "section", "nav", "footer", "div", "span", "h1", "h2", "h3", "p"),
        *("ul", "ol", "li", "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "figure", "figcaption"),
        *("details", "summary", "code", "strong", "em", "small", "br", "wbr"),
    }
)
HTML_TAGS: dict[str, frozenset[str]] = dict.fromkeys(PLAIN_TAGS, frozenset()) | {
    "meta": frozenset({"name", "content"}),
    "a": frozenset({"href"}),
    "img": frozenset({"src", "alt", "width", "height"}),
    "td": frozenset({"colspan"}),
    "th": frozenset({"colspan", "scope"}),
}
"""What stands outside drawings, and the attributes that it may have besides those for `EVERYWHERE`."""
VOID = frozenset({"meta", "img", "br", "wbr"})
META_NAMES = frozenset({"viewport", "color-scheme", "generator", "robots"})
SVG_TAGS = frozenset(
    {"svg", "g", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "defs", "use", "clipPath"}
)
SVG_ATTRIBUTES = frozenset(
    {
        *(
            "viewBox",
            "xmlns",
            "xmlns:xlink",
            "version",
            "width",
            "height",
            "x",
            "y",
            "x1",
            "x2",
            "y1",
            "y2",
            "cx",
            "cy",
        ),
        *("r", "rx", "ry", "d", "points", "transform", "style", "fill", "stroke", "stroke-width", "opacity"),
        *("clip-path", "xlink:href", "href"),
    }
)
SPACES = frozenset({"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"})

FRAGMENT = re.compile(r"#[A-Za-z0-9_.-]+", re.ASCII)
IMAGE = re.compile(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/]+={0,2})", re.ASCII)
SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}
ACTS = re.compile(
    r"\\|/\*|@(?!media[ (])|(url|src|image|image-set|cross-fade|element|paint|expression)\s*\((?!#)"
    r"|javascript:|vbscript:|behavior|-moz-binding"
)
"""What a style may not have: escapes, comments, imports, anything from outside, anything that runs."""


def check_page(path: Path, name: str) -> None:
    """Read the page tag by tag.

    Raises:
        BundleError: the page is too large, lacks the policy, or has a tag, attribute, style or reference that a report
            does not need; `where` is the path.
    """
    text = decode(path, name, read_capped(path, name, MAX_PAGE_BYTES))
    if not text.startswith(PAGE_START) or not text.endswith(PAGE_END):
        raise refuse(path, f"{name} does not begin and end as a report does")
    problem = next(problems(text[len(PAGE_START) :]), None)
    if problem:
        raise refuse(path, f"{name} {problem}")


def problems(text: str) -> Iterator[str]:
    """What is wrong with a page's text after its start, the first things first."""
    stack, position = ["html", "head"], 0
    while position < len(text):
        token = TOKEN.match(text, position)
        if token is None:
            yield f"has markup that no report has: {text[position : position + 40]!a}"
            return
        position = token.end()
        inside = stack[-1] if stack else ""
        if token["close"]:
            if token["close"] != inside:
                yield f"closes {token['close'][:40]!r} where {inside!r} is open"
                return
            stack.pop()
        elif token["open"]:
            yield from tag_problems(token["open"], token["attributes"], token["end"] == "/", stack)
            if token["open"] not in VOID and not token["end"]:
                stack.append(token["open"])
        else:
            yield from text_problems(token[0], inside)
    if stack:
        yield f"leaves {stack[-1]!r} open"


def text_problems(text: str, inside: str) -> Iterator[str]:
    if inside == "style" and ACTS.search(text.lower()):
        yield "has a style that acts or leads outside"
    if inside in ("", "html", "head", *SVG_TAGS) and text.strip():
        yield f"has text where none belongs: {text.strip()[:40]!a}"


def tag_problems(tag: str, attributes: str, closed: bool, stack: list[str]) -> Iterator[str]:
    drawing = "svg" in stack or tag == "svg"
    known = tag in SVG_TAGS if drawing else tag in HTML_TAGS and not closed
    if not known or not stack or stack[-1] in ("style", "title"):
        yield f"has an element that a report does not need: {tag[:40]!r}"
        return
    if (tag in ("style", "title", "meta")) != (stack == ["html", "head"]) or (tag == "body") != (stack == ["html"]):
        yield f"has an element out of its place: {tag!r}"
        return
    allowed = EVERYWHERE | (SVG_ATTRIBUTES if drawing else HTML_TAGS[tag])
    found = [(key, html.unescape(value)) for key, value in ATTRIBUTE.findall(attributes)]
    for key, value in found:
        if key not in allowed or [other for other, _ in found].count(key) > 1:
            yield f"has an attribute that a report does not need: {tag} {key[:40]!r}"
        elif problem := value_problem(tag, key, value):
            yield problem


def value_problem(tag: str, key: str, value: str) -> str | None:
    if key == "src":
        return None if is_image(value) else "has an image that is not a PNG or JPEG within the page"
    if key in ("href", "xlink:href"):
        return None if FRAGMENT.fullmatch(value) else f"leads outside: {value[:60]!a}"
    if key.startswith("xmlns"):
        return None if value in SPACES else f"has an unknown namespace: {value[:60]!a}"
    if tag == "meta" and key == "name":
        return None if value in META_NAMES else f"has an unknown meta element: {value[:40]!a}"
    if key in ("aria-label", "alt"):  # shown or spoken, never acted on
        return None
    return f"has a value that acts or leads outside: {key}" if ACTS.search(value.lower()) else None


def is_image(value: str) -> bool:
    found = IMAGE.fullmatch(value)
    if not found or len(found[2]) % 4:
        return False
    return base64.b64decode(found[2][:16]).startswith(SIGNATURES[found[1]])
