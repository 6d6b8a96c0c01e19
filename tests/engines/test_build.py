"""The shipped model becomes engines in three precisions, without a GPU, and what is not what it says is refused."""

import dataclasses
import hashlib
import os
import signal

import onnx
import pytest

pytest.importorskip("torch")
from l2g.artifacts.onnx_file import with_contract, with_sum
from l2g.artifacts.records import EngineOptions, EngineVerification
from l2g.artifacts.sidecar import EngineFacts, Gpu, Sidecar, check_file, read_sidecar, sidecar_path
from l2g.calibration.placement import TENSORRT, quantise
from l2g.calibration.ranges import Interval
from l2g.checkpoint import load_checkpoint
from l2g.cli.making.build import main, parse_size
from l2g.engines import build as engine_module
from l2g.engines import builder as engine_build
from l2g.engines import cache as engine_cache
from l2g.engines.audit import audit, layers_from_log
from l2g.engines.build import build_engine
from l2g.engines.builder import BuildOptions
from l2g.errors import EngineError
from l2g.export.exporter import ExportOptions, build_facts, build_graph, contract_of, reduced_graph
from l2g.provenance import CalibrationData, Quantisation, Ranges
from l2g.runtime.backends.tensorrt.executor import why_invalid
from l2g.runtime.backends.tensorrt.library import LibraryLog, installed_version, load_library
from tests.engines.engines import engine_graph, rewritten
from tests.export.precision.half import uncast
from tests.runtime.fake_gpu import fake_engine

rtx = pytest.mark.skipif(
    installed_version("tensorrt-rtx") is None, reason="TensorRT-RTX is not installed: it has no wheel for this platform"
)
RTX = BuildOptions("tensorrt-rtx", max_streams=2)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """l2g_tiny for TensorRT in the three precisions, by name; the exports' own verification has tests of its own."""
    folder = tmp_path_factory.mktemp("graphs")
    options = ExportOptions(target="tensorrt", max_streams=2)
    model = load_checkpoint("l2g_tiny")
    contract = contract_of(model, options)
    single = build_graph(model, contract, options)
    proto = onnx.load_from_string(single)
    convolutions = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    # A range for all: this is about what an engine computes in, not about what comes out.
    quantised = quantise(proto, convolutions, lambda name: Interval(-4.0, 4.0), TENSORRT)
    made = {"fp32": single, "fp16": reduced_graph(single, "fp16"), "int8": quantised.SerializeToString()}
    for precision, graph in made.items():
        facts = with_sum(dataclasses.replace(build_facts(options, None), precision=precision), graph)
        path = folder / f"tiny-{precision}.onnx"
        path.write_bytes(with_contract(graph, dataclasses.replace(contract, build=facts)))
        made[precision] = path
    return made


@pytest.fixture(scope="module")
def engines(graphs, tmp_path_factory):
    """The engine, its build and its log, by precision; each is built once, as on a machine without a GPU."""
    folder, built = tmp_path_factory.mktemp("engines"), {}

    def get(precision):
        if precision not in built:
            output, log = folder / f"tiny-{precision}.engine", folder / f"{precision}.log"
            cache = folder / "cache"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(engine_module, "find_gpu", lambda: None)
                build = build_engine(graphs[precision], output, RTX, cache=cache, log_file=log, progress=False)
            built[precision] = (build, log.read_text(), cache)
        return built[precision]

    return get


@rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_shipped_model_in_three_precisions(graphs, engines, precision):
    build, _, _ = engines(precision)
    facts = build.sidecar.engine
    assert check_file(build.path, read_sidecar(build.path)) == build.path.read_bytes()
    assert (facts.gpu, facts.compute_capabilities) == (None, ("8.0", "8.6", "8.9", "12.0"))
    assert facts.library_version == installed_version("tensorrt-rtx")
    assert facts.verification == EngineVerification("unverified", "built on a machine without a GPU")
    assert build.sidecar.contract.build.precision == precision
    # What the library built, from its own log.
    assert facts.audit.source == "build log"
    assert facts.audit.asked == precision
    assert facts.audit.share >= 0.95
    flops = facts.audit.flops
    assert flops["unknown"] == 0
    total = sum(flops.values())
    convolutions = audit_of(graphs, engines, precision).flops
    assert convolutions == flops
    if precision == "int8":
        assert 0.5 * total < flops["int8"] < 0.8 * total  # convolutions are 63 % of it
    else:
        assert flops[precision] >= 0.95 * total
    assert 1e6 < facts.audit.activation_bytes < 40e6
    assert facts.engine_bytes > 10e6


def audit_of(graphs, engines, precision, asked=None):
    _, log, _ = engines(precision)
    return audit(onnx.load(graphs[precision]), layers_from_log(log), asked or precision, log)


@rtx
def test_an_engine_that_is_wider_than_asked_for_is_refused(graphs, engines):
    found = audit_of(graphs, engines, "fp32", "fp16")
    assert found.share == 0
    with pytest.raises(EngineError, match=r"computes 0\.0 % .* in fp16, 95 % asked for; .* in fp32"):
        found.check()
    # Nor is one that is narrower what was asked for.
    assert audit_of(graphs, engines, "fp16", "fp32").share <= 0.05
    assert audit_of(graphs, engines, "int8", "fp16").share < 0.8


@rtx
def test_a_builder_that_downgrades_writes_nothing(graphs, engines, tmp_path, monkeypatch):
    """The graph is FP16, the library gives the FP32 engine, as weak typing does in silence."""
    _, log, _ = engines("fp32")
    lines = engine_module.LibraryLog()
    lines.lines.extend(log.splitlines())
    built = engine_module.Built(b"an engine", lines, 1.0, RTX.for_engine(read_contract_of(graphs["fp16"])))
    monkeypatch.setattr(engine_module, "build_serialized", lambda *_: built)
    with pytest.raises(EngineError, match="in fp16, 95 % asked for"):
        build_engine(graphs["fp16"], tmp_path / "m.engine", RTX)
    assert list(tmp_path.iterdir()) == []
    build = build_engine(graphs["fp16"], tmp_path / "m.engine", RTX, min_share=0.0)
    assert build.sidecar.engine.audit.share == 0


def read_contract_of(path):
    return engine_module.read_contract(engine_module.read_model(path), path)


@rtx
def test_the_same_engine_is_never_built_twice(graphs, engines, tmp_path, monkeypatch):
    build, _, cache = engines("fp32")

    def fail(*_):
        raise AssertionError("built again")

    monkeypatch.setattr(engine_module, "build_serialized", fail)
    again = build_engine(graphs["fp32"], tmp_path / "again.engine", RTX, cache=cache)
    assert (build.cached, again.cached) == (False, True)
    assert again.path.read_bytes() == build.path.read_bytes()
    assert read_sidecar(again.path) == read_sidecar(build.path)
    other = dataclasses.replace(RTX, max_streams=1)
    with pytest.raises(AssertionError, match="built again"):
        build_engine(graphs["fp32"], tmp_path / "other.engine", other, cache=cache)
    # A cached engine that is not whole is no engine.
    for engine in cache.glob("*/model.engine"):
        if engine.stat().st_size == build.sidecar.engine.engine_bytes:
            engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(AssertionError, match="built again"):
        build_engine(graphs["fp32"], tmp_path / "third.engine", RTX, cache=cache)


@rtx
def test_where_there_is_a_gpu_an_engine_is_verified_before_it_stays(graphs, engines, tmp_path, monkeypatch):
    """The GPU and the comparison are imagined; the order, the record and the removal are not."""
    _, log, _ = engines("fp32")
    lines = engine_module.LibraryLog()
    lines.lines.extend(log.splitlines())
    built = engine_module.Built(b"an engine", lines, 1.0, RTX.for_engine(read_contract_of(graphs["fp32"])))
    monkeypatch.setattr(engine_module, "build_serialized", lambda *_: built)
    monkeypatch.setattr(engine_module, "find_gpu", lambda: Gpu("RTX 4090", (8, 9)))
    output, cache, calls = tmp_path / "m.engine", tmp_path / "cache", []

    def disagree(onnx_file, engine):
        assert read_sidecar(engine).engine.engine_bytes == len(b"an engine")
        raise EngineError("not the numbers of its graph")

    def agree(onnx_file, engine):
        calls.append((onnx_file, engine))
        return EngineVerification("verified", gpu="RTX 4090")

    with pytest.raises(EngineError, match="not the numbers of its graph"):
        build_engine(graphs["fp32"], output, RTX, cache=cache, verify=disagree)
    assert not output.exists()
    assert not sidecar_path(output).exists()
    build = build_engine(graphs["fp32"], output, RTX, cache=cache, verify=agree)
    assert (build.cached, calls) == (True, [(graphs["fp32"], output)])
    assert read_sidecar(output).engine.verification == EngineVerification("verified", gpu="RTX 4090")
    # The record is in the cache as well: what was verified once is not verified again.
    again = build_engine(graphs["fp32"], tmp_path / "again.engine", RTX, cache=cache, verify=disagree)
    assert again.sidecar.engine.verified
    unasked = build_engine(graphs["fp32"], tmp_path / "third.engine", RTX)
    assert unasked.sidecar.engine.verification == EngineVerification("unverified", "not asked for")
    # One for other GPUs than the builder's stays, unverified: comparing it here would only show that it does not run.
    monkeypatch.setattr(engine_module, "find_gpu", lambda: Gpu("RTX 4090", (9, 0)))
    foreign = build_engine(graphs["fp32"], tmp_path / "fourth.engine", RTX, verify=disagree)
    assert foreign.sidecar.engine.verification == EngineVerification(
        "unverified", "built for other GPUs than the RTX 4090 (9.0) that it was built beside"
    )


@pytest.mark.parametrize(("precision", "scales"), [("bf16", None), ("int8", "bf16"), ("int8", "fp32"), ("fp16", None)])
def test_an_engine_of_bf16_is_written_unverified(precision, scales):
    """What would run the graph beside it cannot."""
    ranges, data = Ranges("max", {"max": 1}), CalibrationData("drawn", 1, "rollout", {})
    integers = scales and Quantisation("tensorrt", scales, (), 50.0, ranges, data)
    contract = read_contract_of(engine_graph())
    contract = dataclasses.replace(
        contract, build=dataclasses.replace(contract.build, precision=precision, int8=integers)
    )
    gpu = Gpu("RTX 4090", (8, 9))
    facts = EngineFacts("tensorrt", "10.13", "3" * 64, 9, "a.onnx", "4" * 64, gpu.name, ("8.9",))
    reason = engine_module._why_not_verified(Sidecar(contract, facts), gpu, lambda *_: None)
    assert (reason is not None and "has no BF16" in reason) == ("bf16" in (precision, scales))


def test_a_log_that_runs_for_days_keeps_only_its_end():
    log = LibraryLog(most=3)
    for number in range(10):
        log.add("VERBOSE", f"chatter {number}")
        log.add("WARNING", f"warning {number}")
    assert list(log.lines) == ["[WARNING] warning 7", "[WARNING] warning 8", "[WARNING] warning 9"]
    log.add("ERROR", "driver missing (cudaError 35)")
    log.add("ERROR", "the reason")
    assert log.tail() == "the reason"
    everything = LibraryLog()
    everything.add("VERBOSE", "a layer")
    assert list(everything.lines) == ["[VERBOSE] a layer"]


def test_what_makes_another_key():
    keys = [
        engine_cache.cache_key(*parts)
        for parts in (
            ("sum", "tensorrt", "10.13", "RTX 4090", EngineOptions((1, 1, 2))),
            ("other", "tensorrt", "10.13", "RTX 4090", EngineOptions((1, 1, 2))),
            ("sum", "tensorrt-rtx", "10.13", "RTX 4090", EngineOptions((1, 1, 2))),
            ("sum", "tensorrt", "10.14", "RTX 4090", EngineOptions((1, 1, 2))),
            ("sum", "tensorrt", "10.13", None, EngineOptions((1, 1, 2))),
            ("sum", "tensorrt", "10.13", "RTX 4090", EngineOptions((1, 1, 3))),
        )
    ]
    assert len(set(keys)) == len(keys)


@rtx
def test_casts_that_were_removed_are_refused_before_a_build(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "build_serialized", None)
    path = rewritten(engine_graph("fp16"), uncast, tmp_path / "m.onnx")
    with pytest.raises(EngineError, match=r"no engine is built from this graph[\s\S]*the graph has none of it"):
        build_engine(path, tmp_path / "m.engine", RTX)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


@rtx
def test_what_the_parser_says_reaches_the_user(tmp_path):
    def change(model):
        model.graph.node.append(onnx.helper.make_node("NoSuchOperator", ["queries"], ["more"], "odd"))
        return model

    path = rewritten(engine_graph(), change, tmp_path / "m.onnx")
    with pytest.raises(EngineError, match=r"the parser refuses the graph:[\s\S]*NoSuchOperator"):
        build_engine(path, tmp_path / "m.engine", RTX, progress=False)
    assert not (tmp_path / "m.engine").exists()


@rtx
def test_ctrl_c_stops_a_build(graphs, tmp_path, monkeypatch):
    """The interrupt comes when the builder has begun, so that it is the builder that stops."""
    begun = engine_build._Monitor.start

    def interrupt(self, phase, parent, steps):
        begun(self, phase, parent, steps)
        if phase == "Building engine":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(engine_build._Monitor, "start", interrupt)
    # A shell that runs the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build_engine(graphs["fp32"], tmp_path / "m.engine", dataclasses.replace(RTX, max_streams=1), progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("after", ["", "write_bytes", "write_sidecar", "check_file"])
def test_ctrl_c_while_an_engine_is_written_leaves_it_whole_or_absent(tmp_path, monkeypatch, earlier, after):
    """Also where another engine is there: the old one, whole, before the first step."""
    output, new = tmp_path / "m.engine", tmp_path / "new.engine"
    fake_engine(new, engine_graph())
    content, sidecar = new.read_bytes(), read_sidecar(new)
    if earlier:
        fake_engine(output, engine_graph(), engine_sha256=hashlib.sha256(b"old").hexdigest(), engine_bytes=3)
        output.write_bytes(b"old")
    real = getattr(engine_module, after or "write_bytes")

    def interrupted(*arguments):
        if after:
            real(*arguments)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_module, after or "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine_module._write(output, content, sidecar)
    if output.exists():
        found = check_file(output, read_sidecar(output))
        assert found == (content if after in ("write_sidecar", "check_file") else b"old")
    else:
        assert not sidecar_path(output).exists()
        assert after == "write_bytes" or not earlier


@rtx
def test_an_unknown_compute_capability(graphs, tmp_path):
    options = dataclasses.replace(RTX, compute_capabilities=("6.1",))
    with pytest.raises(EngineError, match=r"compute capability 61 is unknown .* 8\.9, .* and current"):
        build_engine(graphs["fp32"], tmp_path / "m.engine", options, progress=False)


@rtx
def test_a_gpu_that_the_library_has_no_kernels_for(graphs, tmp_path, monkeypatch):
    """TensorRT-RTX builds there and then calls its own engine invalid."""
    monkeypatch.setattr(engine_module, "find_gpu", lambda: Gpu("NVIDIA H200", (9, 0)))
    monkeypatch.setattr(engine_module, "build_serialized", lambda *_: pytest.fail("built"))
    options = dataclasses.replace(RTX, compute_capabilities=("current",))
    with pytest.raises(EngineError, match=r"no kernels for this NVIDIA H200 \(.* 9\.0, .* 8\.9, .*--library tensorrt"):
        build_engine(graphs["fp32"], tmp_path / "m.engine", options, progress=False)
    assert list(tmp_path.iterdir()) == []


@rtx
def test_why_an_engine_is_invalid():
    trt = load_library("tensorrt-rtx").trt
    flags = trt.EngineInvalidityDiagnostics
    found = why_invalid(trt, int(flags.UNSUPPORTED_CC) | int(flags.OLD_CUDA_DRIVER))
    assert "no kernels for this GPU: build with --library tensorrt" in found
    assert found.endswith("; old cuda driver, install a newer driver")
    assert why_invalid(trt, flags.MALFORMED_ENGINE) == "malformed engine, build it again"
    assert why_invalid(trt, 1 << 20) == "diagnostics 1048576; build it again"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"library": "tensorrt", "compute_capabilities": ("8.9",)}, "--compute-capability is TensorRT-RTX's"),
        ({"library": "tensorrt-rtx", "compute_capabilities": ("current", "8.9")}, "current stands alone"),
        ({"library": "tensorrt-rtx", "timing_cache": "x"}, "--timing-cache is TensorRT's"),
        ({"library": "tensorrt", "max_streams": 0}, "max-streams 0 found"),
        ({"library": "tensorrt", "workspace": 5}, "workspace of 5 bytes"),
    ],
)
def test_options_that_do_not_fit(options, text):
    with pytest.raises(EngineError, match=text):
        BuildOptions(**options)


def test_sizes():
    assert [parse_size(text) for text in ("512M", "2GiB", "1.5 K", "7")] == [512 << 20, 2 << 30, 1536, 7]
    with pytest.raises(EngineError, match="size 'much' found"):
        parse_size("much")


def test_trtexec_commands(capsys):
    arguments = ["--onnx", str(engine_graph()), "--output", "m.engine", "--print-trtexec"]
    assert main([*arguments, "--workspace", "2GiB", "--max-streams", "3", "--opt-streams", "2"]) == 0
    old, new = (text.split() for text in capsys.readouterr().out.split("# trtexec of TensorRT 11.x"))
    assert set(old) - set(new) == {"#", "trtexec", "of", "TensorRT", "10.x", "--stronglyTyped"} - set(new)
    assert "--stronglyTyped" not in new
    assert "--fp16" not in old + new
    shapes = "frames:{0}x64x96x3,prior_queries:{0}x10x64,prior_boxes:{0}x10x4,prior_valid:{0}x1"
    for name, streams in (("min", 1), ("opt", 2), ("max", 3)):
        assert f"--{name}Shapes={shapes.format(streams)}" in new
    assert "--memPoolSize=workspace:2048M" in new
    rtx_arguments = [*arguments, "--library", "tensorrt-rtx", "--compute-capability", "8.9", "12.0"]
    assert main(rtx_arguments) == 0
    words = capsys.readouterr().out.split()
    assert "tensorrt_rtx" in words
    assert "--computeCapabilities=89,120" in words


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    assert main(["--onnx", str(tmp_path / "no.onnx"), "--output", str(tmp_path / "m.engine"), "--print-trtexec"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    if installed_version("tensorrt") is None:
        assert main(["--onnx", str(engine_graph()), "--output", str(tmp_path / "m.engine")]) == 2
        assert "error: tensorrt is not installed" in capsys.readouterr().err
    assert not sidecar_path(tmp_path / "m.engine").exists()
