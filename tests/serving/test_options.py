"""Which strategy is chosen, and what is refused by name."""

import pytest

from l2g.errors import ConfigError
from l2g.serving.options import ServingOptions, batching, check_numpy, gpu_of_instance


@pytest.mark.parametrize(
    ("how", "most", "expected"),
    [
        ({"streams": 4}, None, ("direct", 4, 0, ())),
        ({"streams": 8}, None, ("direct", 8, 0, ())),
        ({"streams": 9}, None, ("oldest", 8, 9, ())),
        ({"streams": 9, "instances": 2}, None, ("direct", 8, 0, ())),
        ({"streams": 100, "instances": 3, "delay": 0.01}, None, ("oldest", 8, 34, (8,))),
        ({"streams": 100, "preferred": (2, 4)}, None, ("oldest", 8, 100, (2, 4))),
        ({"streams": 6}, 4, ("oldest", 4, 6, ())),
        ({"streams": 3, "strategy": "oldest", "batch": 5}, None, ("oldest", 5, 5, ())),
    ],
)
def test_the_strategy_by_the_streams(how, most, expected):
    found = batching(ServingOptions(**how), most)
    assert (found.strategy, found.batch, found.candidates, found.preferred) == expected
    assert found.why.startswith(found.strategy)


@pytest.mark.parametrize(
    ("how", "most", "said"),
    [
        ({"streams": 9, "strategy": "direct"}, None, r"9 streams found for 8 slots.*--strategy oldest"),
        ({"streams": 9, "batch": 9}, 4, "batch 9 found, but the engine was built for at most 4 streams"),
        ({"preferred": (2,)}, None, "of the oldest strategy"),
        ({"streams": 9, "preferred": (2, 9)}, None, "preferred batch size 9 found, 1 to 8"),
    ],
)
def test_what_does_not_fit_the_streams(how, most, said):
    with pytest.raises(ConfigError, match=said):
        batching(ServingOptions(**how), most)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"backend": "openvino"}, "OpenVINO backend has no implicit state.*--library openvino"),
        ({"backend": "onnxruntime", "warm_up": True}, "implicit state found, which Triton refuses to load"),
        ({"backend": "onnxruntime", "library": "openvino"}, "library given, which only the python backend takes"),
        ({"backend": "onnxruntime", "server": "23.10"}, "one buffer for a state.*23.11"),
        ({"server": "23.04"}, "l2g_streams.*23.05"),
        ({"server": "new"}, "its release, such as 25.08"),
        ({"backend": "tflite"}, "backend 'tflite' found"),
        ({"streams": 0}, "streams 0 found"),
        ({"batch": 0}, "batch 0 found"),
        ({"idle": 0.0}, "an idle time of 0 s"),
        ({"versions": "0"}, "versions '0' found"),
        ({"score_threshold": 2.0}, "score threshold .* 2 found"),
        ({"cuts": "sometimes"}, "sometimes"),
        ({"device": "\ud800"}, "device .* found, cpu or cuda"),
        ({"device": "cpu\nx"}, "device .* found, cpu or cuda"),
        ({"device": "cuda:1"}, "device 'cuda:1' found, cpu or cuda"),
        ({"device": "GPU"}, "device 'GPU' found, cpu or cuda, or --library openvino"),
        ({"library": "openvino", "device": "AUTO:GPU,CPU"}, "'AUTO:GPU,CPU' found, CPU, GPU, NPU or AUTO"),
        ({"library": "openvino", "device": "cuda"}, "device 'cuda' found, CPU, GPU"),
        ({"library": "openvino", "gpu": True}, "--gpu found, which is of CUDA.*--device GPU"),
        ({"gpu": True, "device": "cpu"}, "--gpu found, which is of CUDA"),
        ({"precision": "bf16"}, "add --library openvino"),
    ],
)
def test_what_is_refused(how, said):
    with pytest.raises(Exception, match=said) as caught:
        ServingOptions(**how)
    assert isinstance(caught.value, ConfigError) or "cuts" in how


@pytest.mark.parametrize("device", ["CPU", "gpu.1", "AUTO", "NPU"])
def test_the_devices_of_openvino_are_taken(device):
    assert ServingOptions(library="openvino", device=device, precision="bf16").device == device


def test_a_release_that_can_is_taken():
    assert ServingOptions(backend="onnxruntime", server="23.11").server == "23.11"
    assert ServingOptions(server="23.05").warms_up
    assert not ServingOptions(backend="onnxruntime").warms_up


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [("1", None, "1"), ("0", "2,3", "2"), ("1", "GPU-a, GPU-b", "GPU-b"), ("0", "", "0")],
)
def test_an_instance_sees_its_gpu(device, visible, expected):
    assert gpu_of_instance(device, visible) == expected


def test_numpy_2_and_a_server_that_cannot_send_it():
    with pytest.raises(ConfigError, match=r"NumPy 2\.4\.6 .* Triton 24\.10, .*sends empty tensors"):
        check_numpy("2.4.6", "24.10")
    check_numpy("2.4.6", "24.12")
    check_numpy("1.26.4", "24.10")
    check_numpy("2.4.6", "")
