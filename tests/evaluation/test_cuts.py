"""Evaluation that begins anew at hard cuts: state, identities and results are a scene's."""

import pytest

from l2g.data.classes import match_classes
from l2g.data.registry import load_dataset
from l2g.evaluation.run import ScoringOptions, evaluate_backend, run_dataset
from tests.runtime.blob_dataset import write_blob_dataset
from tests.runtime.blobs import BlobBackend

LENGTH, CUT = 10, 5


class Recorder(BlobBackend):
    def __init__(self):
        super().__init__()
        self.resets = []

    def step(self, frames, reset):
        self.resets.append([bool(row) for row in reset])
        return super().step(frames, reset)


class Second:
    """Finds a cut in the middle of the second video that it looks at, if cuts are looked for."""

    made = 0

    def __init__(self, cuts):
        type(self).made += 1
        self._looks = cuts == "auto" and type(self).made == 2
        self._frames = 0

    def is_cut(self, picture, time):
        assert picture.shape == (64, 96, 3)
        self._frames += 1
        return self._looks and self._frames == CUT + 1


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    Second.made = 0
    monkeypatch.setattr("l2g.evaluation.run.cut_finder", Second)
    return load_dataset(str(write_blob_dataset(tmp_path, (LENGTH, LENGTH))), "valid")


def spans(scorer):
    """(first, last) frame of every result that has a mask."""
    found = set()
    for entry in scorer.results(1, [1, 2, 3]):
        frames = [t for t, mask in enumerate(entry["segmentations"]) if mask]
        if frames:
            found.add((frames[0], frames[-1]))
    return found


def test_a_cut_ends_results_and_identities(dataset):
    backend = Recorder()
    options = ScoringOptions(min_frame_score=0.3, cuts="auto")
    match = match_classes(dataset, backend.contract.class_names)
    scorers = dict(run_dataset(backend, match, streams=2, options=options, progress=False))
    assert [at for at, rows in enumerate(backend.resets) if rows[1]] == [0, CUT]
    assert [at for at, rows in enumerate(backend.resets) if rows[0]] == [0]
    assert any(first == 0 and last == LENGTH - 1 for first, last in spans(scorers[0]))
    assert all(last < CUT or first >= CUT for first, last in spans(scorers[1]))
    seen = scorers[1].seen()
    before, after = (set().union(*part) for part in (seen[:CUT], seen[CUT:]))
    assert before
    assert after
    assert not before & after


def test_unless_asked_for_a_video_is_one_scene(dataset):
    backend = Recorder()
    plain = evaluate_backend(backend, dataset, streams=2, progress=False)
    assert [at for at, rows in enumerate(backend.resets) if any(rows)] == [0]
    Second.made = 0
    cut = evaluate_backend(BlobBackend(), dataset, options=ScoringOptions(cuts="auto"), progress=False)
    # The truth of this data set goes on across the cut, and half a tube is not a whole one.
    assert cut.report.stats["AP"] < plain.report.stats["AP"]
