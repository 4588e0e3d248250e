"""What a bundle's folder may contain, decided by content and not by name alone. Nothing here runs a model's code.

Names, kinds of entries and suffixes are checked here; the bytes of each file in `formats`.
"""

import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from budwood.core.cut_list import CUTS, load_cuts
from budwood.core.errors import BundleError
from budwood.core.formats import CHECKS as FORMAT_CHECKS
from budwood.core.formats import read_capped, refuse
from budwood.core.packed import SUFFIX as PACKED
from budwood.core.page import check_page

__all__ = ["check_content", "check_model_folder", "list_files", "safe_name"]

CHECKS = FORMAT_CHECKS | {".html": check_page}
ALLOWED_SUFFIXES = tuple(CHECKS)
MAX_FILES = 256
MAX_DEPTH = 4
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(?<!\.)", re.ASCII)
FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}", re.ASCII)

CODE = (".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".js", ".ipynb", ".whl", ".jar")
WEIGHTS = (
    *(".pt", ".pth", ".pt2", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz"),
    *(".h5", ".hdf5", ".keras", ".pb", ".tflite", ".msgpack", ".ot", ".gguf", ".nemo", ".mar", ".mlmodel"),
)
ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".zst", ".7z", ".rar")

# What a model folder from elsewhere may hold besides: never opened, so harmless.
IGNORED_NAMES = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "training_args.bin")
IGNORED_SUFFIXES = (".jinja", ".model", ".tiktoken", ".jpg", ".jpeg", ".gif", ".webp", ".pdf", ".onnx", ".gguf")
IGNORED_FOLDERS = (".git", ".cache", "onnx", "openvino", "coreml")
TEXT_NAMES = (".gitattributes", ".gitignore", "LICENSE", "LICENCE", "NOTICE", "COPYING")


def list_files(folder: Path) -> list[str]:
    """Names of all files below `folder`, with `/`, sorted.

    Raises:
        BundleError: an entry is a link, a device, a hard link, has an unsafe name or a suffix that is not allowed.
    """
    found: list[str] = []
    for entry, name in walk(folder):
        check_kind(entry, name)
        info = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            continue
        if info.st_nlink != 1:
            raise refuse(entry.path, f"{name} is a hard link, so it can change from outside", "copy the file: `cp`")
        check_suffix(entry.path, name)
        found.append(name)
    refuse_collisions(folder, found)
    return sorted(found)


def check_content(path: Path, name: str) -> None:
    """Refuse a file whose bytes are not what its suffix says.

    Raises:
        BundleError: the file is unsafe; `where` names it.
    """
    check_suffix(os.fspath(path), name)
    CHECKS[path_suffix(name)](path, name)
    if name == CUTS:
        load_cuts(path)


def check_model_folder(folder: Path) -> None:
    """Refuse a plain Hugging Face folder (a base model) that holds code, or no `model.safetensors`.

    Pickled weights beside `model.safetensors` are ignored and never loaded. Hard links are accepted, because installers
    make them, and so are the links of a Hugging Face cache to its own blobs.

    Raises:
        BundleError: an entry is unsafe or not known; `where` names it.
    """
    names: list[str] = []
    for entry, name in walk(folder, skip=IGNORED_FOLDERS):
        if entry.name in TEXT_NAMES and not entry.is_dir():
            read_capped(resolve_cached(folder, entry, name), name)
            continue
        if entry.is_symlink():
            path = resolve_cached(folder, entry, name)
        else:
            check_kind(entry, name)
            path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False) or entry.name in IGNORED_NAMES:
            continue
        if path_suffix(name) in IGNORED_SUFFIXES:
            continue
        check_suffix(entry.path, name)
        CHECKS[path_suffix(name)](path, name)
        names.append(name)
    refuse_collisions(folder, names)
    for needed in ("config.json", "model.safetensors"):
        if needed not in names:
            raise BundleError(f"the folder has no {needed}", where=str(folder), fix=CONVERT)


CONVERT = "save the model with `model.save_pretrained(FOLDER)`, which writes config.json and model.safetensors"


def walk(folder: Path, skip: tuple[str, ...] = ()) -> Iterator[tuple[os.DirEntry[str], str]]:
    """All entries below a folder with their `/` names; links are yielded, never followed."""
    pending = [(os.fspath(folder), "")]
    count = 0
    while pending:
        parent, prefix = pending.pop()
        try:
            with os.scandir(parent) as entries:
                batch = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise BundleError(f"the folder cannot be read: {error.strerror}", where=ascii_name(parent)) from error
        for entry in batch:
            name = prefix + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder and entry.name in skip:
                continue
            count += 1
            if count > MAX_FILES:
                raise refuse(parent, f"more than {MAX_FILES} files", "a bundle holds about ten; remove the rest")
            if is_folder:
                if name.count("/") >= MAX_DEPTH - 1:
                    raise refuse(entry.path, f"folders are nested more than {MAX_DEPTH} deep", "flatten the folder")
                pending.append((entry.path, name + "/"))
            yield entry, name


def check_kind(entry: os.DirEntry[str], name: str) -> None:
    """Refuse links, devices, pipes, sockets and names that are hidden or could be mistaken for another."""
    where = ascii_name(entry.path)
    mode = entry.stat(follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        raise refuse(where, f"{ascii_name(name)} is a symbolic link", "copy the file itself: `cp -L`")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise refuse(where, f"{ascii_name(name)} is a pipe, a device or a socket", "remove it")
    pattern = FOLDER_NAME if stat.S_ISDIR(mode) else FILE_NAME
    if not pattern.fullmatch(entry.name):
        raise refuse(where, f"{ascii_name(name)} is not a safe name", "use letters, digits, `_`, `-` and `.` only")


def safe_name(name: str) -> bool:
    """Whether a name with `/` stays inside its folder and is one that `list_files` would accept."""
    *folders, file = name.split("/")
    return bool(FILE_NAME.fullmatch(file)) and all(FOLDER_NAME.fullmatch(folder) for folder in folders)


def check_suffix(path: str, name: str) -> None:
    suffix = path_suffix(name)
    if suffix in ALLOWED_SUFFIXES and name.rsplit("/", 1)[-1] != "adapter_config.json":
        return
    if suffix in CODE:
        raise refuse(path, f"{name} is code, and Budwood never runs code from a model folder", "remove it")
    if suffix in WEIGHTS:
        raise refuse(path, f"{name} can run code when it is loaded", f"convert it to safetensors: {CONVERT}")
    if suffix in ARCHIVES:
        raise refuse(path, f"{name} is an archive", "unpack it and keep only what the model needs")
    if suffix == ".json":
        raise refuse(path, f"{name} makes loaders fetch another model", "merge the adapter into its base model first")
    raise refuse(path, f"{name} is of no type that a model folder may hold", f"allowed: {', '.join(ALLOWED_SUFFIXES)}")


def path_suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def refuse_collisions(folder: Path, names: list[str]) -> None:
    """Names that differ only by case or by Unicode form are one file on other systems; a packed file is the file that
    it stands for."""
    seen: dict[str, str] = {}
    plain = set(names)
    for name in names:
        if name.endswith(PACKED) and name.removesuffix(PACKED) in plain:
            raise refuse(str(folder / name), f"{name} stands for a file that is there too", "remove one of the two")
        key = unicodedata.normalize("NFKC", name).casefold()
        if key in seen:
            raise refuse(str(folder / name), f"{name} and {seen[key]} differ only by case", "rename or remove one")
        seen[key] = name


def resolve_cached(folder: Path, entry: os.DirEntry[str], name: str) -> Path:
    """The file that an entry stands for. A link may only lead to the blobs of its own Hugging Face cache folder."""
    path = Path(entry.path)
    if not entry.is_symlink():
        return path
    snapshot = folder.resolve()
    blobs = snapshot.parent.parent / "blobs"
    target = path.resolve()
    if snapshot.parent.name == "snapshots" and target.parent == blobs and target.is_file():
        return target
    raise refuse(ascii_name(entry.path), f"{ascii_name(name)} is a symbolic link", "copy the file itself: `cp -L`")


def ascii_name(name: str) -> str:
    """A name that is safe to print: no control characters, no bytes that cannot be encoded."""
    return name if name.isprintable() and name.isascii() else ascii(name)
