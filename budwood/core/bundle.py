"""A bundle: an immutable Hugging Face model folder plus `bundle.json`. Opening one never runs its code.

Every stage of Budwood takes a bundle and gives a new one that names its parent.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from budwood.core.commit import staged
from budwood.core.errors import BundleError
from budwood.core.opening import check_content, list_files

__all__ = ["SCHEMA_VERSION", "Bundle", "DataRecord", "Draft", "FileRecord", "Manifest", "Metric", "StepRecord", "digest"]

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
FORMATS = {
    "torch": "model.safetensors",
    "onnx": "onnx/model.onnx",
    "onnx-int8": "onnx/model_quantized.onnx",
}
"""Format name to the file whose presence means that the bundle has it."""


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StepRecord(Record):
    """A step and its parameters; a bundle's `history` is the list of all steps since the base model."""

    name: str
    parameters: dict[str, Any] = {}
    bundle: str | None = None
    """The id of the bundle that this step gave; None for the step that gave this very bundle."""


class Metric(Record):
    """A measured number: its value, its 95 % confidence interval, and on how many rows of which split."""

    value: float
    ci: tuple[float, float]
    n: int
    split: str


class DataRecord(Record):
    """Where the training rows came from. The rows themselves stay in the store, beside the bundles."""

    fingerprint: str
    sources: tuple[str, ...]
    seed: int
    rows: dict[str, int]
    """Split name to the number of rows."""


class FileRecord(Record):
    sha256: str
    bytes: int


class Draft(Record):
    """What a step knows of the bundle that it makes; `Bundle.create` adds the files and the id."""

    parent: str | None
    history: tuple[StepRecord, ...]
    task: dict[str, Any] | None
    """The task's name and fields; None for a base model that has no task yet."""
    base: str
    license: str = "unknown"
    data: DataRecord | None = None
    metrics: dict[str, Metric] = {}
    calibration: dict[str, float] = {}
    reference: dict[str, Any] = {}
    """Statistics of the training data (lengths, class counts, confidence), for drift."""
    report: dict[str, Any] = {}
    """What the step measured: baseline, candidates, verdicts."""
    environment: dict[str, str] = {}


class Manifest(Draft):
    """`bundle.json`. Its id is the SHA-256 of all the rest, so a changed byte anywhere changes it."""

    schema_version: int = Field(ge=1)
    id: str
    created: str
    budwood: str
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class Bundle:
    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> Self:
        """Open a folder after checking it: allow-listed file types, no links, every hash equal to the manifest's.

        `verify=False` skips the hashes of the files (not the allow-list), for listings.

        Raises:
            BundleError: a file is unsafe, missing, added or changed; `where` names it.
        """
        folder = Path(path)
        files = list_files(folder)
        if MANIFEST not in files:
            raise BundleError("not a bundle: it has no bundle.json", where=str(folder), fix="budwood models list")
        manifest = read_manifest(folder / MANIFEST)
        for name in sorted({*manifest.files, *files} - {MANIFEST}):
            compare_file(folder, name, manifest.files.get(name), present=name in files, verify=verify)
        return cls(folder, manifest)

    @classmethod
    def create(cls, path: Path | str, draft: Draft, write: Callable[[Path], None]) -> Self:
        """Commit a new bundle at `path`: `write` fills an empty folder, then it is hashed, synced and renamed.

        Raises:
            UsageError: `path` exists.
            BundleError: `write` left a file that a bundle may not contain.
        """
        from budwood import __version__

        final = Path(path)
        with staged(final) as stage:
            write(stage)
            files = {name: record(stage / name) for name in list_files(stage)}
            for name in files:
                check_content(stage / name, name)
            fields = draft.model_dump(mode="json") | {
                "schema_version": SCHEMA_VERSION,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "budwood": __version__,
                "files": {name: item.model_dump(mode="json") for name, item in files.items()},
            }
            manifest = Manifest.model_validate(fields | {"id": digest(fields)})
            (stage / MANIFEST).write_bytes(encode(manifest))
        return cls(final, manifest)

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def parent(self) -> str | None:
        return self.manifest.parent

    @property
    def formats(self) -> frozenset[str]:
        return frozenset(name for name, file in FORMATS.items() if file in self.manifest.files)

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists. Raises BundleError when it lists none of that name."""
        if name not in self.manifest.files:
            raise BundleError(f"the bundle has no {name}", where=str(self.path))
        return self.path / name

    def model_file(self, format: str) -> Path:
        """The model's file in a format (`torch`, `onnx`, `onnx-int8`). Raises BundleError when there is none."""
        if format not in self.formats:
            raise BundleError(
                f"the bundle has no {format} model",
                where=str(self.path),
                fix=f"it has: {', '.join(sorted(self.formats)) or 'none'}; see `budwood export --help`",
            )
        return self.path / FORMATS[format]

    @property
    def serving_bytes(self) -> int:
        """Size of what a server loads: the smallest graph plus the small files, without the float originals."""
        sizes = {name: item.bytes for name, item in self.manifest.files.items()}
        graphs = [sizes[FORMATS[name]] for name in self.formats - {"torch"}] or [sizes.get(FORMATS["torch"], 0)]
        small = sum(size for name, size in sizes.items() if name in SERVED)
        return min(graphs) + small

    def draft(self, step: str, parameters: Mapping[str, Any] | None = None, **changes: Any) -> Draft:
        """The draft of a child: this bundle's facts, one step later. Measured facts do not carry over."""
        inherited = {name: getattr(self.manifest, name) for name in Draft.model_fields}
        past = (*self.manifest.history[:-1], self.manifest.history[-1].model_copy(update={"bundle": self.id}))
        fresh = {"metrics": {}, "report": {}, "environment": {}}
        history = (*past, StepRecord(name=step, parameters=dict(parameters or {})))
        return Draft.model_validate(inherited | fresh | {"parent": self.id, "history": history} | changes)


SERVED = ("config.json", "tokenizer.json", "tokenizer_config.json", "golden.json")


def read_manifest(path: Path) -> Manifest:
    raw = path.read_bytes()
    try:
        fields = json.loads(raw)
        version = fields["schema_version"]
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise BundleError(
                f"bundle.json has schema version {version}; this Budwood reads up to {SCHEMA_VERSION}",
                where=str(path),
                fix="pip install --upgrade budwood",
            )
        manifest = Manifest.model_validate(fields)
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise damaged(path, f"it cannot be read ({type(error).__name__})") from error
    fields.pop("id")
    if digest(fields) != manifest.id or encode(manifest) != raw:
        raise damaged(path, "its content does not match its id")
    return manifest


def compare_file(folder: Path, name: str, expected: FileRecord | None, *, present: bool, verify: bool) -> None:
    path = folder / name
    if expected is None:
        raise BundleError(f"{name} is not listed in bundle.json", where=str(path), fix=RESTORE)
    if not present:
        raise BundleError(f"{name} is missing", where=str(path), fix=RESTORE)
    if path.stat().st_size != expected.bytes:
        raise damaged(path, f"it has {path.stat().st_size} bytes, expected {expected.bytes}")
    if verify:
        actual = record(path).sha256
        if actual != expected.sha256:
            raise damaged(path, f"SHA-256 is {actual[:12]}…, expected {expected.sha256[:12]}…")
        check_content(path, name)


RESTORE = "do not use it; roll back with `budwood models rollback NAME`, or copy the bundle again from its source"


def damaged(path: Path, detail: str) -> BundleError:
    return BundleError(f"{path.name} is damaged: {detail}", where=str(path), fix=RESTORE)


def record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(sha256=sha256, bytes=path.stat().st_size)


def digest(fields: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of some fields."""
    return hashlib.sha256(canonical(fields)).hexdigest()


def canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def encode(manifest: Manifest) -> bytes:
    text = json.dumps(manifest.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"
