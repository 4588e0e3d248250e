"""Budwood: from a pretrained model and a small data set to a small, fast model behind an API that scales.

The public names are loaded when they are first used, so that importing the package loads no machine-learning library.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "doctor",
    "plan",
    "adapt",
    "evaluate",
    "predict",
    "generate",
    "compare",
    "shrink",
    "serve",
    "models",
    "export",
    "Budget",
    "Bundle",
    "Store",
    "BudwoodError",
    "UsageError",
    "DataError",
    "NotFoundError",
    "BudgetError",
    "BundleError",
    "StepError",
    "StorageError",
    "MissingExtraError",
    "__version__",
]

if TYPE_CHECKING:
    from budwood.core.budget import Budget
    from budwood.core.bundle import Bundle
    from budwood.core.errors import (
        BudgetError,
        BudwoodError,
        BundleError,
        DataError,
        MissingExtraError,
        NotFoundError,
        StepError,
        StorageError,
        UsageError,
    )
    from budwood.core.store import Store
    from budwood.flow import adapt, compare, doctor, evaluate, export, generate, models, plan, predict, serve, shrink

HOMES = {"Budget": "budwood.core.budget", "Bundle": "budwood.core.bundle", "Store": "budwood.core.store"}
"""Where the nouns are defined; verbs are in `flow`, errors in `core.errors`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'budwood' has no attribute {name!r}")
    home = HOMES.get(name) or ("budwood.core.errors" if name.endswith("Error") else "budwood.flow")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
