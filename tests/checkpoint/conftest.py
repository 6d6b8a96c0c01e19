import pytest
import torch

from l2g import load_checkpoint
from tests import golden
from tests.checkpoint.files import step


@pytest.fixture(scope="module")
def tiny():
    """The tiny fixture's weights in public naming, all 720-style redundant names included."""
    return golden.tiny_state_dict("tiny_seed0")


@pytest.fixture(scope="module")
def tiny_file(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("public") / "model.pth"
    torch.save({"model": tiny}, path)
    return path


@pytest.fixture(scope="module")
def expected(tiny_file):
    return step(load_checkpoint(tiny_file, **golden.TINY))[0]
