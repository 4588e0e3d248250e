"""The tree of errors: exit codes, and three lines for a person or for a program."""

import json
import re

import pytest

from budwood.core import errors
from budwood.core.errors import BudwoodError, MissingExtraError, require


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn = dict(re.findall(r"(\w+Error) +exit (\d)", errors.__doc__ or ""))
    real = {kind.__name__: str(kind.exit_code) for kind in (BudwoodError, *BudwoodError.__subclasses__())}
    assert drawn == real
    assert {*real} | {"require"} == {*errors.__all__}


def test_the_three_lines() -> None:
    error = BudwoodError("it is off", where="here", fix="type this")
    assert str(error) == "it is off\n  where: here\n  fix: type this"
    assert str(BudwoodError("it is off")) == "it is off"
    assert json.loads(json.dumps(error.to_json())) == {"error": "it is off", "where": "here", "fix": "type this"}


def test_a_missing_extra_says_how_to_get_it() -> None:
    assert require("json", extra="x") is json
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_module", extra="train")
    assert caught.value.fix == "pip install 'budwood[train]'"
