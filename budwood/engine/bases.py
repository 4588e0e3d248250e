"""The pretrained models that are known by name (`bases.toml`), and where one is found: a folder, a package, the hub."""

import hashlib
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

__all__ = [
    "Found",
    "Known",
    "catalogue",
    "content_key",
    "content_here",
    "find_base",
    "find_here",
    "in_hub_cache",
    "packaged",
]

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
FETCHED = ["*.json", "model*.safetensors", "*.txt", "*.model", "README.md"]
"""Configuration, tokenizer and safetensors; never code or pickles."""
SOURCE_SUFFIXES = (".json", ".txt", ".safetensors")
"""Files that decide the bundle which a plain folder becomes."""


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
    """A hub name, or what the user typed."""
    why: str
    """How it was chosen, to be printed."""
    license: str = ""
    """What `bases.toml` says of it; empty for a base that is not in there."""

    @property
    def is_local(self) -> bool:
        """Whether it is a folder that the user named, rather than a base that has a name of its own."""
        return self.folder is not None and Path(self.label) == self.folder


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
    weights = weights_of(known)
    if weights is None:
        return None
    out = cache / known.name
    if not out.exists():
        with staged(out) as stage:
            converter_of(known).write_folder(weights, stage)
    return out


def weights_of(known: Known) -> Path | None:
    """The weights in an installed package that the entry's converter reads."""
    found: Path | None = converter_of(known).find_weights() if known.converter else None
    return found


def converter_of(known: Known) -> Any:
    return import_module(f"budwood.engine.{known.converter}")


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
    """A base that is on this machine already: a folder, in an installed package, or fetched from the hub before.

    Args:
        base: a folder, an entry's name, or a name on the hub.
        cache: where a folder is kept that was written from a package's weights.

    Raises:
        NotFoundError: it is nowhere; nothing is fetched.
    """
    source, known = source_here(base), entry(base)
    if known is None:
        return Found(source, base, "asked for")
    folder = source if source.is_dir() else converted(known, cache)
    return Found(folder, known.hub or known.name, f"asked for: {known.about}", known.license)


def entry(base: str) -> Known | None:
    """The entry of the catalogue of this name, here or on the hub; a folder comes before both."""
    if not base or Path(base).is_dir():
        return None
    return next((item for item in catalogue().values() if base in (item.name, item.hub)), None)


def source_here(base: str) -> Path:
    """The folder that `find_here` takes, or the file of weights that it converts."""
    known = entry(base)
    if known is not None:
        source = packaged(known) or weights_of(known) or in_hub_cache(known.hub)
    else:
        source = Path(base) if base and Path(base).is_dir() else in_hub_cache(base)
    if source is None:
        raise NotFoundError(
            f"there is no model {base!r} on this machine",
            where="the student",
            fix=known.install if known is not None and known.install else "pass the folder of a transformers model",
        )
    return source


def in_hub_cache(name: str) -> Path | None:
    """The snapshot of a model that was fetched from the hub before, with its weights; the network is not asked."""
    if not HUB_NAME.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=FETCHED, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None
    return folder if (folder / "model.safetensors").exists() else None


def content_here(base: str) -> str:
    """A digest of what `find_here` takes: another one where the folder or the package has changed.

    Raises:
        NotFoundError: as `find_here`.
    """
    source = source_here(base)
    if source.is_dir():
        return content_key(source)
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def content_key(folder: Path) -> str:
    """A digest of the files that decide the bundle which a plain folder becomes."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in SOURCE_SUFFIXES and path.is_file():
            with path.open("rb") as file:
                name = path.relative_to(folder).as_posix()
                total.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


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
