"""A model small enough to train in a test, and clips for it."""

import pytest
import torch

from l2g import build_model
from l2g.data.synthetic.dataset import synthetic_dataset
from l2g.training.loss.targets import collate
from tests.training.small import SMALL


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Where there is a GPU too: losses are compared to the bit, which its sums are not. A GPU's own: tests/gpu."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def small_model():
    torch.manual_seed(0)
    return build_model("l2g_tiny", **SMALL).train()


@pytest.fixture
def batch():
    dataset = synthetic_dataset("train", size=(64, 96), frames=40)
    return collate([dataset.videos[index].read([0, 4, 8, 12]) for index in (1, 2)])
