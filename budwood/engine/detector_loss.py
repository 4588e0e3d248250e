"""What a detector learns from: which places are to find which box, and how wrong their scores and boxes are.

Places are chosen as in ATSS (Zhang et al. 2020, arXiv:1912.02424); scores learn the overlap of their box by the
varifocal loss (Zhang et al. 2021, arXiv:2008.13367), boxes by the generalized IoU (Rezatofighi et al. 2019,
arXiv:1902.09630). Import only inside functions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["STRIDES", "Targets", "assign", "detection_loss", "pairwise_iou"]

STRIDES = (8, 16, 32)
"""Pixels from one place to the next, level by level."""
NEAREST = 9
"""Places of each level that are candidates for a box."""
ANCHOR = 5.0
"""Side of the square, in strides, that stands for a place when candidates are chosen."""
GAMMA, ALPHA = 2.0, 0.75
BOX_WEIGHT = 2.0


class Targets(NamedTuple):
    """The true objects of one image in pixels of the square."""

    boxes: Tensor
    """Shape (objects, 4)."""
    labels: Tensor
    """Class numbers, shape (objects,) int64."""
    crowds: Tensor
    """Areas where nothing is said, shape (areas, 4)."""


def assign(centres: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
    """The number of the box that each place is to find, -1 for none; shape (places,).

    Candidates of a box are the nearest places of each level; those stay whose square overlaps it by more than the mean
    and one deviation of all, and whose centre is inside. A place that several boxes want goes to the one it overlaps
    most, and a box that no place would get, to its nearest one.
    """
    owner = torch.full((len(centres),), -1, dtype=torch.int64)
    if not len(boxes):
        return owner
    half = (0.5 * ANCHOR * strides)[:, None]
    overlap = pairwise_iou(torch.cat([centres - half, centres + half], dim=1), boxes)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = torch.cdist(centres, middle)
    chosen = torch.zeros_like(overlap, dtype=torch.bool)
    for stride in STRIDES:
        level = torch.nonzero(strides == stride)[:, 0]
        nearest = distance[level].topk(min(NEAREST, len(level)), dim=0, largest=False).indices
        chosen[level[nearest], torch.arange(len(boxes))] = True
    found = torch.where(chosen, overlap, torch.nan)
    mean = found.nanmean(dim=0)
    deviation = ((found - mean) ** 2).nanmean(dim=0).sqrt()
    x, y = centres[:, :1], centres[:, 1:]
    inside = (x > boxes[:, 0]) & (y > boxes[:, 1]) & (x < boxes[:, 2]) & (y < boxes[:, 3])
    chosen &= inside & (overlap >= mean + deviation)
    best, number = torch.where(chosen, overlap, -1.0).max(dim=1)
    owner = torch.where(best >= 0, number, owner)
    for lonely in set(range(len(boxes))) - set(owner.tolist()):
        owner[distance[:, lonely].argmin()] = lonely
    return owner


def detection_loss(outputs: dict[str, Tensor], targets: Sequence[Targets], centres: Tensor, strides: Tensor) -> Tensor:
    """Varifocal loss of all places and generalized IoU of those that are to find a box; a scalar."""
    logits, boxes = outputs["logits"], outputs["boxes"]
    goal = torch.zeros_like(logits)
    weight = torch.ones(logits.shape[:2])
    picked, wanted = [], []
    for image, target in enumerate(targets):
        owner = assign(centres, strides, target.boxes)
        own = torch.nonzero(owner >= 0)[:, 0]
        truth = target.boxes[owner[own]]
        found = boxes[image, own]
        goal[image, own, target.labels[owner[own]]] = aligned_iou(found.detach(), truth).clamp(0, 1)
        picked.append(found)
        wanted.append(truth)
        if len(target.crowds):
            x, y = centres[:, :1], centres[:, 1:]
            areas = target.crowds
            unsaid = ((x > areas[:, 0]) & (y > areas[:, 1]) & (x < areas[:, 2]) & (y < areas[:, 3])).any(dim=1)
            weight[image, unsaid & (owner < 0)] = 0.0
    found, truth = torch.cat(picked), torch.cat(wanted)
    total = goal.sum().clamp(min=1.0)
    overlap = goal.amax(dim=2)[goal.amax(dim=2) > 0].sum().clamp(min=1.0)
    scores = (varifocal(logits, goal) * weight[..., None]).sum() / total
    quality = aligned_iou(found.detach(), truth).clamp(min=0.1)
    sides = ((1 - generalized_iou(found, truth)) * quality).sum() / overlap
    return scores + BOX_WEIGHT * sides


def varifocal(logits: Tensor, goal: Tensor) -> Tensor:
    """Cross-entropy to the goal; where it is 0, weighted down the surer the place rightly is."""
    probability = logits.detach().sigmoid()
    weight = torch.where(goal > 0, goal, ALPHA * probability**GAMMA)
    return functional.binary_cross_entropy_with_logits(logits, goal, reduction="none") * weight


def aligned_iou(first: Tensor, second: Tensor) -> Tensor:
    """Overlap of the boxes with the same number."""
    return shared_and_union(first, second)[0] / shared_and_union(first, second)[1].clamp(min=1e-6)


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    shared, union = shared_and_union(first, second)
    hull = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    around = hull.prod(dim=1).clamp(min=1e-6)
    return shared / union.clamp(min=1e-6) - (around - union) / around


def shared_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    each = [(item[:, 2:] - item[:, :2]).clamp(min=0).prod(dim=1) for item in (first, second)]
    return shared, each[0] + each[1] - shared


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Overlap of each pair, shape (first, second)."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    each = [(item[:, 2:] - item[:, :2]).clamp(min=0).prod(dim=1) for item in (first, second)]
    return shared / (each[0][:, None] + each[1][None] - shared).clamp(min=1e-6)
