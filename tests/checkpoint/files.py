"""Checkpoint files for tests: written, loaded, refused."""

import pytest
import torch

from l2g import load_checkpoint
from l2g.errors import CheckpointError
from tests.modeling.small import frames

PREDICTOR = "sem_seg_head.predictor."


def step(model, state=None):
    with torch.inference_mode():
        return model.step(frames(1), state)


def save(tensors, path, container="model"):
    torch.save({container: tensors} if container else tensors, path)
    return path


def refused(path, *parts, **arguments):
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path, **arguments)
    message = str(error.value)
    assert message.startswith(str(path)), message
    for part in parts:
        assert part in message, message
    return message
