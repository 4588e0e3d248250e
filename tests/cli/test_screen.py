"""What a terminal and a log get to see: progress, notes, tables; and that data cannot steer the terminal."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys

import pytest

from budwood.cli.progress import Lines, duration
from budwood.cli.screen import Screen, points
from budwood.cli.text import coloured, paint, printable

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return Terminal()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (42, "42 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_lines_show_first_and_last_step_and_one_every_few_seconds():
    now = [0.0]
    written = []
    lines = Lines(written.append, every=5.0, clock=lambda: now[0])
    for step in range(11):
        lines("training", step, 10, f"loss {step}")
        now[0] += 1.0
    lines("training", 10, 10, "again")
    lines("export", 0, 1, "")
    lines("export", 1, 1, "")
    assert written == [
        "training …",
        "training: 5 of 10, about 5.0 s left, loss 5",
        "training: 10 of 10, 10 s, loss 10",
        "export …",
        "export: 1 of 1, 0.0 s",
    ]


def test_a_resumed_stage_estimates_from_its_own_steps():
    now = [0.0]
    written = []
    lines = Lines(written.append, every=1.0, clock=lambda: now[0])
    lines("training", 80, 100, "")
    now[0] = 10.0
    lines("training", 90, 100, "")
    assert written[-1] == "training: 90 of 100, about 10 s left"


def test_a_stage_that_starts_again_is_shown_again():
    written = []
    lines = Lines(written.append, clock=lambda: 0.0)
    for done in (0, 1, 0, 1):
        lines("embedding", done, 1, "")
    assert len(written) == 4


def test_with_json_progress_goes_nowhere(capsys):
    with Screen(as_json=True, waiting="opening") as screen:
        screen.progress("training", 1, 2, "")
        screen.progress("base", 0, 0, "base=x")
        screen.note("a remark")
        screen.data({"a": 1})
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ('{"a": 1}\n', "")


def test_a_log_gets_lines_without_colours(capsys):
    with Screen(as_json=False, waiting="opening") as screen:
        screen.progress("base", 0, 0, "base=x  # the default")
        screen.progress("training", 1, 2, "loss 0.5")
        screen.line("result", "1;33")
    captured = capsys.readouterr()
    assert captured.err == "base=x  # the default\ntraining: 1 of 2, loss 0.5\n"
    assert captured.out == "result\n"


def test_a_terminal_shows_something_at_once_and_takes_it_away(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    with Screen(as_json=False, waiting="adapt: reading rows.csv") as screen:
        assert ANSI.sub("", terminal.getvalue()) == "\radapt: reading rows.csv …"
        screen.note("remark")
    assert terminal.getvalue().endswith("\r\x1b[2Kremark\n")


def test_a_terminal_gets_a_bar_and_keeps_a_line_of_each_stage(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    with Screen(as_json=False) as screen:
        screen.progress("training", 0, 2, "")
        screen.progress("base", 0, 0, "base=x  # the default")
        screen.progress("training", 2, 2, "loss 0.5, best 91.2 %")
        screen.progress("training", 2, 2, "loss 0.5, best 91.2 %")
        screen.progress("[bold]export", 1, 3, "")
    shown = ANSI.sub("", terminal.getvalue())
    assert "base=x  # the default" in shown
    assert len(re.findall(r"training: \d\.\d s, loss 0\.5, best 91\.2 %\n", shown)) == 1
    assert "[bold]export" in shown
    assert re.search(r"\d\.\d GB", shown)


def test_the_screen_gives_standard_output_back(capsys):
    before = sys.stdout
    with contextlib.suppress(RuntimeError), Screen(as_json=False):
        assert sys.stdout is sys.stderr
        raise RuntimeError
    assert sys.stdout is before


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_switched_off(terminal, monkeypatch, name, value):
    assert coloured(terminal)
    assert paint("x", "1;31", terminal) == "\x1b[1;31mx\x1b[0m"
    monkeypatch.setenv(name, value)
    assert not coloured(terminal)
    assert paint("x", "1;31", terminal) == "x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße, 漢字 🙂", "Grüße, 漢字 🙂"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\rb\nc", r"a\rb\nc"),
        ("a\u202eb", r"a\u202eb"),
        ("a\x9b31mb", r"a\x9b31mb"),
        ("a\ud800b", r"a\ud800b"),
        ("no\u00a0break", "no\u00a0break"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert printable(text) == shown


def test_tables_align_and_escape(capsys):
    with Screen(as_json=False) as screen:
        screen.table(("name", "MB"), [("漢字 [red]", "1.5"), ("a\x1b[31mb", "1,023.25")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["name              MB", "漢字 [red]       1.5", r"a\x1b[31mb  1,023.25"]


def test_a_table_that_is_too_wide_for_the_terminal_is_turned_on_its_side(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "40")
    with Screen(as_json=False) as screen:
        screen.table(("model", *(f"figure {i}" for i in range(9))), [("a", *"123456789"), ("b", *"123456789")])
    lines = ANSI.sub("", stream.getvalue()).splitlines()
    assert lines[:3] == ["model     a  b", "figure 0  1  1", "figure 1  2  2"]
    assert len(lines) == 10


def test_a_wide_table_is_not_broken_in_a_log(capsys):
    with Screen(as_json=False) as screen:
        screen.table(("a", "b"), [("x" * 90, "y" * 90)])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_differences_show_their_sign_and_interval():
    assert points(-0.0123, (-0.02, 0.005)) == "-1.23 [-2.00, 0.50]"
    assert points(None, None) == ""


def test_json_is_indented_for_a_person_and_survives_a_narrow_encoding(monkeypatch):
    for encoding, expected in (("utf-8", '{\n  "a": "é"\n}\n'), ("ascii", '{\n  "a": "\\u00e9"\n}\n')):
        stream = Terminal()
        stream.encoding = encoding
        monkeypatch.setattr(sys, "stdout", stream)
        with Screen(as_json=True) as screen:
            screen.data({"a": "é"})
        assert stream.getvalue() == expected


def test_on_a_real_terminal_an_error_is_red():
    command = [sys.executable, "-m", "budwood", "models", "show", "nothing"]
    parent, child = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    run = subprocess.run(command, stderr=child, stdout=subprocess.PIPE, env=environment)
    os.close(child)
    shown = os.read(parent, 4096).decode()
    os.close(parent)
    assert run.returncode == 4
    assert shown.startswith("\r\x1b[2Kbudwood models …")
    assert "\x1b[2K\x1b[1;31merror: \x1b[0mno model named 'nothing'" in shown
