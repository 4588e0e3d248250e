"""docs/cli.md is what the commands print, and every `budwood` line in the documents names flags that exist."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer import Context
from typer.main import get_command

from budwood.cli.program import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")])
SHELL = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cli_docs", ROOT / "tools" / "make_cli_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_commands_print():
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == load_tool().page(), "run: make docs"


def command_lines() -> Iterator[object]:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for block in SHELL.finditer(text):
            first = text[: block.start(1)].count("\n") + 1
            for number, line in enumerate(block[1].splitlines(), start=first):
                if line.startswith("budwood "):
                    yield pytest.param(line, id=f"{path.relative_to(ROOT)}:{number}")


def find(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words that are left."""
    command: Any = get_command(app)
    while hasattr(command, "get_command") and words and not words[0].startswith("-"):
        child = command.get_command(Context(command), words[0])
        if child is None:
            return None, words
        command, words = child, words[1:]
    return command, words


@pytest.mark.parametrize("line", [*command_lines()])
def test_a_line_of_the_documents_names_a_verb_and_flags_that_exist(line):
    command, words = find(shlex.split(line, comments=True)[1:])
    assert command is not None, f"no such verb: {words[0]}"
    flags = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)} - flags - {"--help", "--debug"}
    assert unknown == set()


def test_there_are_lines_to_check():
    assert len([*command_lines()]) >= 15
