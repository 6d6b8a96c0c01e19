"""The latency benchmark measures what this machine can run and says what it cannot, and why."""

import re

import numpy as np
import pytest
import torch

from benchmarks import latency
from l2g.runtime.backends.eager import EagerBackend
from tests.modeling.small import small_model


@pytest.fixture
def model():
    return small_model()


def test_every_side_and_floor_has_its_row(capsys):
    threads = torch.get_num_threads()
    try:
        assert latency.main(["--model", "l2g_tiny", "--repeats", "2", "--threads", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if re.match(r".{26} +\d+\.\d", line)]
    rows = {line[:26].strip(): [float(cell) for cell in line[26:].split()] for line in table}
    sides = ["eager FP32", "ONNX Runtime CPU FP32"]
    if torch.cuda.is_available():
        sides = ["eager FP32", "eager FP16", "torch.compile FP32"]
    assert {*sides, "floor, arithmetic FP32", "floor, traffic FP32"} <= set(rows)
    for name in sides:
        median, late, rate = rows[name]
        assert 0 < median <= late
        assert rate == pytest.approx(1000 / median, rel=0.1)
    missing = [line for line in lines if line.startswith("not measured: ")]
    assert "not measured: engines (none given with --engines)" in missing
    if not torch.cuda.is_available():
        assert "not measured: ONNX Runtime CUDA (no GPU)" in missing


def test_the_state_goes_on_from_frame_to_frame(model):
    """Every side sees the frames as one video: what it measures is not a first frame over and over."""

    class Recording(EagerBackend):
        resets, valid = [], []

        def step(self, frames, reset):
            self.resets.append(bool(reset[0]))
            self.valid.append(self._state is not None)
            return super().step(frames, reset)

    backend = Recording(model, top_k=3, canvas=(64, 96))
    frames = [np.zeros((1, 64, 96, 3), np.uint8)] * (latency.WARM_UP + 3)
    seconds = latency.measure({"one": backend}, frames)
    assert seconds["one"].shape == (3,)
    assert backend.resets == [True] + [False] * (latency.WARM_UP + 2)
    assert backend.valid == [False] + [True] * (latency.WARM_UP + 2)


def test_a_compiled_side_steps_through_the_compiled_function(model, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda step, **_: lambda *args: calls.append(1) or step(*args))
    backend = latency.CompiledBackend(model, top_k=3, canvas=(64, 96))
    frame = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    found = backend.step(frame, np.array([True]))
    expected = EagerBackend(model, top_k=3, canvas=(64, 96)).step(frame, np.array([True]))
    assert calls == [1]
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_bad_input_is_one_line(capsys):
    assert latency.main(["--model", "no_such_model", "--repeats", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
