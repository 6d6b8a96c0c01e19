"""The OpenVINO backend does what the ONNX Runtime backend does, and computes in the precision that is stated."""

import dataclasses
import tracemalloc

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
ov = pytest.importorskip("openvino")

from l2g.artifacts.onnx_file import read_contract, read_model, with_contract, with_sum  # noqa: E402
from l2g.contract import METADATA_KEY, GraphContract  # noqa: E402
from l2g.errors import ContractError, L2GError  # noqa: E402
from l2g.export.exporter import ExportOptions, build_graph, contract_of, reduced_graph  # noqa: E402
from l2g.files import cache_root  # noqa: E402
from l2g.provenance import BuildFacts  # noqa: E402
from l2g.runtime.backends.base import HostState  # noqa: E402
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend  # noqa: E402
from l2g.runtime.backends.open import open_backend  # noqa: E402
from l2g.runtime.backends.openvino import backend as library  # noqa: E402
from l2g.runtime.backends.openvino import kept as kept_models  # noqa: E402
from l2g.runtime.backends.openvino import marks  # noqa: E402
from l2g.runtime.backends.openvino.audit import fact_of  # noqa: E402
from l2g.runtime.backends.openvino.backend import OpenVinoBackend, native_precisions  # noqa: E402
from tests.exported import edited, exported_model, scale_one_weight, small_graph  # noqa: E402
from tests.runtime.backends import graph_suite as suite  # noqa: E402

# The same tests as ONNX Runtime's, with this backend in its place.
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

HAS_BF16 = "bf16" in native_precisions()
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no BF16")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(suite, "GraphBackend", OpenVinoBackend)
    monkeypatch.setenv("L2G_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def bf16_graph(tmp_path_factory):
    """The small model in BF16 with its islands, and the float32 graph that it was made from."""
    folder = tmp_path_factory.mktemp("bf16")
    options = ExportOptions(opset=20)
    contract = contract_of(exported_model(), options)
    float32 = build_graph(exported_model(), contract, options)
    paths = {}
    for precision, graph in (("fp32", float32), ("bf16", reduced_graph(float32, "bf16"))):
        build = with_sum(BuildFacts(precision=precision), graph)
        paths[precision] = folder / f"{precision}.onnx"
        paths[precision].write_bytes(with_contract(graph, dataclasses.replace(contract, build=build)))
    return paths


def settings_of(monkeypatch, path, **how):
    """The properties that a graph is compiled with."""
    seen = []
    compile_model = ov.Core.compile_model

    def spy(core, compiled, device, settings):
        seen.append(settings)
        return compile_model(core, compiled, device, settings)

    monkeypatch.setattr(ov.Core, "compile_model", spy)
    OpenVinoBackend(path, **how).close()
    return seen[-1]


def test_the_librarys_default_precision_is_never_used(monkeypatch):
    """Whatever the CPU: the hint that was set, and what the library says that it took."""
    settings = settings_of(monkeypatch, small_graph())
    assert settings["INFERENCE_PRECISION_HINT"] == "f32"
    assert settings["EXECUTION_MODE_HINT"] == "ACCURACY"
    assert OpenVinoBackend(small_graph()).hint == "f32"


@pytest.mark.parametrize("cached", [False, True])
def test_a_library_that_takes_another_precision_is_refused(monkeypatch, cached, tmp_path):
    """Compiled here, or kept from before."""
    monkeypatch.setenv("L2G_CACHE", str(tmp_path))
    if cached:
        OpenVinoBackend(small_graph()).close()
    monkeypatch.setattr(ov.CompiledModel, "get_property", lambda compiled, name: ov.Type.bf16)
    with pytest.raises(L2GError, match="was told to compute in f32 and says that it computes in bf16"):
        OpenVinoBackend(small_graph(), cached=cached)


@needs_bf16
def test_what_the_default_would_have_cost(monkeypatch):
    """The trap is there: without a word the library computes in bfloat16, far from what is computed in float32."""
    right = OpenVinoBackend(small_graph(), cached=False).step(pictures(0), np.full(2, True))
    reference = OnnxRuntimeBackend(small_graph()).step(pictures(0), np.full(2, True))
    compiled = ov.Core().compile_model(str(small_graph()), "CPU")
    zeros = {spec.name: np.zeros(spec.sized(2), spec.dtype) for spec in suite_contract().inputs}
    default = compiled({**zeros, "frames": pictures(0)})
    assert np.abs(right.logits - reference.logits).max() < 1e-4
    assert np.abs(np.sort(default["logits"], axis=None) - np.sort(reference.logits, axis=None)).max() > 1e-3


def test_results_are_there_once():
    """Left alone, the library's Python copies all of them at the end of a step."""
    backend = OpenVinoBackend(small_graph())  # noqa: F811
    backend.step(pictures(0), np.full(2, True))
    tracemalloc.start()
    outputs = backend.step(pictures(1), np.full(2, False))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1.4 * sum(array.nbytes for array in outputs.arrays().values())


def suite_contract():
    return read_contract(read_model(small_graph()), small_graph())


def test_the_state_stays_in_two_buffers_that_swap(backend):  # noqa: F811
    places = []
    for time in range(5):
        backend.step(pictures(time), np.full(2, time == 0))
        places.append(backend._current["queries"].ctypes.data)
    assert len(set(places)) == 2
    assert places[0] == places[2] == places[4] != places[1] == places[3]


def test_a_poisoned_stream_stays_poisoned_until_it_is_reset(backend):  # noqa: F811
    """OpenVINO's Relu and Max make numbers of NaN: the stream would look healthy."""
    backend.step(pictures(0), np.array([True, True]))
    state = backend.read_state()
    state.tensors["prior_queries"][0, 0, 0] = np.nan
    backend.write_state(state)
    for time in (1, 2):
        found = backend.step(pictures(time), np.zeros(2, bool))
        assert np.isnan(found.logits[0]).all()
        assert np.isnan(found.queries[0]).all()
        assert np.isfinite(found.logits[1]).all()
    assert np.isnan(backend.read_state().tensors["prior_queries"][0]).all()
    assert np.isfinite(backend.step(pictures(3), np.array([True, False])).logits).all()


def test_detections_of_a_poisoned_stream_have_no_scores():
    backend = OpenVinoBackend(small_graph(4), threads=1)  # noqa: F811
    backend.step(pictures(0), np.array([True, True]))
    state = backend.read_state().changed(lambda tensor: np.full_like(tensor, np.inf))
    backend.write_state(HostState(state.tensors, np.array([True, False])))
    found = backend.step(pictures(1), np.zeros(2, bool))
    assert np.isnan(found.scores[0]).all()
    assert np.isfinite(found.scores[1]).all()


# Precisions


def sums_of_samples(backend):  # noqa: F811
    """What the sums of deformable attention are computed in, one for each layer."""
    layers = backend._compiled.get_runtime_model().get_ops()
    sums = [node for node in layers if fact_of(node, "layerType").startswith("EmbeddingBag")]
    return [fact_of(node, "runtimePrecision") for node in sums]


@needs_bf16
def test_a_bf16_graph_is_computed_in_its_own_types(bf16_graph):
    backend = OpenVinoBackend(bf16_graph["bf16"], cached=False)  # noqa: F811
    assert (backend.precision, backend.hint) == ("bf16", "bf16")
    found = backend.audit()
    assert found.asked == "bf16"
    assert found.share > 0.95
    assert found.flops["unknown"] == 0
    assert found.flops["fp32"] > 0, "the islands"
    assert set(sums_of_samples(backend)) == {"f32"}
    float32 = OpenVinoBackend(bf16_graph["fp32"], cached=False)
    audited = float32.audit()
    assert (audited.share, audited.flops["fp32"]) == (1.0, sum(found.flops.values()))


@needs_bf16
def test_islands_stay_float32_by_their_marks_and_a_library_that_loses_them_is_noticed(bf16_graph, monkeypatch):
    streams = np.full(2, True)
    right = OpenVinoBackend(bf16_graph["fp32"], cached=False).step(pictures(0), streams)
    fast = OpenVinoBackend(bf16_graph["bf16"], cached=False)
    lowered = OpenVinoBackend(bf16_graph["fp32"], precision="bf16", cached=False).step(pictures(0), streams)
    # A mark that means nothing to the library: its explicit types are used in its place.
    monkeypatch.setitem(marks._MARK, "value", "dynamic:f64")
    typed = OpenVinoBackend(bf16_graph["bf16"], cached=False)
    assert (fast.hint, typed.hint) == ("bf16", "dynamic")

    def error(found):
        return np.abs(np.sort(found.logits, axis=1) - np.sort(right.logits, axis=1)).mean()

    with_islands = error(fast.step(pictures(0), streams))
    assert with_islands < 0.7 * error(lowered)
    assert with_islands == pytest.approx(error(typed.step(pictures(0), streams)), rel=0.5)


def test_the_audit_counts_what_the_graph_holds():
    from l2g.export.graph.flops import count_flops, shapes_for_one_stream

    model = read_model(small_graph())  # noqa: F811
    counted, uncounted = count_flops(model, shapes_for_one_stream(model))
    audited = OpenVinoBackend(small_graph(), cached=False).audit()
    assert uncounted == 0
    assert sum(audited.flops.values()) == sum(counted.values())
    assert audited.flops["unknown"] == 0


@needs_bf16
def test_the_audit_sees_a_float32_graph_lowered_to_bf16():
    lowered = OpenVinoBackend(small_graph(), precision="bf16", cached=False)
    assert lowered.hint == "bf16"
    found = lowered.audit()
    assert found.share > 0.95
    # What deformable attention samples OpenVINO sums in float32 whatever it is told.
    assert all("/DeformableAttention/" in name for name, _ in found.wider)
    lowered.precision = "fp32"
    assert lowered.audit().share < 0.1


def test_a_precision_that_the_device_lacks_is_refused(tmp_path, monkeypatch, bf16_graph):
    monkeypatch.setattr(library, "native_precisions", lambda device: ("fp32",))
    with pytest.raises(L2GError, match=r"BF16 asked for, but CPU has no BF16 arithmetic .* --precision fp32"):
        OpenVinoBackend(bf16_graph["bf16"])
    with pytest.raises(L2GError, match="BF16 asked for"):
        OpenVinoBackend(small_graph(), precision="bf16")
    # Said of the integers alone: what is around them counts, too.
    bare, contract = read_model(bf16_graph["bf16"]), read_contract(read_model(bf16_graph["bf16"]), bf16_graph["bf16"])
    del bare.metadata_props[:]
    graph, around = bare.SerializeToString(), tmp_path / "around.onnx"
    build = with_sum(BuildFacts(precision="int8"), graph)
    around.write_bytes(with_contract(graph, dataclasses.replace(contract, build=build)))
    with pytest.raises(L2GError, match="BF16 asked for, but CPU has no BF16 arithmetic"):
        OpenVinoBackend(around)
    with pytest.raises(L2GError, match="precision 'int4' found, one of fp32, bf16, fp16 expected"):
        OpenVinoBackend(small_graph(), precision="int4")
    # Said in so many words it is done, where the processor has no BF16; one that has computes it so all the same.
    if HAS_BF16:
        with pytest.raises(L2GError, match=r"FP32 asked for, but of its layers OpenVINO computes \d+ in BF16"):
            OpenVinoBackend(bf16_graph["bf16"], precision="fp32")
    else:
        assert OpenVinoBackend(bf16_graph["bf16"], precision="fp32").hint == "f32"


def test_devices_and_threads_that_are_not_there():
    with pytest.raises(L2GError, match=r"device 'TPU' asked for, OpenVINO has CPU.* AUTO here"):
        OpenVinoBackend(small_graph(), device="tpu")
    with pytest.raises(L2GError, match="0 threads asked for"):
        OpenVinoBackend(small_graph(), threads=0)


def test_auto_runs_and_keeps_the_precision():
    automatic = OpenVinoBackend(small_graph(), device="auto", cached=False)
    assert automatic.hint == "f32"
    found = automatic.step(pictures(0), np.full(2, True))
    expected = OnnxRuntimeBackend(small_graph()).step(pictures(0), np.full(2, True))
    assert_close(found, expected)


# The cache


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """How often OpenVINO compiled, or read, a model; with a cache of one's own."""
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "own"))
    monkeypatch.delenv("L2G_KEEP_GRAPHS", raising=False)
    calls = []
    for name in ("compile_model", "read_model"):
        whole = getattr(ov.Core, name)

        def noted(core, *given, _name=name, _whole=whole):
            calls.append(_name)
            return _whole(core, *given)

        monkeypatch.setattr(ov.Core, name, noted)
    return calls


def kept():
    return {path: path.read_bytes() for path in (cache_root() / "openvino").glob("*.blob")}


def test_a_model_is_compiled_once(compiled):
    expected = OpenVinoBackend(small_graph(), cached=False).step(pictures(0), np.full(2, True))
    assert not kept()
    first = OpenVinoBackend(small_graph())
    found, blobs = first.step(pictures(0), np.full(2, True)), kept()
    assert len(blobs) == 1
    compiled.clear()
    again = OpenVinoBackend(small_graph())
    assert compiled == []
    assert kept() == blobs
    assert again.contract == first.contract
    assert again._compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32
    for outputs in (found, again.step(pictures(0), np.full(2, True))):
        for name, array in outputs.arrays().items():
            np.testing.assert_array_equal(array, getattr(expected, name))
    assert again.audit().share == 1.0


def test_other_threads_code_or_a_changed_graph_are_other_models(compiled, tmp_path, monkeypatch):
    OpenVinoBackend(small_graph()).close()
    OpenVinoBackend(small_graph(), threads=1).close()
    assert len(kept()) == 2
    path = tmp_path / "graph.onnx"
    path.write_bytes(small_graph().read_bytes())
    before = OpenVinoBackend(path).step(pictures(0), np.full(2, True))
    assert len(kept()) == 2  # the same bytes
    path.write_bytes(edited(path, scale_one_weight, tmp_path / "other.onnx").read_bytes())
    after = OpenVinoBackend(path).step(pictures(0), np.full(2, True))
    assert len(kept()) == 3
    assert np.abs(after.logits - before.logits).max() > 1e-3
    monkeypatch.setattr(kept_models, "_own_sum", lambda: "of other code")
    OpenVinoBackend(small_graph()).close()
    assert len(kept()) == 4
    if HAS_BF16:  # and so is another precision
        OpenVinoBackend(small_graph(), precision="bf16").close()
        assert len(kept()) == 5


def test_what_is_refused_is_not_kept(compiled, monkeypatch):
    monkeypatch.setattr(library, "layer_precisions", lambda runtime: {"bf16": 3})
    with pytest.raises(L2GError, match="FP32 asked for, but of its layers OpenVINO computes 3 in BF16"):
        OpenVinoBackend(small_graph())
    assert not kept()
    monkeypatch.undo()


def test_nothing_is_kept_where_nothing_shall_be(compiled, monkeypatch):
    monkeypatch.setenv("L2G_KEEP_GRAPHS", "0")
    OpenVinoBackend(small_graph()).close()
    assert not cache_root().exists()


def test_a_damaged_cache_is_no_reason_to_fail(monkeypatch, tmp_path):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path))
    first = OpenVinoBackend(small_graph()).step(pictures(0), np.full(2, True))
    (blob,) = kept()
    whole = blob.read_bytes()
    for damaged in (whole[:200], whole[:-1], b"", whole[:-200] + bytes([whole[-200] ^ 1]) + whole[-199:]):
        blob.write_bytes(damaged)
        assert_close(OpenVinoBackend(small_graph()).step(pictures(0), np.full(2, True)), first)
        assert blob.read_bytes() != damaged
    monkeypatch.setenv("L2G_CACHE", "/proc/nowhere")
    assert_close(OpenVinoBackend(small_graph()).step(pictures(0), np.full(2, True)), first)


# Opening


def test_open_backend_takes_the_library(monkeypatch):
    assert isinstance(open_backend(small_graph(), library="openvino", device="CPU"), OpenVinoBackend)
    assert isinstance(open_backend(small_graph(), library="onnxruntime", device="cpu"), OnnxRuntimeBackend)
    with pytest.raises(L2GError, match="library 'tflite' found, one of onnxruntime, openvino expected"):
        open_backend(small_graph(), library="tflite")
    with pytest.raises(L2GError, match="precision given, which ONNX Runtime takes from the graph"):
        open_backend(small_graph(), precision="bf16")
    with pytest.raises(L2GError, match="library given, which only an exported graph takes"):
        open_backend("l2g_tiny", library="openvino")
    monkeypatch.delitem(__import__("sys").modules, "l2g.runtime.backends.openvino.backend")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(L2GError, match=r"'openvino' is not installed; install it with: pip install 'l2g\[openvino\]'"):
        open_backend(small_graph(), library="openvino")


def test_onnxruntime_says_what_runs_a_bf16_graph(bf16_graph):
    with pytest.raises(L2GError, match="ONNX Runtime's CPU has no BF16; run it with --library openvino"):
        OnnxRuntimeBackend(bf16_graph["bf16"], providers=["CPUExecutionProvider"])


def test_the_contract_says_nothing_of_the_library():
    text = {prop.key: prop.value for prop in onnx.load(small_graph()).metadata_props}[METADATA_KEY]
    assert OpenVinoBackend(small_graph()).contract.to_json() == GraphContract.from_json(text).to_json()
    with pytest.raises(ContractError):
        OpenVinoBackend(small_graph()).step(np.zeros((1, 8, 8, 3), np.uint8), np.full(1, True))


# Eight bits


@pytest.fixture(scope="module")
def int8_graphs(bf16_graph, tmp_path_factory):
    """The small model with its default set on eight bits: FP32 around it, and BF16. The ranges are anything."""
    from l2g.calibration.placement import LAYOUTS, quantise
    from l2g.calibration.ranges import Interval
    from l2g.calibration.units import take_inventory

    folder = tmp_path_factory.mktemp("int8")
    float32 = read_model(bf16_graph["fp32"])
    contract = read_contract(float32, bf16_graph["fp32"])
    inventory = take_inventory(float32)
    nodes = inventory.nodes(inventory.default)
    graph = quantise(float32, nodes, lambda tensor: Interval(-4.0, 4.0), LAYOUTS["openvino"])
    del graph.metadata_props[:]
    content = graph.SerializeToString()
    paths = {}
    for scales, data in (("fp32", content), ("bf16", reduced_graph(content, "bf16"))):
        build = with_sum(BuildFacts(precision="int8"), data)
        paths[scales] = folder / f"{scales}.onnx"
        paths[scales].write_bytes(with_contract(data, dataclasses.replace(contract, build=build)))
    return paths, inventory.share(inventory.default)


@pytest.mark.parametrize("scales", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_eight_bits_are_computed_in_eight_bits(int8_graphs, scales):
    paths, share = int8_graphs
    backend = OpenVinoBackend(paths[scales], cached=False)  # noqa: F811
    audited = backend.audit()
    total = sum(audited.flops.values())
    assert (audited.asked, audited.share) == ("int8", 1.0)
    assert 100 * audited.flops["int8"] / total == pytest.approx(share, abs=0.1)
    assert audited.flops["unknown"] == 0
    assert backend.hint == {"fp32": "dynamic", "bf16": "bf16"}[scales]
    assert set(sums_of_samples(backend)) == {"f32"}
    if scales == "bf16":
        assert audited.flops["bf16"] > audited.flops["fp32"]
    else:
        assert audited.flops["bf16"] == 0
    assert np.isfinite(backend.step(pictures(0), np.full(2, True)).logits).all()
