"""A detector on a smaller backbone learns from one on a larger: scores and boxes, place by place.

Both have the same grid of places, so that each place of the student has one answer of the teacher to come near to.
Scores by the quality focal loss (Li et al. 2020, arXiv:2006.04388) with the teacher's scores as goal, boxes by the
generalized IoU where the teacher sees something. Import only inside functions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from budwood.core.errors import StepError
from budwood.engine.box_augment import Scene
from budwood.engine.detector_loss import BOX_WEIGHT, detection_loss, generalized_iou
from budwood.engine.detector_network import Detector
from budwood.engine.detector_training import Learn, Pictures

__all__ = ["guided", "inherit_head", "soft_detection_loss"]

SEEN = 0.05
"""The teacher's score from which its box counts."""
SHARPNESS = 2.0


def guided(teacher: Any, shown: Pictures, pictures: Pictures, hard: float) -> Learn:
    """The loss of a student on varied images: `hard` of the true boxes, the rest of the teacher's answers.

    Args:
        shown, pictures: how teacher and student read the same images.
    """
    teacher.eval()

    def learn(student: Any, scenes: Sequence[Scene]) -> Tensor:
        values, targets = pictures.batch(scenes)
        outputs = student(values)
        with torch.no_grad():
            wanted = teacher(shown.batch(scenes)[0])
        soft = soft_detection_loss(outputs, wanted)
        return hard * detection_loss(outputs, targets, student.centres, student.strides) + (1 - hard) * soft

    return learn


def soft_detection_loss(outputs: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """How far scores and boxes of all places are from the teacher's; a scalar, 0 where they agree."""
    goal, own = wanted["logits"].sigmoid(), outputs["logits"].sigmoid()
    # The cross-entropy without the goal's own entropy, so that agreement costs nothing.
    each = functional.binary_cross_entropy(own, goal, reduction="none")
    each = each - functional.binary_cross_entropy(goal, goal, reduction="none")
    scores = (each * (goal - own.detach()).abs() ** SHARPNESS).sum() / goal.sum().clamp(min=1.0)
    strength = goal.amax(dim=2)
    seen = strength > SEEN
    if not bool(seen.any()):
        return scores
    apart = 1 - generalized_iou(outputs["boxes"][seen], wanted["boxes"][seen])
    return scores + BOX_WEIGHT * (apart * strength[seen]).sum() / strength[seen].sum()


def inherit_head(student: Any, teacher: Any) -> list[str]:
    """Give the student the teacher's head but for what depends on the backbone's channels; names of what is new.

    Raises:
        StepError: one of them is a detector of transformers, whose answers belong to queries and not to places, or the
            grids differ.
    """
    for name, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model, Detector):
            raise StepError(
                f"the {name} is a detector of transformers, whose answers are not bound to places",
                where="shrink.distill_detector",
                fix="adapt the smaller base by itself: budwood adapt --base",
            )
    if student.centres.shape != teacher.centres.shape or not torch.equal(student.centres, teacher.centres):
        raise StepError(
            "teacher and student have other grids",
            where="shrink.distill_detector",
            fix="pass a student whose maps have strides of 8, 16 and 32, as the teacher's",
        )
    own = student.head.state_dict()
    given = teacher.head.state_dict()
    fits = {name: item for name, item in given.items() if name in own and own[name].shape == item.shape}
    student.head.load_state_dict(own | fits)
    return sorted(set(own) - set(fits))
