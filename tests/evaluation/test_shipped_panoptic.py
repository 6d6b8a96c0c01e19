"""The shipped panoptic weights are what their card says."""

import pytest

from l2g.checkpoint import find_checkpoint, load_checkpoint
from l2g.config import get_config
from l2g.data.registry import load_dataset
from l2g.data.synthetic.panoptic import CATEGORIES
from l2g.evaluation.panoptic import evaluate_panoptic
from l2g.runtime.backends.eager import EagerBackend


def test_it_is_its_preset_with_the_classes_of_the_data():
    model = load_checkpoint("l2g_tiny_panoptic")
    names = tuple(category.name for category in CATEGORIES)
    assert model.config == get_config(
        "l2g_tiny_panoptic", slot_marks=0.03, class_names=names, stuff_classes=(8, 9, 10, 11)
    )
    assert find_checkpoint("l2g_tiny_panoptic").stat().st_size < 16e6


def test_it_scores():
    """Four videos: a run of all 64 is on the card."""
    backend = EagerBackend(load_checkpoint("l2g_tiny_panoptic"))
    dataset = load_dataset("synthetic_panoptic:val", videos=4)
    found = evaluate_panoptic(backend, dataset, progress=False).stats()
    assert [found[name] for name in ("VPQ", "VPQ_things", "VPQ_stuff", "STQ")] == pytest.approx(
        [69.5, 58.4, 91.8, 68.6], abs=0.5
    )
