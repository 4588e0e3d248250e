"""A base model's folder, taken in as a bundle that has no task yet."""

import re
from collections.abc import Callable
from pathlib import Path

from budwood.core.bundle import Bundle, Draft, StepRecord
from budwood.core.commit import remove_folder
from budwood.core.errors import BundleError, UsageError
from budwood.core.opening import check_model_folder
from budwood.core.task import Task
from budwood.engine.bases import Found, content_key

__all__ = ["import_base"]


def import_base(found: Found, cache: Path, kind: type[Task]) -> Bundle:
    """The base as a bundle in `cache`, made once for the same weights, configuration and kind of task.

    A bundle that was adapted before gives its network, not its labels and their head. The lineage calls a folder of the
    user's by its last part and its content: `resnet@0123456789abcdef`; the path stays on this machine.

    Raises:
        BundleError: the folder holds code, pickles or links, or is not a base for this kind of task.
        UsageError: the task cannot begin without a pretrained model.
    """
    folder = found.folder
    if folder is None:
        draft = Draft(parent=None, history=(StepRecord(name="base"),), task=None, base=found.label, license="other")
        return cached(cache / f"base-{kind.name}-new", draft, kind.new_base)
    if (folder / "bundle.json").exists():
        return import_bundle(Bundle.open(folder), cache, kind)
    check_model_folder(folder)
    if not (folder / "model.safetensors").exists():
        raise BundleError("the base has no model.safetensors", where=str(folder), fix="convert it to safetensors first")
    license_name = read_license(folder, found.license)
    content = content_key(folder)
    name = f"{folder.resolve().name}@{content}" if found.is_local else found.label
    draft = Draft(parent=None, history=(StepRecord(name="base"),), task=None, base=name, license=license_name)
    key = f"base-{kind.name}-{'local-' if found.is_local else ''}{content}"
    return cached(cache / key, draft, lambda stage: kind.take_base(folder, stage))


def import_bundle(bundle: Bundle, cache: Path, kind: type[Task]) -> Bundle:
    if "torch" not in bundle.formats:
        raise BundleError(
            "the base has no float weights to learn from",
            where=str(bundle.path),
            fix="take the version that it was quantized from: budwood models lineage NAME",
        )
    if bundle.manifest.task is None:
        return bundle
    draft = bundle.draft("base", task=None, data=None, calibration={}, reference={})
    return cached(cache / f"base-{kind.name}-{bundle.id[:16]}", draft, lambda stage: kind.take_base(bundle.path, stage))


def cached(out: Path, draft: Draft, write: Callable[[Path], None]) -> Bundle:
    """The bundle at `out`, made when it is not there or is damaged; another process may make it meanwhile."""
    if out.exists():
        try:
            return Bundle.open(out)
        except BundleError:
            remove_folder(out)
    try:
        return Bundle.create(out, draft, write)
    except UsageError:
        return Bundle.open(out)


def read_license(folder: Path, known: str) -> str:
    """The license in the front matter of the model card, else what is `known`, else `unknown`."""
    card = folder / "README.md"
    if not card.exists():
        return known or "unknown"
    text = card.read_text(encoding="utf-8", errors="replace")
    front = text.split("---", 2)[1] if text.startswith("---") else ""
    found = re.search(r"^license:\s*([\w.-]+)\s*$", front, re.MULTILINE)
    return found[1] if found else known or "unknown"
