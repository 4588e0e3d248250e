"""Importing transformers without the traps: a torchvision that does not load, telemetry, progress bars, network."""

import os
import sys
from typing import Any

from budwood.core.errors import require

__all__ = ["quiet_transformers"]


def quiet_transformers() -> Any:
    """The transformers module, quiet.

    A torchvision whose compiled operators do not fit the installed torch breaks every transformers import, texts
    included; hiding it makes transformers fall back to its other back ends.
    """
    if "transformers" not in sys.modules:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if "torchvision" not in sys.modules and not torchvision_loads():
            sys.modules["torchvision"] = None  # type: ignore[assignment]  # makes `import torchvision` fail cleanly
    transformers = require("transformers", extra="train")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def torchvision_loads() -> bool:
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError):  # absent, or its compiled operators do not fit
        return False
    return True
