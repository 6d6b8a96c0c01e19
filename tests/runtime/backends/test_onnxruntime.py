"""The ONNX Runtime backend: the tests of every graph library, and what is its own."""

import dataclasses
import json
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")

from l2g.errors import L2GError  # noqa: E402
from l2g.provenance import BuildFacts  # noqa: E402
from l2g.runtime.backends.eager import EagerBackend  # noqa: E402
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend  # noqa: E402
from l2g.runtime.backends.open import open_backend  # noqa: E402
from tests.exported import small_graph  # noqa: E402
from tests.modeling.small import HEIGHT, WIDTH  # noqa: E402
from tests.runtime.backends.graph_suite import (  # noqa: E402, F401
    assert_close,
    backend,
    model,
    pictures,
    test_a_contract_that_does_not_hold_is_refused,
    test_a_contract_that_is_no_json_is_refused,
    test_a_graph_with_other_tensors_than_its_contract_is_refused,
    test_a_graph_without_a_contract_is_refused,
    test_a_state_of_other_shape_is_refused,
    test_a_written_state_continues_as_if_it_were_its_own,
    test_arrays_belong_to_the_caller,
    test_detections_are_those_of_eager,
    test_files_that_are_no_graph,
    test_four_frames_equal_eager,
    test_frames_off_the_canvas_are_refused,
    test_other_numbers_of_streams_need_write_state,
    test_reset_forgets_one_stream_only,
    test_streams_come_and_go_as_if_each_were_alone,
    test_the_first_step_is_fresh_whatever_it_is_told,
    test_three_hundred_frames_stay_finite_and_as_lively_as_the_first,
    test_what_an_invalid_row_holds_never_shows_and_nan_in_a_valid_one_is_survived,
)


def test_the_contract_is_that_of_the_model(model, backend):  # noqa: F811
    eager = EagerBackend(model).contract
    assert dataclasses.replace(backend.contract, build=BuildFacts(), model={}) == dataclasses.replace(
        eager, build=BuildFacts(), model={}
    )
    assert backend.contract.model == json.loads(json.dumps(model.config.to_dict()))
    assert backend.device == "cpu"


def test_the_state_stays_in_two_buffers_that_swap(backend):  # noqa: F811
    places = []
    for time in range(5):
        backend.step(pictures(time), np.full(2, time == 0))
        places.append(backend._current["queries"].data_ptr())
    assert len(set(places)) == 2
    assert places[0] == places[2] == places[4] != places[1] == places[3]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]),
        (["CUDAExecutionProvider"], [("CUDAExecutionProvider", {"use_tf32": "0"})]),
        ([("CUDAExecutionProvider", {"device_id": 1})], [("CUDAExecutionProvider", {"device_id": 1})]),
        (["CPUExecutionProvider"], ["CPUExecutionProvider"]),
    ],
)
def test_cuda_computes_fp32_unless_told_otherwise(asked, expected, monkeypatch):
    """An H200 with TF32 is 0.34 apart in a mask's logits, where a thousandth is allowed; tests/gpu has it for real."""
    graph, seen = small_graph(), []

    def session(path, options, providers):
        seen.append(providers)
        raise RuntimeError("enough")

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", session)
    with pytest.raises(L2GError, match="cannot open it"):
        OnnxRuntimeBackend(graph, providers=asked)
    assert seen == [expected]


def test_providers_and_threads_that_are_not_there():
    with pytest.raises(L2GError, match=r"'TpuProvider' asked for, this ONNX Runtime has .*pip install 'l2g\[gpu\]'"):
        OnnxRuntimeBackend(small_graph(), providers=["TpuProvider"])
    with pytest.raises(L2GError, match="0 threads asked for"):
        OnnxRuntimeBackend(small_graph(), threads=0)


def test_open_backend_takes_graphs(tmp_path):
    opened = open_backend(small_graph(), top_k=None, canvas=(HEIGHT, WIDTH), portrait=True, class_names=None)
    assert isinstance(opened, OnnxRuntimeBackend)
    with pytest.raises(L2GError, match="canvas 96x64 asked for, but the graph's is fixed at 64x96; export another"):
        open_backend(small_graph(), canvas=(96, 64))
    with pytest.raises(L2GError, match="num queries given, which only a checkpoint takes"):
        open_backend(small_graph(), num_queries=10)


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "l2g.runtime.backends.onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(L2GError, match=r"'onnxruntime' is not installed; install it with: pip install 'l2g\[cpu\]'"):
        open_backend(small_graph())
