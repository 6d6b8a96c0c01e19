"""The table of what is found and what is called by its name, on blobs whose every number is known."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import naming
from l2g.data.registry import load_dataset
from tests.runtime.blob_dataset import write_blob_dataset
from tests.runtime.blobs import BlobBackend

# Red and green are in sight in all of 6, 4 and 7 frames, blue from the middle on.
IN_SIGHT = (17, 17, 3 + 2 + 4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_dataset(str(write_blob_dataset(tmp_path_factory.mktemp("blobs"))), "valid")


class Redblind(BlobBackend):
    """Shows no red."""

    def step(self, frames, reset):
        out = super().step(frames, reset)
        out.mask_logits[:, 0] = -1
        return out


class Confused(Redblind):
    """Shows no red, calls green blue, and shows green a second time, in slot 5, without confidence."""

    def step(self, frames, reset):
        out = super().step(frames, reset)
        out.mask_logits[:, 5] = out.mask_logits[:, 1]
        logits = out.logits.copy()
        logits[:, 1] = out.logits[:, 1, [0, 2, 1]]
        logits[:, 5] = (-3, -2, -3)  # rightly called, but the other slot is surer
        return replace(out, logits=logits)


def test_all_blobs_are_found_and_called_right(dataset):
    counts = naming.measure(BlobBackend(), dataset)
    assert counts.visible == sum(IN_SIGHT)
    np.testing.assert_array_equal(counts.named, np.diag(IN_SIGHT))
    assert (counts.found, counts.right) == (1, 1)


def test_the_surest_slot_that_lies_on_an_object_names_it(dataset):
    counts = naming.measure(Confused(), dataset)
    red, green, blue = IN_SIGHT
    np.testing.assert_array_equal(counts.named, [[0, 0, 0], [0, 0, green], [0, 0, blue]])
    assert counts.found == (green + blue) / (red + green + blue)
    assert counts.right == blue / (green + blue)


def test_a_first_frame_knows_nothing_of_the_last(dataset):
    """A blob's logit is 2 and what its slot has seen so far, half of it forgotten every frame."""
    area = {1: 24 * 24 / (64 * 96), 2: 24 * 20 / (64 * 96)}
    only = replace(dataset, videos=dataset.videos[1:2])  # four frames, blue in the last two

    def probability(seen):
        return 1 / (1 + np.exp(-2 - seen))

    once = 4 * probability(area[1]) + 2 * probability(area[2])
    fading = sum(probability(area[1] * (2 - 0.5**t)) for t in range(4))
    fading += sum(probability(area[2] * (2 - 0.5**t)) for t in range(2))
    assert naming.measure(naming.Forgetful(Redblind()), only).probability == pytest.approx(once, abs=1e-5)
    assert naming.measure(Redblind(), only).probability == pytest.approx(fading, abs=1e-5)


def test_the_table(capsys):
    assert naming.main(["--videos", "1", "--confusion"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * (1 + 8)
    for line, how in ((lines[2], "with state"), (lines[11], "each a first frame")):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == ["l2g_tiny", how]
        assert float(cells[2]) > 80
        assert float(cells[3]) > 30
        assert 0 < float(cells[4]) < 1
    rows = [[float(x) for x in line.split()[2:]] for line in lines[3:11]]
    assert all(sum(row) == 0 or sum(row) == pytest.approx(100, abs=0.5) for row in rows)


def test_bad_input_is_one_line(capsys):
    assert naming.main(["--models", "no_such_model"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
