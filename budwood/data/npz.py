"""Arrays of small images as MedMNIST has them: train_images, train_labels, val_images, … in one .npz file.

Images are uint8 of shape (rows, height, width) or (rows, height, width, 3), labels numbers of (rows,) or (rows, 1).
"""

import base64
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from budwood.core.errors import DataError
from budwood.core.task import Row
from budwood.engine.collection import Collection
from budwood.engine.image_rows import Item, reading_of
from budwood.engine.reading import Reading
from budwood.engine.row_roles import SPLITS
from budwood.engine.table import Place, note

__all__ = ["Npz"]

MAX_BYTES = 2 << 30
"""Of the arrays, unpacked."""
PARTS = ("train", "val", "test")


@final
@dataclass(frozen=True)
class Npz(Collection):
    """Rows carry their image in themselves, as a PNG in a `data:` URI, since there is no file to point to."""

    def claims(self, path: Path) -> bool:
        if path.suffix.lower() != ".npz" or not path.is_file() or not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return "train_images.npy" in archive.namelist()

    def read(self, path: Path, target: str | None, input: str | None, group: str | None) -> Reading:
        if target or input or group:
            raise DataError("arrays have no columns", where="--target, --input, --group", fix="leave them out")
        items: list[Item] = []
        for part, images, labels in arrays_of(path):
            for number, (image, label) in enumerate(zip(images, labels, strict=True), 1):
                fields = {"label": spelled(label.item()), "split": SPLITS[part]}
                items.append(Item(data_uri(image), Place(f"{path.name}/{part}_images", number), fields))
        return reading_of(items, path, [note("split", "train, val, test", "the arrays name the splits")], {})

    def inputs(self, path: Path, input: str | None) -> list[Row]:
        return [{"image": data_uri(image)} for _, images, _ in arrays_of(path) for image in images]


def arrays_of(path: Path) -> list[tuple[str, NDArray[np.uint8], NDArray[Any]]]:
    """(part, images, labels) of each part. Raises DataError when an array is missing, too large or of another kind."""
    found = []
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise DataError("the arrays are too large", where=str(path), fix="unpack them into folders of images")
            for part in PARTS:
                if f"{part}_images.npy" in archive.namelist():
                    images, labels = (array_of(archive, f"{part}_{name}.npy") for name in ("images", "labels"))
                    found.append((part, *checked(images, labels, part, path)))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"the arrays cannot be read: {error}", where=str(path), fix="download the file again"
        ) from error
    return found


def array_of(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """One array of the archive; pickled objects are refused with ValueError."""
    with archive.open(name) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def checked(images: Any, labels: Any, part: str, path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise DataError(
            f"{part}_images is {images.dtype} of shape {images.shape}",
            where=str(path),
            fix="uint8 of shape (rows, height, width) or (rows, height, width, 3)",
        )
    if labels.shape not in ((len(images),), (len(images), 1)) or labels.dtype.kind not in "iubf":
        raise DataError(
            f"{part}_labels is {labels.dtype} of shape {labels.shape}",
            where=str(path),
            fix="one number for each image",
        )
    return images, labels.reshape(-1)


def spelled(label: float) -> str:
    return str(int(label)) if float(label).is_integer() else repr(label)


def data_uri(image: NDArray[np.uint8]) -> str:
    stream = BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
