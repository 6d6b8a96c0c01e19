"""What a graph is computed in is what was asked for, or is told, or the graph is refused."""

import dataclasses
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ov = pytest.importorskip("openvino")

from l2g.artifacts.onnx_file import read_contract, read_model  # noqa: E402
from l2g.contract import GraphContract  # noqa: E402
from l2g.errors import ContractError, EngineError, L2GError  # noqa: E402
from l2g.provenance import BuildFacts  # noqa: E402
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend  # noqa: E402
from l2g.runtime.backends.openvino import audit, marks  # noqa: E402
from l2g.runtime.backends.openvino import backend as library  # noqa: E402
from l2g.runtime.backends.openvino.audit import fact_of  # noqa: E402
from l2g.runtime.backends.openvino.backend import OpenVinoBackend, native_precisions  # noqa: E402
from l2g.runtime.video.job import _runner  # noqa: E402
from tests.exported import small_graph  # noqa: E402
from tests.runtime.backends.graph_suite import pictures  # noqa: E402

HAS_BF16 = "bf16" in native_precisions()
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no BF16")
STREAMS = np.full(2, True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("L2G_KEEP_GRAPHS", raising=False)


@pytest.fixture
def without_bf16(monkeypatch):
    monkeypatch.setattr(library, "native_precisions", lambda device="CPU": ("fp32",))


def settings_of(monkeypatch, path, has=("fp32", "bf16"), **how):
    """The properties that a device of these precisions is told to compile a graph with."""
    seen = []

    def spy(core, compiled, device, settings):
        seen.append(settings)
        raise RuntimeError("seen")

    monkeypatch.setattr(library, "native_precisions", lambda device="CPU": has)
    monkeypatch.setattr(ov.Core, "compile_model", spy)
    with pytest.raises(L2GError, match="cannot compile it for CPU: seen"):
        OpenVinoBackend(path, cached=False, **how)
    return seen[-1]["EXECUTION_MODE_HINT"], seen[-1]["INFERENCE_PRECISION_HINT"]


@pytest.mark.parametrize(
    ("graph", "has", "asked", "settings"),
    [
        ("fp32", ("fp32", "bf16"), None, ("ACCURACY", "f32")),
        ("fp32", ("fp32", "bf16"), "bf16", ("PERFORMANCE", "bf16")),
        ("bf16", ("fp32", "bf16"), None, ("PERFORMANCE", "bf16")),
        ("bf16", ("fp32", "bf16"), "fp32", ("ACCURACY", "f32")),
        ("bf16", ("fp32",), None, ("ACCURACY", "f32")),
        ("int8 + fp32", ("fp32", "bf16"), None, ("ACCURACY", "f32")),
        ("int8 + bf16", ("fp32", "bf16"), None, ("PERFORMANCE", "bf16")),
        ("int8 + bf16", ("fp32",), None, ("ACCURACY", "f32")),
    ],
)
def test_the_librarys_default_precision_is_never_used(monkeypatch, typed_graphs, graph, has, asked, settings):
    """Whatever the CPU."""
    assert settings_of(monkeypatch, typed_graphs[graph], has, precision=asked) == settings


@pytest.fixture
def typed_graphs(bf16_graph, int8_graphs):
    return bf16_graph | {f"int8 + {scales}": path for scales, path in int8_graphs[0].items()}


@pytest.mark.parametrize("cached", [False, True])
def test_a_library_that_takes_another_precision_is_refused(monkeypatch, cached):
    """Compiled here, or kept from before."""
    if cached:
        OpenVinoBackend(small_graph()).close()
    monkeypatch.setattr(ov.CompiledModel, "get_property", lambda compiled, name: ov.Type.bf16)
    with pytest.raises(L2GError, match="was told to compute in f32 and says that it computes in bf16"):
        OpenVinoBackend(small_graph(), cached=cached)


@needs_bf16
def test_what_the_default_would_have_cost():
    """The trap is there: without a word the library computes in bfloat16, far from what is computed in float32."""
    right = OpenVinoBackend(small_graph(), cached=False).step(pictures(0), STREAMS)
    reference = OnnxRuntimeBackend(small_graph()).step(pictures(0), STREAMS)
    compiled = ov.Core().compile_model(str(small_graph()), "CPU")
    contract = read_contract(read_model(small_graph()), small_graph())
    zeros = {spec.name: np.zeros(spec.sized(2), spec.dtype) for spec in contract.inputs}
    default = compiled({**zeros, "frames": pictures(0)})
    assert np.abs(right.logits - reference.logits).max() < 1e-4
    assert np.abs(np.sort(default["logits"], axis=None) - np.sort(reference.logits, axis=None)).max() > 1e-3


def sums_of_samples(backend):
    """What the sums of deformable attention are computed in, one for each layer."""
    layers = backend._compiled.get_runtime_model().get_ops()
    sums = [node for node in layers if fact_of(node, "layerType").startswith("EmbeddingBag")]
    return [fact_of(node, "runtimePrecision") for node in sums]


def error(found, right):
    return np.abs(np.sort(found.logits, axis=1) - np.sort(right.logits, axis=1)).mean()


# Where there is no BF16


def test_a_bf16_graph_runs_in_float32_and_is_told_to(bf16_graph, without_bf16, monkeypatch):
    path = bf16_graph["bf16"]
    told = rf"^{path}: computed in FP32: CPU has no BF16 arithmetic, so FP32 takes its place$"
    with pytest.warns(UserWarning, match=told):
        backend = OpenVinoBackend(path)
    assert (backend.precision, backend.lacking, backend.hint) == ("fp32", "bf16", "f32")
    audited = backend.audit()
    assert (audited.asked, audited.share) == ("fp32", 1.0)
    assert audited.flops["fp32"] == sum(audited.flops.values()) > 0
    assert _runner(backend) == "OpenVinoBackend CPU fp32"
    found = backend.step(pictures(0), STREAMS)
    # What is left of BF16 are the weights, rounded.
    right = OnnxRuntimeBackend(bf16_graph["fp32"]).step(pictures(0), STREAMS)
    assert 0 < error(found, right) < 0.05 * np.abs(right.logits).mean()
    # The same is opened from what was kept.
    monkeypatch.setattr(ov.Core, "compile_model", None)
    with pytest.warns(UserWarning, match=told):
        again = OpenVinoBackend(path)
    assert (again.precision, again.lacking, again.audit()) == ("fp32", "bf16", audited)
    np.testing.assert_array_equal(again.step(pictures(0), STREAMS).logits, found.logits)


def test_float32_that_was_asked_for_is_no_surprise(bf16_graph, monkeypatch):
    """On a processor with BF16, too: the graph is float32 before it is compiled."""
    compiled = []
    whole = ov.Core.compile_model

    def noted(core, model, *given):
        compiled.append(marks.narrow_type(model))
        return whole(core, model, *given)

    monkeypatch.setattr(ov.Core, "compile_model", noted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend = OpenVinoBackend(bf16_graph["bf16"], precision="fp32", cached=False)
    assert (backend.precision, backend.lacking, backend.audit().share) == ("fp32", None, 1.0)
    assert compiled == [None]


def test_a_precision_that_is_asked_for_and_lacking_is_refused(bf16_graph, without_bf16):
    said = r"BF16 asked for, but CPU has no BF16 arithmetic .*; leave --precision out, or ask for --precision fp32$"
    for path in (bf16_graph["bf16"], small_graph()):
        with pytest.raises(L2GError, match=said):
            OpenVinoBackend(path, precision="bf16")
    with pytest.raises(L2GError, match="precision 'int4' found, one of fp32, bf16, fp16 expected"):
        OpenVinoBackend(small_graph(), precision="int4")


@pytest.mark.parametrize(
    ("said", "graph", "found"),
    [
        (BuildFacts(precision="fp32"), "bf16", "the graph is in BF16, its contract says FP32"),
        (BuildFacts(precision="bf16"), "fp32", "the graph is in FP32, its contract says BF16"),
        (BuildFacts(precision="int8"), "bf16", "the graph is in BF16, its contract says INT8"),
        (BuildFacts(precision="bf16"), "int8 + bf16", "the graph is in INT8, its contract says BF16"),
    ],
)
def test_a_graph_in_another_precision_than_its_contract_says_is_refused(
    typed_graphs, said, graph, found, monkeypatch, without_bf16
):
    whole = GraphContract.from_json
    monkeypatch.setattr(library, "check_graph", lambda *_: None)
    monkeypatch.setattr(GraphContract, "from_json", lambda text: dataclasses.replace(whole(text), build=said))
    with pytest.raises(ContractError, match=found):
        OpenVinoBackend(typed_graphs[graph], cached=False)


# Where layers run in something else


def test_layers_in_another_precision_are_refused_and_not_kept(monkeypatch, tmp_path):
    whole = audit._precision
    monkeypatch.setattr(audit, "_precision", lambda facts: {"fp32": "bf16"}.get(whole(facts), whole(facts)))
    said = r"FP32 asked for, but of its layers OpenVINO computes \d+ in BF16.* \(by FLOPs 0.0 % of"
    with pytest.raises(L2GError, match=said):
        OpenVinoBackend(small_graph())
    assert not list(tmp_path.glob("cache/openvino/*.blob"))


def test_a_device_that_tells_nothing_of_its_layers_opens_and_says_so(monkeypatch, capsys):
    """As an NPU does: its compiled model holds parameters and results."""
    from l2g.cli.making.inspect import main

    monkeypatch.setattr(ov.CompiledModel, "get_runtime_model", lambda _: silent_model())
    with pytest.warns(
        UserWarning, match="CPU does not tell what its layers compute in; .* compiled model's own word, f32$"
    ):
        backend = OpenVinoBackend(small_graph())
    assert np.isfinite(backend.step(pictures(0), STREAMS).logits).all()
    with pytest.raises(EngineError, match=r"no audit is possible on CPU, which tells nothing .* says f32"):
        backend.audit()
    with pytest.warns(UserWarning, match="does not tell"):
        assert main([str(small_graph()), "--library", "openvino"]) == 1
    printed = capsys.readouterr().out
    assert "arithmetic" in printed
    assert "no audit is possible on CPU" in printed


def silent_model():
    value = ov.opset13.parameter([1], np.float32)
    return ov.Model([ov.opset13.result(value)], [value])


# What is computed in what


@needs_bf16
def test_a_bf16_graph_is_computed_in_its_own_types(bf16_graph):
    backend = OpenVinoBackend(bf16_graph["bf16"], cached=False)
    assert (backend.precision, backend.hint, backend.lacking) == ("bf16", "bf16", None)
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
    right = OpenVinoBackend(bf16_graph["fp32"], cached=False).step(pictures(0), STREAMS)
    fast = OpenVinoBackend(bf16_graph["bf16"], cached=False)
    lowered = OpenVinoBackend(bf16_graph["fp32"], precision="bf16", cached=False).step(pictures(0), STREAMS)
    # A mark that means nothing to the library: its explicit types are used in its place.
    monkeypatch.setitem(marks._MARK, "value", "dynamic:f64")
    typed = OpenVinoBackend(bf16_graph["bf16"], cached=False)
    assert (fast.hint, typed.hint) == ("bf16", "dynamic")
    with_islands = error(fast.step(pictures(0), STREAMS), right)
    assert with_islands < 0.7 * error(lowered, right)
    assert with_islands == pytest.approx(error(typed.step(pictures(0), STREAMS), right), rel=0.5)


def test_the_audit_counts_what_the_graph_holds():
    from l2g.export.graph.flops import count_flops, shapes_for_one_stream

    model = read_model(small_graph())
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
    assert found.flops["bf16"] > 9 * found.flops["fp32"]
    # What deformable attention samples OpenVINO sums in float32 whatever it is told.
    assert all("/DeformableAttention/" in name for name, _ in found.wider)


@pytest.mark.parametrize("scales", ["fp32", "bf16"])
@pytest.mark.filterwarnings("ignore:.*CPU has no BF16")
def test_eight_bits_are_computed_in_eight_bits(int8_graphs, scales):
    """And around them in what the file says, or in float32 where this CPU has no BF16."""
    paths, share = int8_graphs
    around = scales if scales in native_precisions() else "fp32"
    backend = OpenVinoBackend(paths[scales], cached=False)
    audited = backend.audit()
    total = sum(audited.flops.values())
    assert (backend.precision, audited.asked) == (f"int8 + {around}", f"int8 + {around}")
    assert backend.lacking == (None if scales == around else scales)
    assert 100 * audited.flops["int8"] / total == pytest.approx(share, abs=0.1)
    assert audited.flops["unknown"] == 0
    assert backend.hint == {"fp32": "f32", "bf16": "bf16"}[around]
    assert set(sums_of_samples(backend)) == {"f32"}
    if around == "bf16":
        assert audited.flops["bf16"] > audited.flops["fp32"]
    else:
        assert (audited.share, audited.flops["bf16"]) == (1.0, 0)
    assert np.isfinite(backend.step(pictures(0), STREAMS).logits).all()
