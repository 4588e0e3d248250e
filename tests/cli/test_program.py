"""The program around the verbs: help that is quick and complete, exit codes, and errors of three lines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from budwood import __version__, flow
from budwood.cli import VERBS
from budwood.core import errors
from budwood.engine.signals import Terminated

HEAVY = (
    "torch",
    "transformers",
    "sklearn",
    "scipy",
    "onnxruntime",
    "pyarrow",
    "numpy",
    "pydantic",
    "rich",
    "starlette",
)

FLAGS = {
    "adapt": "--task --base --name --target --input --group --test --method --shots --no-flip --rotate --image-size "
    "--unlabelled --seed --max-minutes --fresh --store",
    "evaluate": "--target --input --store",
    "predict": "--file -o --top --store",
    "shrink": "--max-drop --max-p95-ms --max-mb --max-minutes --data --name --store",
    "compare": "--store",
    "serve": "--host --port --workers --runtime --keys --max-queue --memory --allow-host --access-log --store",
    "keys": "",  # its commands have them
    "models": "--store",
    "export": "--format --image --store",
    "doctor": "--test --target --input --fix",
    "generate": "--max-tokens --temperature --top-k --top-p --repetition-penalty --stop --truncate --n --seed --store",
    "plan": "--task --base --target --input --group --test --method --shots --no-flip --rotate --image-size --seed "
    "--max-minutes --store",
    "demo": "--store",
}
"""What the documented contract promises, beside --json."""

ERRORS = [
    (errors.BudwoodError, 1),
    (errors.UsageError, 2),
    (errors.DataError, 3),
    (errors.NotFoundError, 4),
    (errors.BudgetError, 5),
    (errors.BundleError, 1),
    (errors.StepError, 1),
    (errors.StorageError, 1),
    (errors.MissingExtraError, 1),
]


def raising(error):
    def verb(*arguments, **parameters):
        raise error

    return verb


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_flag_and_loads_nothing_heavy(verb):
    code = (
        "import sys\nfrom budwood.cli import main\n"
        f"code = main([{verb!r}, '--help'])\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.stderr.write(' '.join(loaded))\nsys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"}
    )
    assert run.returncode == 0
    assert run.stderr == ""
    for flag in [*FLAGS[verb].split(), "--json", "--help"]:
        assert re.search(rf"(?m)^  .*(?<![\w-]){flag}\b", run.stdout), flag


def test_help_lists_the_verbs_in_the_order_of_use(run):
    for arguments in ((), ("--help",), ("-h",)):
        ran = run(*arguments)
        assert ran.code == 0
        assert re.findall(r"(?m)^  ([a-z]+)  +[A-Z]", ran.out) == list(VERBS)


def test_short_help_of_every_verb_fits_its_line(run):
    assert "..." not in run("--help").out.partition("Commands:")[2]


def test_version(run):
    assert run("--version").out == f"budwood {__version__}\n"


@pytest.mark.parametrize(("kind", "code"), ERRORS)
def test_an_error_is_three_lines_and_its_exit_code(run, monkeypatch, kind, code):
    monkeypatch.setattr(flow, "evaluate", raising(kind("it broke", where="row 7", fix="mend it")))
    ran = run("evaluate", "m", "d.csv")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err == "error: it broke\n  where: row 7\n  fix: mend it\n"


@pytest.mark.parametrize(("kind", "code"), ERRORS)
def test_with_json_an_error_is_one_object_on_standard_error(run, monkeypatch, kind, code):
    monkeypatch.setattr(flow, "evaluate", raising(kind("it broke", where="row 7", fix="mend it")))
    ran = run("evaluate", "m", "d.csv", "--json")
    assert (ran.code, ran.out) == (code, "")
    assert ran.error == {"error": "it broke", "where": "row 7", "fix": "mend it"}


def test_a_traceback_is_shown_with_debug_only(run, monkeypatch):
    monkeypatch.setattr(flow, "evaluate", raising(errors.DataError("it broke")))
    assert "Traceback" not in run("evaluate", "m", "d.csv").err
    for line in (("--debug", "evaluate", "m", "d.csv"), ("evaluate", "m", "d.csv", "--debug")):
        ran = run(*line)
        assert ran.code == 3
        assert "Traceback" in ran.err


def test_an_unexpected_error_says_where_and_asks_for_a_report(run, monkeypatch):
    monkeypatch.setattr(flow, "evaluate", raising(ZeroDivisionError("division by zero")))
    ran = run("evaluate", "m", "d.csv")
    assert ran.code == 1
    assert ran.err.startswith("error: an unexpected ZeroDivisionError: division by zero\n  where: ")
    assert "--debug" in ran.err
    assert "Traceback" not in ran.err


def test_an_error_of_the_system_names_the_file(run, monkeypatch):
    monkeypatch.setattr(flow, "evaluate", raising(PermissionError(13, "Permission denied", "rows.csv")))
    ran = run("evaluate", "m", "d.csv")
    assert (ran.code, ran.err.splitlines()[:2]) == (1, ["error: permission denied", "  where: rows.csv"])


def test_used_up_memory_is_said_plainly(run, monkeypatch):
    monkeypatch.setattr(flow, "evaluate", raising(MemoryError()))
    assert run("evaluate", "m", "d.csv").err.startswith("error: the memory is used up\n")


def test_an_error_cannot_steer_the_terminal(run, monkeypatch):
    monkeypatch.setattr(flow, "evaluate", raising(errors.DataError("odd \x1b[2J label", where="a\u202eb")))
    err = run("evaluate", "m", "d.csv").err
    assert "\x1b" not in err
    assert "\u202e" not in err
    assert r"odd \x1b[2J label" in err


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("evaluat m d", "did you mean budwood evaluate?"),
        ("nonsense", "budwood --help"),
        ("shrink m --max-drp 1", "did you mean --max-drop?"),
        ("adapt d --shot 4", "did you mean --shots?"),
        ("models promot m 1", "did you mean 'promote'?"),
        ("adapt", "budwood adapt --help"),
        ("adapt d --seed x", "budwood adapt --help"),
        ("adapt d --name", "budwood adapt --help"),
        ("evaluate m d extra", "budwood evaluate --help"),
        ("serve m --workers many", "--workers auto, or a number"),
        ("serve m --port 99999", "budwood serve --help"),
        ("predict m", 'budwood predict m "a text"'),
        ("models promote m", "budwood models promote m VERSION"),
    ],
)
def test_a_usage_error_suggests_and_exits_with_2(run, line, fix, monkeypatch):
    monkeypatch.setattr(flow, "entry", lambda *arguments: None)
    ran = run(*line.split())
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert ran.err.endswith(f"  fix: {fix}\n")


def test_a_usage_error_with_json_is_an_object(run):
    ran = run("shrink", "m", "--max-drp", "1", "--json")
    assert (ran.code, ran.out) == (2, "")
    assert ran.error["fix"] == "did you mean --max-drop?"


@pytest.mark.parametrize(("signal", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
@pytest.mark.parametrize(
    ("verb", "line", "says"),
    [
        ("adapt", "adapt d.csv", "interrupted; what was done is saved, and the same command goes on from there"),
        ("shrink", "shrink m", "interrupted; what was done is saved, and the same command goes on from there"),
        ("evaluate", "evaluate m d.csv", "interrupted"),
    ],
)
def test_a_signal_ends_a_verb_with_its_code_and_without_alarm(run, monkeypatch, signal, code, verb, line, says):
    monkeypatch.setattr(flow, verb, raising(signal))
    ran = run(*line.split())
    assert (ran.code, ran.out, ran.err) == (code, "", f"{says}\n")


def test_a_closed_pipe_ends_quietly(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("text\n" * 3)
    code = (
        "import sys\nfrom budwood import flow\nfrom budwood.cli import main\n"
        "flow.predict = lambda *a, **k: ({'label': 'x' * 1000, 'score': 1.0} for _ in range(10_000))\n"
        "sys.exit(main(['predict', 'm', sys.argv[1], '--json']))"
    )
    command = f'"{sys.executable}" -c "$CODE" "{texts}" | head -n 1; exit "${{PIPESTATUS[0]}}"'
    run = subprocess.run(["bash", "-c", command], env=os.environ | {"CODE": code}, capture_output=True, text=True)
    assert run.returncode != 0
    assert run.stderr == ""
    assert run.stdout.count("\n") == 1


def test_the_module_runs_as_the_command_does():
    run = subprocess.run([sys.executable, "-m", "budwood", "--version"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"budwood {__version__}\n")


def test_libraries_cannot_write_into_the_json(run, monkeypatch, evaluated):
    def evaluate(*arguments, **parameters):
        print("a library says hello")
        return evaluated

    monkeypatch.setattr(flow, "evaluate", evaluate)
    ran = run("evaluate", "m", "d.csv", "--json")
    assert ran.json["n"] == 200
    assert ran.err == "a library says hello\n"


def test_completion_offers_verbs_and_flags():
    for words, number, expected in (("budwood shr", 1, "shrink"), ("budwood shrink --max-d", 2, "--max-drop")):
        shell = {"_BUDWOOD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        run = subprocess.run(
            [sys.executable, "-m", "budwood"], env=os.environ | shell, capture_output=True, text=True, cwd=Path.cwd()
        )
        assert run.stdout.split() == [expected]
