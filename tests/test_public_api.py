"""The public names are a list; importing them loads no machine-learning library; verbs and commands agree."""

import inspect
import subprocess
import sys

import pytest
from typer import Context
from typer.main import get_command

import budwood
from budwood.cli.options import NUMBER_FLAGS
from budwood.cli.program import app

VERBS = ("doctor", "plan", "adapt", "evaluate", "predict", "generate", "compare", "shrink", "serve", "models", "export")
NOUNS = ("Budget", "Bundle", "Store")
ERRORS = (
    *("BudwoodError", "UsageError", "DataError", "NotFoundError", "BudgetError", "BundleError", "StepError"),
    *("StorageError", "MissingExtraError"),
)
HEAVY = ("torch", "transformers", "sklearn", "scipy", "onnxruntime", "pyarrow", "numpy", "pydantic")

ONLY_COMMAND = {"json", "help", "list_bases", "out", "no_flip", "rotate", "image_size"} | set(NUMBER_FLAGS)
"""Flags about how a result is shown, and where it is written; and the fields of tasks, in Python one mapping."""
ONLY_PYTHON = {"progress", "options"}
DIFFERENT_BY_NATURE = {
    "models": "the command has sub-commands, the function gives the store",
    "serve": "models are positional in Python",
    "predict": "the command takes texts and files in one list, and writes files",
    "export": "the command finds a name for the folder",
}


def test_the_public_names_are_these_and_no_more():
    assert budwood.__all__ == [*VERBS, *NOUNS, *ERRORS, "__version__"]


@pytest.mark.parametrize("name", budwood.__all__)
def test_a_public_name_exists_and_explains_itself(name):
    item = getattr(budwood, name)
    if name != "__version__":
        assert item.__doc__, name


def test_other_names_do_not_exist():
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        _ = budwood.distil


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_takes_arbitrary_keywords_and_all_are_typed(verb):
    signature = inspect.signature(getattr(budwood, verb))
    for parameter in signature.parameters.values():
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
        assert parameter.annotation is not inspect.Parameter.empty
    assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in DIFFERENT_BY_NATURE])
def test_a_verb_has_the_same_parameters_and_defaults_as_its_command(verb):
    group = get_command(app)
    command = group.get_command(Context(group), verb)
    flags = {item.name: item.default for item in command.params if item.name not in ONLY_COMMAND}
    parameters = {
        name: None if item.default is inspect.Parameter.empty else item.default
        for name, item in inspect.signature(getattr(budwood, verb)).parameters.items()
        if name not in ONLY_PYTHON
    }
    assert flags.keys() == parameters.keys()
    assert {name: flags[name] for name in flags if flags[name] != parameters[name]} == {}


def test_importing_the_package_and_its_commands_loads_no_heavy_library():
    code = f"import sys, budwood, budwood.cli; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
