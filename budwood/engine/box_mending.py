"""Repair what the data doctor can repair in images with boxes, and write it as COCO beside copies of the images."""

import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from budwood.core.commit import staged
from budwood.core.errors import DataError, UsageError
from budwood.engine.box_conventions import Convention
from budwood.engine.box_doctor import SAME, Examined, wrong_size
from budwood.engine.box_rows import LEAST_SIDE, Settled
from budwood.engine.boxes import iou
from budwood.engine.file_names import FileNames
from budwood.engine.findings import Finding

__all__ = ["write_mended"]

FILE = "_annotations.coco.json"
Mended = tuple[str, bool, tuple[float, ...]]
"""An object that stays: label, whether it is a crowd, and corners."""
FOLDERS = {"train": "train", "validation": "valid", "test": "test"}


def write_mended(examined: Examined, findings: Sequence[Finding], folder: Path) -> None:
    """Write `folder/[train|valid|test/]` with images and one COCO file each; after a crash it is whole or absent.

    Boxes are rewritten in their right convention, scaled to the image, cut at its edges, and left out where they are
    no object or mark one twice; labels are spelt alike; images that are there twice are kept once, with the objects of
    all of their annotations. An image whose every object is left out is left out too: it is not empty.

    Raises:
        UsageError: the folder exists; nothing is ever overwritten.
        DataError: no image would stay.
    """
    if folder.exists():
        raise UsageError(
            f"{folder.name} already exists", where=str(folder), fix="name a folder that does not exist yet"
        )
    rename = {old: new for item in findings for old, new in item.rename.items()}
    parts: dict[str, list[list[Settled]]] = defaultdict(list)
    for group in kept_images(examined, findings):
        stays = any(mended(one, rename, examined.convention) for one in group)
        if any(one.item.objects for one in group) and not stays:
            continue
        parts[FOLDERS.get(group[0].item.split or "", "")].append(group)
    if not parts:
        raise DataError("no image would stay", where="--fix", fix="mend the data by hand; each finding has a fix")
    names = sorted({rename.get(thing.label, thing.label) for one in examined.settled for thing in one.item.objects})
    with staged(folder) as stage:
        for part, members in parts.items():
            (stage / part).mkdir(exist_ok=True, parents=True)
            content = annotations(members, names, rename, examined.convention, stage / part)
            (stage / part / FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def kept_images(examined: Examined, findings: Sequence[Finding]) -> list[list[Settled]]:
    """The images that stay, each with all annotations of its bytes, the one to write first."""
    hashes = examined.hashes
    left_out = {place for item in findings if item.kind == "leakage" for place in item.rows}
    left_out |= {place for place, _ in examined.broken}
    repeats = {place for item in findings if item.kind == "duplicate" for place in item.rows} - left_out
    groups: list[list[Settled]] = []
    first: dict[str, list[Settled]] = {}
    for one in examined.settled:
        place = one.item.place
        if place in repeats and hashes[place] in first:
            first[hashes[place]].append(one)
        elif place not in left_out:
            groups.append([one])
            if one.item.split != "test" and place in hashes:
                first.setdefault(hashes[place], groups[-1])
    return groups


def annotations(
    members: Sequence[Sequence[Settled]],
    names: Sequence[str],
    rename: dict[str, str],
    convention: Convention | None,
    folder: Path,
) -> dict[str, Any]:
    """The content of a COCO file; the images are copied beside it."""
    ids = {name: number for number, name in enumerate(names, 1)}
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    files = FileNames()
    for number, group in enumerate(members, 1):
        one = group[0]
        source = one.item.image
        name = files.unused(source.stem, source.suffix)
        shutil.copyfile(source, folder / name)
        images.append({"id": number, "file_name": name, "width": one.width, "height": one.height})
        for label, crowd, (x1, y1, x2, y2) in together([mended(each, rename, convention) for each in group]):
            box = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
            entry = {"id": len(objects) + 1, "image_id": number, "category_id": ids[label], "bbox": box}
            objects.append(entry | {"area": round(box[2] * box[3], 3), "iscrowd": int(crowd)})
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": objects, "categories": categories}


def together(parts: Sequence[list[Mended]]) -> list[Mended]:
    """The objects of all annotations of one image, each once."""
    kept = list(parts[0])
    for part in parts[1:]:
        known = np.asarray([box for _, _, box in kept], np.float64).reshape(-1, 4)
        names = [label for label, _, _ in kept]
        for item in part:
            overlap = iou(np.asarray([item[2]], np.float64), known)[0]
            if not any(same > SAME and label == item[0] for same, label in zip(overlap, names, strict=True)):
                kept.append(item)
    return kept


def mended(one: Settled, rename: dict[str, str], convention: Convention | None) -> list[Mended]:
    """The objects of an annotation that stay."""
    found = np.asarray(one.boxes, np.float64).reshape(-1, 4)
    size = np.asarray([one.width, one.height] * 2, np.float64)
    if convention is not None:
        found = convention.means(found, np.tile(size, (len(found), 1)))
    elif wrong_size(one) and one.item.size is not None and not one.item.relative:
        found = found * size / np.asarray(one.item.size * 2, np.float64)
    found = np.clip(found, 0, size)
    kept: list[int] = []
    names = [rename.get(thing.label, thing.label) for thing in one.item.objects]
    overlap = iou(found, found) > SAME
    for number, sides in enumerate(found[:, 2:] - found[:, :2]):
        again = any(overlap[number, other] and names[number] == names[other] for other in kept)
        if (sides >= LEAST_SIDE).all() and not again:
            kept.append(number)
    return [(names[i], one.item.objects[i].crowd, tuple(found[i].tolist())) for i in kept]
