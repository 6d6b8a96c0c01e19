"""An engine is opened only when its sidecar vouches for it; every way it may not fit is told apart."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")  # the small graph is exported from a model
pytest.importorskip("onnxruntime")

from l2g.artifacts import sidecar as sidecar_module
from l2g.artifacts.records import EngineVerification
from l2g.artifacts.sidecar import (
    Gpu,
    check_file,
    check_machine,
    check_source,
    read_sidecar,
    record_verification,
    sidecar_path,
    write_sidecar,
)
from l2g.cli.making import verify
from l2g.engines import cache as engine_cache
from l2g.engines.verification import DisagreementError
from l2g.errors import EngineError
from l2g.runtime.backends.tensorrt.backend import TensorRTBackend
from tests.exported import edited, scale_one_weight, small_graph
from tests.runtime.fake_gpu import GPU, VERSION, FakePlatform, fake_engine


@pytest.fixture
def engine(tmp_path):
    return fake_engine(tmp_path / "model.engine", small_graph())


def open_engine(engine, **platform):
    TensorRTBackend(engine, platform=FakePlatform(small_graph(), **platform)).close()


def refusal(engine, **platform):
    with pytest.raises(EngineError) as caught:
        open_engine(engine, **platform)
    message = str(caught.value)
    assert str(engine) in message
    return message


def test_what_is_written_is_read(engine):
    sidecar = read_sidecar(engine)
    assert sidecar.engine.verified
    assert sidecar.contract.build.graph_sha256
    write_sidecar(engine, sidecar)
    assert read_sidecar(engine) == sidecar
    open_engine(engine)


def test_every_refusal_has_its_own_message(engine, tmp_path):
    """The four of a damaged or strange pair, and one for each way a machine may differ."""
    whole, sidecar_text = engine.read_bytes(), sidecar_path(engine).read_text()
    told = {}
    engine.write_bytes(whole[:-7])
    told["truncated"] = refusal(engine)
    engine.write_bytes(whole[:-1] + b"?")
    told["another engine"] = refusal(engine)
    engine.write_bytes(whole)
    sidecar_path(engine).write_text(sidecar_text.replace('"status": "verified"', '"status": "VERIFIED"'))
    told["edited"] = refusal(engine)
    sidecar_path(engine).write_text(sidecar_text[:400])
    told["cut sidecar"] = refusal(engine)
    sidecar_path(engine).unlink()
    told["no sidecar"] = refusal(engine)
    sidecar_path(engine).write_text(sidecar_text)
    other = tmp_path / small_graph().name
    edited(small_graph(), scale_one_weight, other)
    told["another ONNX"] = refusal(engine)
    other.unlink()
    told["version"] = refusal(engine, version="1.6.0.1")
    told["capability"] = refusal(engine, gpu=Gpu("H100", (9, 0)))
    told["no GPU"] = refusal(engine, gpu=None)
    open_engine(engine)  # and it is whole again
    expected = {
        "truncated": "truncated, ",
        "another engine": "not the engine that its sidecar describes",
        "edited": "was changed after it was written",
        "cut sidecar": "not a whole sidecar",
        "no sidecar": "no such file; an engine is opened only with the sidecar",
        "another ONNX": "built from another ONNX file",
        "version": f"built by tensorrt-rtx {VERSION}, tensorrt-rtx 1.6.0.1 is installed",
        "capability": "built for compute capability 8.0, 8.6, 8.9, 12.0, this H100 has 9.0",
        "no GPU": "no GPU that CUDA can use was found",
    }
    for case, text in expected.items():
        assert [name for name, message in told.items() if text in message] == [case]
        assert "l2g build" in told[case] or case == "no GPU"


@pytest.mark.parametrize(
    ("name", "capability", "text"),
    [
        ("NVIDIA L4", (8, 9), "built on a NVIDIA RTX 4090, this machine has a NVIDIA L4"),
        ("NVIDIA RTX 4090", (8, 6), r"built for compute capability 8.9 \(NVIDIA RTX 4090\)"),
    ],
)
def test_an_engine_bound_to_a_gpu(tmp_path, name, capability, text):
    facts = {"library": "tensorrt", "library_version": "10.13", "gpu": "NVIDIA RTX 4090"}
    engine = fake_engine(tmp_path / "m.engine", small_graph(), compute_capabilities=("8.9",), **facts)
    sidecar = read_sidecar(engine)
    check_machine(engine, sidecar, "tensorrt", "10.13", Gpu("NVIDIA RTX 4090", (8, 9)))
    with pytest.raises(EngineError, match=text):
        check_machine(engine, sidecar, "tensorrt", "10.13", Gpu(name, capability))
    with pytest.raises(EngineError, match="built by tensorrt, tensorrt-rtx found"):
        check_machine(engine, sidecar, "tensorrt-rtx", "10.13", GPU)


RUNS = {(8, 0): True, (8, 7): True, (8, 9): True, (12, 0): True, (12, 1): True, (13, 0): True}
RUNS |= {(7, 5): False, (9, 0): False, (10, 0): False}


@pytest.mark.parametrize(("capability", "runs"), RUNS.items())
def test_which_gpus_a_portable_engine_runs_on(engine, capability, runs):
    sidecar = read_sidecar(engine)
    gpu = Gpu("some GPU", capability)
    if runs:
        check_machine(engine, sidecar, "tensorrt-rtx", VERSION, gpu)
    else:
        with pytest.raises(EngineError, match="--compute-capability current"):
            check_machine(engine, sidecar, "tensorrt-rtx", VERSION, gpu)


def test_an_engine_for_a_newer_gpu_of_the_same_generation(tmp_path):
    engine = fake_engine(tmp_path / "m.engine", small_graph(), compute_capabilities=("8.9",))
    check_machine(engine, read_sidecar(engine), "tensorrt-rtx", VERSION, Gpu("RTX 4090", (8, 9)))
    with pytest.raises(EngineError, match=r"built for compute capability 8\.9, this RTX 3090 has 8\.6"):
        check_machine(engine, read_sidecar(engine), "tensorrt-rtx", VERSION, Gpu("RTX 3090", (8, 6)))


def test_a_sidecar_that_was_edited_with_its_own_sum_in_mind_still_needs_the_engine(engine):
    """Whoever writes a new sum as well has made a new sidecar; the engine's own sum still binds it."""
    sidecar = read_sidecar(engine)
    forged = dataclasses.replace(sidecar, engine=dataclasses.replace(sidecar.engine, engine_sha256="0" * 64))
    write_sidecar(engine, forged)
    with pytest.raises(EngineError, match="not the engine that its sidecar describes"):
        check_file(engine, read_sidecar(engine))


@pytest.mark.parametrize("text", ["", "[]", "null", '{"kind": "l2g.engine"}', "\x00\xff"])
def test_rubbish_is_no_sidecar(engine, text):
    sidecar_path(engine).write_text(text)
    with pytest.raises(EngineError, match="not a whole sidecar"):
        read_sidecar(engine)


def test_another_schema_is_named(engine):
    data = json.loads(sidecar_path(engine).read_text())
    sidecar_path(engine).write_text(json.dumps({**data, "schema_version": 99}))
    with pytest.raises(EngineError, match=r"schema 99 found, l2g\.engine schema 1 expected"):
        read_sidecar(engine)


def test_a_verification_is_recorded_and_kept(tmp_path):
    engine = fake_engine(tmp_path / "m.engine", small_graph(), verification=EngineVerification("unverified", "no GPU"))
    assert not read_sidecar(engine).engine.verified
    record_verification(engine, EngineVerification("verified", gpu="a GPU"))
    assert read_sidecar(engine).engine.verification == EngineVerification("verified", gpu="a GPU")
    assert list(tmp_path.glob("*.part")) == []


def test_an_engine_that_is_found_to_differ_is_verified_no_more(engine, monkeypatch, capsys):
    """As on another GPU, or after another driver."""

    def disagree(*_):
        raise DisagreementError("boxes are apart")

    assert read_sidecar(engine).engine.verified
    monkeypatch.setattr("l2g.engines.verification.verify_engine", disagree)
    assert verify.main(["--engine", str(engine), "--onnx", str(small_graph()), "--quiet"]) == 1
    assert "boxes are apart" in capsys.readouterr().err
    assert read_sidecar(engine).engine.verification == EngineVerification("unverified", "boxes are apart")
    with pytest.warns(UserWarning, match="not verified against its graph .boxes are apart"):
        open_engine(engine)


def test_the_source_is_checked_by_its_content(engine, tmp_path):
    copy = tmp_path / "renamed.onnx"
    copy.write_bytes(small_graph().read_bytes())
    check_source(engine, read_sidecar(engine), copy)
    copy.write_bytes(copy.read_bytes() + b"\0")
    with pytest.raises(EngineError, match="built from another ONNX file than"):
        check_source(engine, read_sidecar(engine), copy)


def test_engines_need_no_torch_and_no_onnx():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = sys.modules['onnxruntime'] = None\n"
        "import l2g.runtime.backends.tensorrt.backend, l2g.runtime.backends.open, l2g.artifacts.sidecar\n"
        "import l2g.engines.verification"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"onnx": 5}, "engine.onnx"),
        ({"onnx": "../../secret.onnx"}, "without a folder"),
        ({"engine_bytes": "x"}, "engine.engine_bytes"),
        ({"engine_bytes": -1}, "engine.engine_bytes"),
        ({"engine_sha256": ["a"]}, "engine.engine_sha256"),
        ({"onnx_sha256": "000"}, "engine.onnx_sha256"),
        ({"compute_capabilities": "8.6"}, "engine.compute_capabilities"),
        ({"compute_capabilities": ["new"]}, "engine.compute_capabilities"),
        ({"compute_capabilities": []}, "engine.compute_capabilities"),
        ({"audit": 3}, "engine.audit"),
        ({"build_seconds": float("nan")}, "engine.build_seconds"),
        ({"versions": []}, "engine.versions"),
    ],
)
def test_a_sidecar_of_wrong_types_is_refused_whoever_signed_it(engine, change, named):
    data = json.loads(sidecar_path(engine).read_text())
    del data["sha256"]
    data["engine"] |= change
    sidecar_path(engine).write_text(json.dumps(data | {"sha256": sidecar_module._sum_of(data)}))
    with pytest.raises(EngineError, match=f"(?s)not a whole sidecar.*{named}"):
        read_sidecar(engine)


def test_the_cache_gives_nothing_of_another_graph(tmp_path):
    """Whatever lies at the place of a key: an engine of this graph, whole, or nothing."""
    entry = tmp_path / "key"
    entry.mkdir()

    def put():
        sidecar = read_sidecar(fake_engine(entry / engine_cache.ENGINE_NAME, small_graph()))
        return sidecar.engine.onnx_sha256, sidecar.contract

    source, contract = put()
    content, _ = engine_cache.find(tmp_path, "key", source, contract)
    assert content == (entry / engine_cache.ENGINE_NAME).read_bytes()
    assert engine_cache.find(tmp_path, "key", "0" * 64, contract) is None
    assert list(entry.iterdir()) == [], "what is wrong is removed"
    put()
    assert engine_cache.find(tmp_path, "key", source, dataclasses.replace(contract, association="embedding")) is None
    put()
    (entry / engine_cache.ENGINE_NAME).write_bytes(b"other code")
    assert engine_cache.find(tmp_path, "key", source, contract) is None


def test_a_cache_that_others_can_write_to_is_not_believed(tmp_path):
    entry = tmp_path / "key"
    entry.mkdir()
    sidecar = read_sidecar(fake_engine(entry / engine_cache.ENGINE_NAME, small_graph()))
    entry.chmod(0o777)
    with pytest.raises(EngineError, match="others than you can write there"):
        engine_cache.find(tmp_path, "key", sidecar.engine.onnx_sha256, sidecar.contract)


def test_a_cache_is_made_for_its_owner_alone_whatever_the_umask(tmp_path):
    fake_engine(tmp_path / "made.engine", small_graph())
    sidecar, content = read_sidecar(tmp_path / "made.engine"), (tmp_path / "made.engine").read_bytes()
    root = tmp_path / "l2g" / "engines"
    before = os.umask(0o002)
    try:
        engine_cache.store(root, "key", content, sidecar)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (root.parent, root, root / "key")] == [0o755] * 3
    assert engine_cache.find(root, "key", sidecar.engine.onnx_sha256, sidecar.contract) == (content, sidecar)
