"""What the classes of public checkpoints are called, which do not tell; the names are in classes.json."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

_FILE = Path(__file__).parent / "classes.json"
# By whether a model has two stages, the lists that its number of classes may mean: models of semantic segmentation have
# learned queries.
_LISTS = {True: ("coco", "coco_panoptic"), False: ("ade20k_semantic", "cityscapes_semantic")}


@dataclass(frozen=True)
class ClassList:
    """names: in the order of the logits. stuff: the places of those that are stuff."""

    names: tuple[str, ...] = ()
    stuff: tuple[int, ...] = ()


@functools.cache
def class_lists() -> dict[str, ClassList]:
    """By name; things come first."""
    lists = json.loads(_FILE.read_text(encoding="utf-8"))
    return {
        name: ClassList(
            (*found["things"], *found["stuff"]),
            tuple(range(len(found["things"]), len(found["things"]) + len(found["stuff"]))),
        )
        for name, found in lists.items()
    }


def classes_of(count: int, two_stage: bool) -> ClassList:
    """Of a public Mask DINO with so many classes; an empty list where no data set is known to have as many."""
    lists = (class_lists()[name] for name in _LISTS[two_stage])
    return next((found for found in lists if len(found.names) == count), ClassList())


# COCO's 80 names in the order of the public Mask DINO's logits.
COCO_CLASSES = class_lists()["coco"].names
