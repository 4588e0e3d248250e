"""The rows behind a bundle, kept in the store beside the bundles, so that a later step finds exactly the same rows.

They are the user's own data: private to the user's account, hashed, and never copied into a bundle.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from budwood.core.commit import staged, sweep
from budwood.core.dataset import Dataset, Splits
from budwood.core.errors import BundleError, DataError, NotFoundError, UsageError

__all__ = ["load_splits", "save_splits"]

SCHEMA_VERSION = 1
META = "meta.json"
PARTS = ("train", "validation", "test")
FIX = "give the data again: --data DATA"


def save_splits(folder: Path, splits: Splits) -> None:
    """Keep splits below `folder`, in a private folder named by their fingerprint. Doing it twice changes nothing.

    Raises:
        DataError: a row holds something that JSON cannot give back unchanged.
    """
    fingerprint = splits.fingerprint
    final = folder / fingerprint
    sweep(folder)
    if final.exists():
        try:
            load_splits(folder, fingerprint)
            return
        except BundleError:
            shutil.rmtree(final)
    try:
        with staged(final) as stage:
            write_splits(stage, fingerprint, splits)
            read_splits(stage, fingerprint)
    except BundleError as error:
        raise DataError(
            "the rows cannot be stored unchanged", where=error.where, fix="use text and numbers only"
        ) from error
    except UsageError:  # another process was faster with the very same rows
        load_splits(folder, fingerprint)
    folder.chmod(0o700)


def load_splits(folder: Path, fingerprint: str) -> Splits:
    """The splits with a fingerprint, every row and their order as they were saved.

    Raises:
        NotFoundError: they are not kept here.
        BundleError: a file was changed.
    """
    final = folder / fingerprint
    if not fingerprint.isalnum() or not final.is_dir():
        raise NotFoundError("the training data of this model is not kept here", where=str(final), fix=FIX)
    return read_splits(final, fingerprint)


def write_splits(stage: Path, fingerprint: str, splits: Splits) -> None:
    stage.chmod(0o700)
    meta: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "fingerprint": fingerprint, "seed": splits.seed}
    meta |= {"notes": list(splits.notes), "sources": {}, "files": {}}
    for part in PARTS:
        data: Dataset = getattr(splits, part)
        try:
            content = b"".join(line(row) for row in data)
        except (TypeError, ValueError) as error:
            raise DataError(f"a row cannot be stored: {error}", where=part, fix="use text and numbers only") from error
        meta["sources"][part] = list(data.sources)
        meta["files"][part] = hashlib.sha256(content).hexdigest()
        write_private(stage / f"{part}.jsonl", content)
    write_private(stage / META, json.dumps(meta, indent=1, ensure_ascii=False).encode())


def line(row: Any) -> bytes:
    return json.dumps(dict(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def write_private(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def read_splits(folder: Path, fingerprint: str) -> Splits:
    try:
        meta = json.loads((folder / META).read_bytes())
        if meta["schema_version"] != SCHEMA_VERSION:
            raise damaged(folder / META, f"schema version {meta['schema_version']} is not known")
        train, validation, test = (
            read_part(folder / f"{part}.jsonl", meta["files"][part], meta["sources"][part]) for part in PARTS
        )
        splits = Splits(train, validation, test, seed=int(meta["seed"]), notes=tuple(meta["notes"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(folder, f"it cannot be read ({type(error).__name__})") from error
    if splits.fingerprint != fingerprint:
        raise damaged(folder, "its rows do not match its fingerprint")
    return splits


def read_part(path: Path, sha256: str, sources: Iterable[str]) -> Dataset:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise damaged(path, "its SHA-256 is another")
    return Dataset.of((json.loads(text) for text in content.split(b"\n") if text), *sources)


def damaged(path: Path, detail: str) -> BundleError:
    return BundleError(f"the stored data is damaged: {detail}", where=str(path), fix=FIX)
