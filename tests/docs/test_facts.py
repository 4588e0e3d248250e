"""Documents name what the code has: the fields of the manifest, the methods of the abstract classes, existing files."""

import re
from pathlib import Path

import pytest

from budwood.cli import VERBS
from budwood.core.bundle import FORMATS, SCHEMA_VERSION, Manifest
from budwood.core.errors import BudwoodError
from budwood.core.opening import ALLOWED_SUFFIXES
from budwood.core.runtime import Runtime
from budwood.core.step import Step
from budwood.core.task import Task

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_bundle_format_names_every_field_file_and_suffix():
    page = text("docs/bundle-format.md")
    names = [*Manifest.model_fields, *FORMATS, *FORMATS.values(), *ALLOWED_SUFFIXES]
    assert [name for name in names if name not in page] == []
    assert f"schema version {SCHEMA_VERSION}\n" in page


@pytest.mark.parametrize(
    ("page", "kind"), [("add-a-task", Task), ("add-a-runtime", Runtime), ("add-a-technique", Step)], ids=str
)
def test_a_guide_names_every_abstract_method(page, kind):
    guide = text(f"docs/{page}.md")
    assert [
        name for name in sorted(kind.__abstractmethods__) if f"`{name}`" not in guide and f"def {name}" not in guide
    ] == []


def test_the_readme_names_every_verb_and_exit_code():
    page = text("README.md")
    assert [verb for verb in VERBS if f"budwood {verb}" not in page and f"make {verb}" not in page] == []
    codes = {kind.exit_code for kind in (BudwoodError, *BudwoodError.__subclasses__())}
    line = re.search(r"exit codes are ([^.]*)\.", page)
    assert line is not None
    assert codes <= {int(code) for code in re.findall(r"\d+", line[1])}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page):
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []
