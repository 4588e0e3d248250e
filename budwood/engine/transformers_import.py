"""Importing transformers without the traps: a torchvision that does not load, telemetry, progress bars, network."""

import os
import sys
from pathlib import Path
from typing import Any

from budwood.core.cut_list import CUTS
from budwood.core.errors import require

__all__ = ["load_pretrained", "quiet_transformers", "torchvision_fault"]


def quiet_transformers() -> Any:
    """The transformers module, quiet.

    A torchvision whose compiled operators do not fit the installed torch breaks every transformers import, texts
    included; hiding it makes transformers fall back to its other back ends.
    """
    if "transformers" not in sys.modules:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if "torchvision" not in sys.modules and torchvision_fault() is not None:
            sys.modules["torchvision"] = None  # type: ignore[assignment]  # makes `import torchvision` fail cleanly
    transformers = require("transformers", extra="train")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def load_pretrained(kind: str, folder: Path, attention: str | None = None) -> Any:
    """The model of a folder in float32, in evaluation mode. No code of the folder runs, and no pickle is opened.

    Args:
        kind: the transformers class that chooses the architecture, such as `AutoModel`.
        attention: None takes the fastest implementation that the architecture has.

    Raises:
        BundleError: the folder's list of cut channels does not fit its configuration or its weights.
    """
    if (folder / CUTS).exists():
        from budwood.engine.channel_cuts import load_cut

        return load_cut(kind, folder, attention)
    model = getattr(quiet_transformers(), kind).from_pretrained(
        str(folder),
        dtype=require("torch", extra="train").float32,
        attn_implementation=attention,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    return model.eval()


def torchvision_fault() -> str | None:
    """Why torchvision cannot be imported; None when it can. An empty text when it is not installed, or hidden."""
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError as error:
        return "" if (error.name or "").partition(".")[0] == "torchvision" else str(error)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:  # its compiled operators do not fit
        return str(error)
    return None
