"""What becomes of a model's outputs, and the numbers by which slots are merged into one map."""

from __future__ import annotations

from dataclasses import dataclass

from l2g.contract import TEMPERATURE, GraphContract
from l2g.errors import L2GError

# "instances": each object by itself, masks may overlap. "panoptic": each pixel to one thing or to stuff. "semantic":
# each pixel to the class that the slots together say it has.
TASKS = ("instances", "panoptic", "semantic")

# By the scoring of a model, the least score of a slot. Mask DINO's panoptic configs give 0.25 to scores of a sigmoid;
# to a softmax's Mask2Former's, after which VidEoMT goes, give 0.8.
OBJECT_MASK_THRESHOLDS = {"sigmoid": 0.25, "softmax": 0.8}


@dataclass(frozen=True)
class PanopticOptions:
    """How slots become segments; the defaults are those of Mask DINO's panoptic configs.

    object_mask_threshold: a slot counts where the probability of its best class is above; None is 0.25 where scores
        are a sigmoid's and 0.8 where they are a softmax's.
    overlap_threshold: a slot of which less than this share of its own mask is left to it is dropped, 0..1.
    temperature: scores of a sigmoid are sharpened before slots compete for pixels, by a softmax of the probabilities of
        all classes divided by this; 0 takes them as they are. Those of a softmax are taken as they are.
    min_thing_area, min_stuff_area: segments of fewer pixels of the picture are left out.

    Raises L2GError for a value out of range.
    """

    object_mask_threshold: float | None = None
    overlap_threshold: float = 0.8
    temperature: float = TEMPERATURE
    min_thing_area: int = 0
    min_stuff_area: int = 0

    def __post_init__(self) -> None:
        threshold = self.object_mask_threshold
        for name, value in (("object mask threshold", threshold), ("overlap threshold", self.overlap_threshold)):
            if value is not None and not 0 <= value <= 1:
                raise L2GError(f"{name} {value:g} found, 0..1 expected")
        if not 0 <= self.temperature < float("inf"):
            raise L2GError(f"temperature {self.temperature:g} found, 0 (scores as they are) or more expected")
        for name, area in (("thing", self.min_thing_area), ("stuff", self.min_stuff_area)):
            if area < 0:
                raise L2GError(f"a smallest {name} area of {area} pixels found, 0 or more expected")

    def threshold(self, scoring: str) -> float:
        """The object mask threshold for scores of this kind."""
        given = self.object_mask_threshold
        return OBJECT_MASK_THRESHOLDS[scoring] if given is None else given


def check_task(task: str | None, contract: GraphContract) -> str:
    """The task, where it is None the model's own: "panoptic" for one that knows stuff, "semantic" where that is all it
    knows, else "instances".

    Any may be asked for, whatever the model's classes are. L2GError for a task that there is not, and for "semantic"
    where the model's outputs are chosen detections.
    """
    if task is None:
        all_stuff = len(contract.stuff_classes) == len(contract.class_names) and contract.output_kind == "raw"
        return "semantic" if all_stuff else "panoptic" if contract.stuff_classes else "instances"
    if task not in TASKS:
        raise L2GError(f"task '{task}' found, one of {', '.join(TASKS)} expected")
    if task == "semantic" and contract.output_kind != "raw":
        raise L2GError(
            "the model's outputs are chosen detections, but semantic segmentation needs all slots; export with "
            "--outputs raw"
        )
    return task
