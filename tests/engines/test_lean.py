"""Engines for TensorRT's lean runtime: how they are built, which library opens them, and what that library does."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
from l2g.artifacts.records import EngineOptions, EngineVerification
from l2g.artifacts.sidecar import Gpu, check_machine, read_sidecar
from l2g.cli.making.build import main
from l2g.engines import builder as building
from l2g.engines.builder import BuildOptions
from l2g.engines.cache import cache_key
from l2g.engines.doctor import examine
from l2g.engines.findings import Circumstances
from l2g.errors import EngineError
from l2g.runtime.backends.tensorrt import library as libraries
from l2g.runtime.backends.tensorrt.backend import TensorRTBackend
from l2g.runtime.backends.tensorrt.executor import EngineExecutor
from l2g.runtime.backends.tensorrt.library import Library, LibraryLog, installed_version, load_library, load_runtime
from tests.engines.engines import engine_graph, rewritten
from tests.exported import small_graph
from tests.runtime.fake_gpu import GPU, FakePlatform, fake_engine

PLAIN = EngineOptions((1, 1, 2))
CARRYING = EngineOptions((1, 1, 2), version_compatible=True)
WITHOUT = EngineOptions((1, 1, 2), version_compatible=True, exclude_lean_runtime=True)


def engine_of(path, options, version="11.1.0.106"):
    """An engine of TensorRT, bound to the imagined GPU."""
    facts = {"library": "tensorrt", "library_version": version, "gpu": GPU.name, "compute_capabilities": ("8.9",)}
    return fake_engine(path, small_graph(), options=options, **facts)


@pytest.fixture
def engine(tmp_path):
    return lambda options, **facts: engine_of(tmp_path / "m.engine", options, **facts)


@pytest.mark.skipif(installed_version("tensorrt-rtx") is None, reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize(("compatible", "excluded"), [(False, False), (True, False), (True, True)])
def test_the_builder_is_told(compatible, excluded):
    """TensorRT-RTX's builder has the same flags; TensorRT's own is not on the public index."""
    trt, log = load_library("tensorrt-rtx").trt, LibraryLog()
    logger = log.logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    building._parse(trt, network, logger, log, engine_graph())
    options = BuildOptions("tensorrt", max_streams=2, version_compatible=compatible, exclude_lean_runtime=excluded)
    contract = read_contract_of(engine_graph())
    config = building._configure(builder, network, contract, Library("tensorrt", trt, "11.4"), options, log)
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE) == compatible
    assert config.get_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME) == excluded
    found = options.for_engine(contract)
    assert (found.version_compatible, found.exclude_lean_runtime) == (compatible, excluded)


def read_contract_of(path):
    from l2g.artifacts.onnx_file import read_contract, read_model

    return read_contract(read_model(path), path)


def test_such_an_engine_is_another_one():
    assert len({cache_key("sum", "tensorrt", "11.4", "H100", options) for options in (PLAIN, CARRYING, WITHOUT)}) == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--library", "tensorrt-rtx", "--version-compatible"], "--version-compatible is TensorRT's"),
        (["--exclude-lean-runtime"], "add --version-compatible"),
    ],
)
def test_options_that_do_not_fit(words, text, capsys):
    assert main(["--onnx", str(engine_graph()), "--output", "m.engine", *words]) == 2
    assert text in capsys.readouterr().err


def test_trtexec_says_the_same(capsys):
    words = ["--onnx", str(engine_graph()), "--output", "m.engine", "--print-trtexec"]
    assert main([*words, "--version-compatible", "--exclude-lean-runtime"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("--versionCompatible") == printed.count("--excludeLeanRuntime") == 2
    assert main(words) == 0
    assert "--versionCompatible" not in capsys.readouterr().out
    # The equal command names no compute capability, since to name those of the portable set is another build.
    assert main([*words, "--library", "tensorrt-rtx"]) == 0
    printed = capsys.readouterr().out
    assert "the portable set as l2g build: compute capability 8.0, 8.6, 8.9, 12.0 and later" in printed
    assert "--computeCapabilities" not in printed
    assert main([*words, "--library", "tensorrt-rtx", "--compute-capability", "current"]) == 0
    printed = capsys.readouterr().out
    assert "--useGpu" in printed
    assert "portable" not in printed


def test_plugins_are_not_in_the_lean_runtime(tmp_path):
    import onnx

    def change(model):
        model.graph.node.append(onnx.helper.make_node("SomePlugin_TRT", ["frames"], ["more"], "odd"))
        return model

    path = rewritten(engine_graph(), change, tmp_path / "m.onnx")
    asked = Circumstances("tensorrt", "11.4", version_compatible=True)
    (finding,) = [f for f in examine(path, asked) if f.rule == "plugin"]
    assert (finding.severity, finding.text) == ("refuse", "the lean runtime has none of the plugins")


# (built in, found) -> whether an engine that carries its runtime, and one that does not, run there.
VERSIONS = {
    ("11.1.0.106", "11.1.0.106"): (True, True),
    ("11.1.0.106", "11.4.0.106"): (True, False),
    ("11.4.0.106", "11.1.0.106"): (False, False),
    ("10.13.3.9", "11.4.0.106"): (True, False),
    ("10.13.3.9", "12.0.0.1"): (False, False),
    ("9.3.0", "11.4.0.106"): (False, False),
    ("11.4.0.106", "10.13.3.9"): (False, False),
}


@pytest.mark.parametrize(("versions", "expected"), VERSIONS.items())
def test_which_versions_run_it(engine, versions, expected):
    built, found = versions
    for options, runs in zip((CARRYING, WITHOUT, PLAIN), (*expected, built == found), strict=True):
        path = engine(options, version=built)
        sidecar = read_sidecar(path)
        assert sidecar.engine.options == options
        for name in ("tensorrt", "tensorrt-lean"):
            if runs and (name == "tensorrt" or options is not PLAIN):
                check_machine(path, sidecar, name, found, GPU)
                continue
            with pytest.raises(EngineError) as caught:
                check_machine(path, sidecar, name, found, GPU)
            if name == "tensorrt-lean" and options is PLAIN:
                assert "not built for the lean runtime" in str(caught.value)
                assert str(caught.value).endswith("--version-compatible")
            else:
                assert f"built by tensorrt {built}, {name} {found} is installed" in str(caught.value)


def test_what_mends_it_builds_the_same_kind_again(engine):
    path = engine(WITHOUT)
    command = read_sidecar(path).rebuild_command(path)
    assert command.endswith("--version-compatible --exclude-lean-runtime")
    with pytest.raises(
        EngineError, match=r"this GPU|this Other has 9\.0; build it on this machine with: .*--exclude-lean"
    ):
        check_machine(path, read_sidecar(path), "tensorrt-lean", "11.1.0.106", Gpu("Other", (9, 0)))


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        ({"tensorrt": "11.1", "tensorrt-lean": "11.1"}, "tensorrt"),
        ({"tensorrt-lean": "11.1"}, "tensorrt-lean"),
        ({"tensorrt": "11.4", "tensorrt-lean": "11.1"}, "tensorrt-lean"),
        ({"tensorrt": "11.4"}, "tensorrt"),  # which is then refused by its version
        ({}, None),
    ],
)
def test_the_library_that_fits_is_taken(installed, chosen, monkeypatch, engine):
    def imported(name):
        version = installed.get(name.replace("_", "-"))
        return version and SimpleNamespace(Runtime=None, __version__=version)

    monkeypatch.setattr(libraries, "_import", imported)
    facts = read_sidecar(engine(WITHOUT, version="11.1")).engine
    assert facts.runtimes == ("tensorrt", "tensorrt-lean")
    if chosen is None:
        with pytest.raises(EngineError, match=r"tensorrt or tensorrt-lean is not installed .*l2g\[lean\]"):
            load_runtime(facts.runtimes, lambda library: facts.runs_in(library.version))
    else:
        assert load_runtime(facts.runtimes, lambda library: facts.runs_in(library.version)).name == chosen
    assert read_sidecar(engine(PLAIN)).engine.runtimes == ("tensorrt",)


class Module:
    """As much of TensorRT as opening an engine needs. errors: what it says when a runtime is made."""

    def __init__(self, errors=()):
        self.errors, self.runtimes = errors, []
        module = self

        class Runtime:
            def __init__(self, logger):
                object.__setattr__(self, "said", [])
                module.runtimes.append(self)
                for text in module.errors:
                    logger.log(SimpleNamespace(name="ERROR"), text)

            def __setattr__(self, name, value):
                self.said.append((name, value))

            def deserialize_cuda_engine(self, content):
                self.said.append(("opened", content))

        self.Runtime = Runtime
        self.ILogger = type("ILogger", (), {"__init__": lambda self: None})


@pytest.mark.parametrize("options", [PLAIN, CARRYING, WITHOUT])
def test_host_code_is_allowed_to_an_engine_that_holds_it_and_to_no_other(options, engine):
    path, trt = engine(options), Module()
    with pytest.raises(EngineError, match="cannot be opened"):
        EngineExecutor(path, b"engine", Library("tensorrt-lean", trt, "11.1"), read_sidecar(path))
    (runtime,) = trt.runtimes
    expected = [("engine_host_code_allowed", True)] if options is CARRYING else []
    assert runtime.said == [*expected, ("opened", b"engine")]


def test_a_lean_runtime_that_did_not_start_is_not_touched(engine):
    path, trt = engine(CARRYING), Module(["CUDA initialization failure with error: 35"])
    with pytest.raises(EngineError, match=r"the lean runtime does not start; .*\n  CUDA initialization failure"):
        EngineExecutor(path, b"engine", Library("tensorrt-lean", trt, "11.1"), read_sidecar(path))
    assert trt.runtimes[0].said == []


def test_the_backend_runs_one_in_the_lean_runtime(engine):
    """The imagined GPU, and a library that is named so."""

    class Lean(FakePlatform):
        def library(self, engine):
            return Library(engine.runtimes[-1], None, self.version)

    backend = TensorRTBackend(engine(WITHOUT), platform=Lean(small_graph(), version="11.1.0.106"))
    assert backend.library == "tensorrt-lean"
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    first = backend.step(frames, np.array([True]))
    assert np.isfinite(first.logits).all()
    backend.close()
    with pytest.raises(EngineError, match="not built for the lean runtime"):
        TensorRTBackend(
            engine(EngineOptions((1, 1, 2), version_compatible=False)), platform=Always(small_graph(), "tensorrt-lean")
        )


class Always(FakePlatform):
    def __init__(self, onnx_file, name):
        super().__init__(onnx_file, version="11.1.0.106")
        self.name = name

    def library(self, engine):
        return Library(self.name, None, self.version)


def test_the_real_lean_runtime_without_a_gpu(engine):
    """It imports, has no builder, and ends the process when it is used without a driver: so it is not."""
    pytest.importorskip("tensorrt_lean")
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    path = engine(WITHOUT, version=installed_version("tensorrt-lean"))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from l2g.artifacts.sidecar import read_sidecar\n"
        "from l2g.errors import EngineError\n"
        "from l2g.runtime.backends.tensorrt.executor import EngineExecutor\n"
        "from l2g.runtime.backends.tensorrt.library import load_library\n"
        "library = load_library('tensorrt-lean')\n"
        "assert library.lean and not hasattr(library.trt, 'Builder')\n"
        "path = Path(sys.argv[1])\n"
        "try: EngineExecutor(path, b'x' * 1000, library, read_sidecar(path))\n"
        "except EngineError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "the lean runtime does not start" in done.stdout
    assert "CUDA" in done.stdout


def test_a_record_stays_with_it(engine):
    facts = read_sidecar(engine(CARRYING)).engine
    assert facts.verification == EngineVerification("verified")
    assert facts.holds_host_code
    assert not read_sidecar(engine(WITHOUT)).engine.holds_host_code
