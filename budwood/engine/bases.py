"""The pretrained models that are known by name (`bases.toml`), and where one is found: a folder, a package, the hub."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from budwood.core.commit import staged
from budwood.core.errors import NotFoundError, UsageError

__all__ = ["Found", "Known", "catalogue", "find_base", "find_here", "packaged"]

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
FETCHED = ["*.json", "model*.safetensors", "*.txt", "*.model", "README.md"]
"""Configuration, tokenizer and safetensors; never code or pickles."""


@dataclass(frozen=True)
class Known:
    """An entry of `bases.toml`."""

    name: str
    tasks: tuple[str, ...]
    license: str
    parameters: int
    about: str
    hub: str = ""
    """Its name on the Hugging Face hub."""
    package: str = ""
    """`module/folder` of a Python package that carries the files; empty where none does."""
    converter: str = ""
    """The module of `budwood.engine` that writes the folder from a package's weights; empty where none is needed."""
    install: str = ""
    """The command that installs that package."""
    new: bool = False
    """It has no weights: the task makes the model from the user's own rows."""


@dataclass(frozen=True)
class Found:
    """A base model on this machine."""

    folder: Path | None
    """None for one that is begun anew."""
    label: str
    """The name that goes into the lineage: a hub name, or what the user typed."""
    why: str
    """How it was chosen, to be printed."""
    license: str = ""
    """What `bases.toml` says of it; empty for a base that is not in there."""


@cache
def catalogue() -> Mapping[str, Known]:
    """All entries by name."""
    content = tomllib.loads(files("budwood").joinpath("engine/bases.toml").read_text(encoding="utf-8"))
    return {name: Known(name, tuple(entry.pop("tasks")), **entry) for name, entry in content.items()}


def packaged(known: Known) -> Path | None:
    """The folder in an installed Python package; None when no package has it or it is not installed."""
    module, _, folder = known.package.partition("/")
    spec = find_spec(module) if module else None
    return Path(spec.origin).parent / folder if spec is not None and spec.origin is not None else None


def converted(known: Known, cache: Path) -> Path | None:
    """The folder written from the weights in an installed package, once; None without a converter or the package."""
    if not known.converter:
        return None
    converter = import_module(f"budwood.engine.{known.converter}")
    weights = converter.find_weights()
    if weights is None:
        return None
    out = cache / known.name
    if not out.exists():
        with staged(out) as stage:
            converter.write_folder(weights, stage)
    return out


def find_base(base: str, default: str, cache: Path, task: str) -> Found:
    """Find a base: a local folder, an entry of the catalogue (its package, else the hub), or any hub name.

    Args:
        base: what the user asked for; `auto` takes `default`, an entry's name.
        cache: where a folder is kept that was written from a package's weights.
        task: what is to be learnt with it.

    Raises:
        NotFoundError: there is no such folder or entry, and the hub does not have it or cannot be reached.
        UsageError: the entry is for other tasks, and not this one's default.
    """
    why = "the default" if base == "auto" else "asked for"
    wanted = default if base == "auto" else base
    known = next((item for item in catalogue().values() if wanted in (item.name, item.hub or item.name)), None)
    if known is not None:
        if task not in known.tasks and wanted != default:
            mine = ", ".join(item.name for item in catalogue().values() if task in item.tasks)
            raise UsageError(f"{known.name} is a base for {', '.join(known.tasks)}", where="--base", fix=f"try: {mine}")
        facts: dict[str, Any] = {"label": known.hub or known.name, "license": known.license}
        if known.new:
            return Found(None, why=f"{why}: {known.about}", **facts)
        folder = packaged(known) or converted(known, cache)
        if folder is not None:
            return Found(folder, why=f"{why}: {known.about}; from an installed package", **facts)
        if not known.hub:
            raise NotFoundError(f"the base {known.name} is not installed", where="--base", fix=known.install)
        return Found(fetch(known.hub, known.install), why=f"{why}: {known.about}; from the hub", **facts)
    if Path(base).is_dir():
        return Found(Path(base), base, why)
    if base.startswith((".", "/", "~")) or not HUB_NAME.fullmatch(base):
        raise NotFoundError("there is no such base model folder", where=base, fix="check the path given to --base")
    return Found(fetch(base), base, f"{why}; from the hub")


def find_here(base: str, cache: Path) -> Found:
    """A base that is on this machine already: a folder, or an entry of the catalogue in an installed package.

    Raises:
        NotFoundError: it is neither; nothing is fetched.
    """
    if base and Path(base).is_dir():
        return Found(Path(base), base, "asked for")
    known = next((item for item in catalogue().values() if base and base in (item.name, item.hub)), None)
    folder = None if known is None else packaged(known) or converted(known, cache)
    if known is None or folder is None:
        raise NotFoundError(
            f"there is no model {base!r} on this machine",
            where="the student",
            fix=known.install if known is not None and known.install else "pass the folder of a transformers model",
        )
    return Found(folder, known.hub or known.name, f"asked for: {known.about}; from an installed package", known.license)


def fetch(name: str, install: str = "") -> Path:
    """The snapshot of a model on the hub; one that was fetched before is taken from the cache."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=FETCHED))
    except Exception as error:  # the client raises errors of several libraries
        instead = f", or install the packaged one: {install}" if install else "; budwood adapt --list-bases"
        raise NotFoundError(
            f"the base model {name!r} is not here and could not be fetched ({type(error).__name__})",
            where="--base",
            fix=f"pass a local folder with --base{instead}",
        ) from error
