"""What only a GPU can show: the model, its training, its memory and an engine on it. Left out where there is none."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from l2g.artifacts.sidecar import runs_on
from l2g.checkpoint import load_checkpoint
from l2g.data.synthetic.video import synthetic_video
from l2g.engines.build import build_engine
from l2g.engines.builder import CURRENT, BuildOptions, known_capabilities
from l2g.engines.verification import LIMITS, measure_agreement, verify_engine
from l2g.export.exporter import ExportOptions, export
from l2g.files import write_json
from l2g.gpucheck.child import RANDOM, run_step
from l2g.gpucheck.devices import Hardware
from l2g.gpucheck.notebook import figures_file
from l2g.gpucheck.plan import Options, plan
from l2g.runtime.backends.base import HostState
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from l2g.runtime.backends.open import open_backend
from l2g.runtime.backends.tensorrt.backend import TensorRTBackend
from l2g.runtime.backends.tensorrt.device import CudaDevice, find_gpu
from l2g.runtime.backends.tensorrt.library import installed_version, load_library
from l2g.runtime.identity.slots import slot_order
from l2g.runtime.session import VideoSession
from l2g.training.config import load_config
from l2g.training.trainer import Trainer
from tests.training.small import small

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def served_by_rtx():
    if (gpu := find_gpu()) is None or installed_version("tensorrt-rtx") is None:
        return False
    return runs_on(gpu, known_capabilities(load_library("tensorrt-rtx")))


rtx = pytest.mark.skipif(not served_by_rtx(), reason="TensorRT-RTX is not installed, or has no kernels for this GPU")
SIZE = (96, 160)


def pictures(count):
    return synthetic_video("val", 0, frames=count, size=SIZE).frames


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    export(load_checkpoint("l2g_tiny"), path, ExportOptions())
    return path


cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="this ONNX Runtime has no CUDA"
)


@pytest.mark.parametrize("model", ["checkpoint", pytest.param("graph", marks=cuda)])
def test_it_computes_there_what_it_does_on_a_cpu(model, graph):
    """Frame by frame from the CPU's own state, so that no difference adds up; a product in TF32 is a hundred times
    as far away."""
    here = EagerBackend(load_checkpoint("l2g_tiny"))
    there = open_backend("l2g_tiny" if model == "checkpoint" else graph, top_k=None)
    assert "cuda" in str(there.device)
    for time, frame in enumerate(pictures(6)):
        if (state := here.read_state()) is not None:
            there.write_state(state)
        first = np.array([time == 0])
        expected, found = here.step(frame[None], first), there.step(frame[None], first)
        if time == 0:
            continue  # near-ties trade slots in a first frame
        np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
        np.testing.assert_allclose(found.queries, expected.queries, atol=1e-4)
        np.testing.assert_allclose(found.mask_logits, expected.mask_logits, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_it_trains_there(precision, tmp_path):
    """The losses of the first iteration are a CPU's; after an interruption the run goes on."""
    phases = "phases=[{kind: clip, iterations: 4, batch_size: 2, lr: 1.0e-3, clip_length: 4, window: 2}]"
    config = load_config("synthetic_tiny", [*small(), phases, f"precision={precision}"])

    def losses(output, stop_after=None):
        trainer, rows = Trainer(config, output), []

        def log(writer, bar, values, norm, factor):
            rows.append(values)
            if len(rows) == stop_after:
                trainer._request_stop()

        trainer._log = log
        return rows, trainer.run()

    whole, result = losses(tmp_path / "whole")
    assert result
    assert len(whole) == 4
    assert all(np.isfinite(list(row.values())).all() for row in whole)
    first, nothing = losses(tmp_path / "parts", stop_after=2)
    rest, result = losses(tmp_path / "parts")
    assert nothing is None
    assert result
    assert len(first) + len(rest) == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        expected, _ = losses(tmp_path / "cpu", stop_after=1)
    near = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 1e-2}[precision]
    assert whole[0]["total"] == pytest.approx(expected[0]["total"], rel=near)


def test_its_memory_its_copies_and_its_graphs():
    device = CudaDevice()
    one, other = (device.pinned((5, 3), "float32") for _ in range(2))
    address = device.allocate(one.nbytes)
    device.download(other, address)
    device.synchronize()
    assert not other.any()

    def work():
        device.upload(address, one)
        device.download(other, address)

    graph = device.capture(work)
    assert not other.any()  # recorded, not run
    for value in (1.5, -2.0):
        one[:] = value
        device.launch(graph)
        device.synchronize()
        assert (other == value).all()
    device.destroy(graph)
    device.free(address)
    device.release(one)
    device.close()
    assert find_gpu().name in torch.cuda.get_device_name()


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """(graph, engine) of l2g_tiny by precision, built on this GPU for this GPU and verified."""
    folder, made = tmp_path_factory.mktemp("engines"), {}

    def get(precision):
        if precision not in made:
            graph, engine = folder / f"{precision}.onnx", folder / f"{precision}.engine"
            options = ExportOptions(target="tensorrt", max_streams=2, precision=precision)
            export(load_checkpoint("l2g_tiny"), graph, options)
            build = BuildOptions("tensorrt-rtx", max_streams=2, compute_capabilities=(CURRENT,))
            built = build_engine(graph, engine, build, verify=verify_engine, progress=False)
            made[precision] = graph, engine, built
        return made[precision]

    return get


def test_the_check_s_steps_on_it(tmp_path):
    """Frame by frame and as captured graphs; what the sensors tell of it."""
    options = Options(models=("l2g_tiny",), size=SIZE, streams=(1, 2), frames=10)
    write_json(tmp_path / "options.json", options.to_json())
    found = {}
    for step in plan(options, RANDOM):
        if step.name in ("capture-l2g_tiny", "latency-l2g_tiny-pytorch-fp32", "floors"):
            run_step(step, tmp_path, Hardware("cuda"))
            found[step.name] = json.loads(figures_file(tmp_path, step.name).read_text())
    difference = found["capture-l2g_tiny"][0]
    assert (difference["quantity"], difference["passed"]) == ("the state's largest difference", True)
    medians = [f["value"] for f in found["latency-l2g_tiny-pytorch-fp32"] if f["quantity"] == "median"]
    assert len(medians) == 2
    assert all(0 < value < 1000 for value in medians)
    rates = {f["runs_on"]: f["value"] for f in found["floors"] if f["quantity"] == "largest matrix product"}
    assert rates["FP16"] > rates["TF32"] > rates["FP32"]


@rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_verified_where_it_is_built(engines, precision):
    _, _, built = engines(precision)
    assert built.sidecar.engine.verified
    assert built.sidecar.engine.verification.gpu == find_gpu().name


@rtx
def test_an_engine_feeds_its_own_state_back(engines):
    """Two videos that start apart, 20 frames: identities and masks are ONNX Runtime's."""
    graph, engine, _ = engines("fp32")
    videos = [synthetic_video("val", index, frames=20, size=SIZE).frames for index in range(2)]
    sessions = [VideoSession(backend) for backend in (OnnxRuntimeBackend(graph), TensorRTBackend(engine))]
    orders = {}  # near-ties trade slots in a first frame
    for time in range(20):
        frames = {0: videos[0][time]} | ({1: videos[1][time]} if time >= 3 else {})
        for session in sessions:
            for key in frames.keys() - set(session.streams):
                session.join(key)
        expected, found = (session.step(frames) for session in sessions)
        for key in frames:
            order = orders.setdefault(key, slot_order(expected[key], found[key]))
            there = found[key].permuted(order)
            np.testing.assert_allclose(there.logits, expected[key].logits, atol=0.05)
            assert np.mean((there.mask_logits > 0) != (expected[key].mask_logits > 0)) < 1e-3


@rtx
def test_a_wrong_engine_is_found(engines):
    """The limits of a verification are not so wide that anything passes."""
    graph, engine, _ = engines("fp32")

    class Forgetful(TensorRTBackend):
        def write_state(self, state):
            super().write_state(HostState(state.tensors, np.zeros_like(state.valid)))

    found = measure_agreement(OnnxRuntimeBackend(graph), Forgetful(engine))
    assert found.queries > 10 * LIMITS["fp32"].queries
