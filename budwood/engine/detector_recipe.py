"""The numbers of a detector's training, by the kind of network and the images that there are."""

from dataclasses import dataclass

__all__ = ["Recipe", "hub_recipe", "own_recipe"]


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training."""

    rate: float
    """Of the backbone; 0 keeps it as it is."""
    head_rate: float
    images: int
    """How many are seen in all, repetitions included."""
    batch_size: int = 8
    average: float = 0.99
    weight_decay: float = 0.02
    clip: float = 10.0


def own_recipe(n_images: int, *, frozen: bool) -> Recipe:
    """For a new head on a pretrained backbone: 60 passes over the images, at least 6,000 images and at most 60,000."""
    if frozen:
        return Recipe(0.0, 2e-3, min(20_000, max(3_000, 30 * n_images)))
    return Recipe(3e-4, 1e-3, min(60_000, max(6_000, 60 * n_images)))


def hub_recipe(n_images: int, *, frozen: bool) -> Recipe:
    """For a detector that has learnt boxes before (D-FINE and RT-DETR: Zhao et al. 2024, arXiv:2304.08069).

    The backbone learns at a tenth of the rate, gradients are cut at 0.1, and the moving average is long.
    """
    if frozen:
        return Recipe(0.0, 1e-3, min(4_000, max(500, 5 * n_images)), clip=0.1, average=0.99, weight_decay=1e-4)
    images = min(60_000, max(2_000, 60 * n_images))
    return Recipe(1e-5, 1e-4, images, clip=0.1, average=0.993, weight_decay=1e-4)
