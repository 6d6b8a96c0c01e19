"""A Swin Local2Global's graph: the model's numbers frame after frame, static windows, streams that do not meet."""

import functools

import onnx
import pytest

from benchmarks import swin as benchmark
from l2g.export.exporter import ExportOptions, contract_of, runnable
from l2g.export.graph.flops import count_flops, shapes_for_one_stream
from l2g.export.precision.convert import HALF
from l2g.export.precision.verify import verify_reduced
from l2g.export.verification.rollouts import rollouts
from l2g.export.verification.verify import verify
from l2g.provenance import Verification
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from l2g.runtime.backends.openvino.backend import OpenVinoBackend
from tests.exported_swin import SWIN, swin_graph, swin_model

BACKENDS = {"onnxruntime": OnnxRuntimeBackend, "openvino": OpenVinoBackend}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.mark.parametrize("library", BACKENDS)
def test_each_feeding_back_its_own_state(library):
    """Five frames of one stream, and of three of which one starts again: the rollout of `benchmarks/swin.py`."""
    backend = BACKENDS[library](swin_graph(), threads=1)
    for streams in (1, 3):
        found = benchmark.rollout(swin_model(), {library: backend}, streams, frames=5, resets=(3,))[library]
        assert set(found) == set(benchmark.TOLERANCES)
        for name, largest in found.items():
            assert 0 < largest < benchmark.TOLERANCES[name], (streams, name)
    backend.close()


def test_the_rollout_finds_a_state_that_is_not_reset():
    class Forgetful(OnnxRuntimeBackend):
        def step(self, frames, reset):
            return super().step(frames, reset & (self.read_state() is None))

    found = benchmark.rollout(swin_model(), {"one": Forgetful(swin_graph(), threads=1)}, 3, frames=3, resets=(2,))
    assert found["one"]["queries"] > benchmark.TOLERANCES["queries"]


@functools.cache
def steps():
    return list(rollouts(swin_model(), contract_of(swin_model(), ExportOptions())))


@pytest.mark.parametrize("lowering", ["gridsample", "plugin"])
def test_the_other_lowerings_are_the_model(lowering):
    """Held to it as an export is, with the gather in the place of the plugin's nodes."""
    options = ExportOptions(lowering=lowering, target="tensorrt")
    path = swin_graph(lowering=lowering, target="tensorrt")
    contract = contract_of(swin_model(), options)
    found = verify(runnable(path.read_bytes(), options), contract, steps())
    assert found.ties == 0
    for name, largest in found.differences.items():
        assert 0 < largest < benchmark.TOLERANCES[name], name


def test_in_fp16_it_is_the_model_rounded():
    graphs = (swin_graph(precision, "tensorrt").read_bytes() for precision in ("fp32", "fp16"))
    contract, unverified = contract_of(swin_model(), ExportOptions()), Verification("none", (), {}, {}, 0)
    found = verify_reduced(HALF, *graphs, contract, steps(), unverified)
    # Its own arithmetic, and not the room that a broken graph would need.
    assert 1e-5 < found.errors["queries"] < 0.01


def test_masks_and_tables_are_constants_and_each_is_there_once():
    model = onnx.load(swin_graph())
    names = {node.op_type for node in model.graph.node}
    assert not names & {"NonZero", "ScatterND", "If", "Loop", "Mod"}
    # One Shape, of the batch; window arithmetic asks for none.
    assert [node.op_type for node in model.graph.node].count("Shape") == 1
    tokens = SWIN.window**2
    tables = [tuple(w.dims) for w in model.graph.initializer if tuple(w.dims)[-2:] == (tokens, tokens)]
    masks = [dims for dims in tables if len(dims) == 4]
    # 24 x 40 has no shifted block; 12 x 20, 6 x 10 and 3 x 5 tokens are 6, 2 and 1 windows of 7 x 7.
    assert sorted(masks) == [(windows, 1, tokens, tokens) for windows in (1, 2, 6)]
    assert len(tables) - len(masks) == sum(SWIN.depths)
    assert count_flops(model, shapes_for_one_stream(model))[1] == 0
