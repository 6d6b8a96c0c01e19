"""What the benchmark of the compiled backend says of its targets; what it measures takes a GPU."""

import pytest
import torch

from benchmarks import compiled
from benchmarks.latency import Floor


def test_targets_are_judged_by_ratio():
    median = {"eager FP32": 0.040, "ONNX Runtime CUDA FP32": 0.024, "compiled FP16": 0.010}
    floor = Floor(0.001, 0.002)
    found = compiled.judged(median, floor, 1)
    assert found["times as fast as eager FP32"] == (pytest.approx(4), 4, True)
    assert found["times as fast as ONNX Runtime CUDA FP32"] == (pytest.approx(2.4), 2.5, False)
    assert compiled.judged(median, floor, 8) == {"times the FP16 floor": (pytest.approx(0.625), 2.5, True)}
    assert not compiled.judged({"compiled FP16": 0.041}, floor, 8)["times the FP16 floor"][2]
    assert compiled.judged(median, floor, 4) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert compiled.main([]) == 2
    assert "PyTorch sees no GPU" in capsys.readouterr().err
