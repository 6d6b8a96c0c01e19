"""The doctor of a file for the libraries that run it as it is: whether they open it here, and what it runs in."""

import json
from types import SimpleNamespace

import onnx
import pytest

pytest.importorskip("torch")
from onnx import TensorProto, helper

from l2g.artifacts.records import Audit
from l2g.cli.making.doctor import main
from l2g.engines import graph_doctor
from l2g.engines.graph_doctor import examine_graph
from l2g.errors import EngineError, L2GError
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from tests.exported import edited, set_contract, small_graph

PLUGIN = "MultiscaleDeformableAttnPlugin_TRT"


class Opened:
    """An open graph that says so of itself."""

    device = "CPU"

    def __init__(self, precision="bf16", lacking=None, share=1.0, flops=None):
        self.precision, self.lacking, self.share = precision, lacking, share
        self.flops = flops or {precision: 10}
        self.contract = SimpleNamespace(build=SimpleNamespace(precision=precision))

    def audit(self):
        if self.share is None:
            raise EngineError("no audit is possible on NPU")
        return Audit(self.precision, self.share, self.flops, {}, {}, (), 0, None, None, "runtime model")

    def close(self):
        pass


@pytest.fixture
def opens(monkeypatch):
    def plant(backend):
        monkeypatch.setattr(graph_doctor, "open_backend", lambda path, library: backend)

    return plant


def told(findings):
    return [(each.severity, each.rule) for each in findings]


def test_a_graph_that_runs_says_in_what(capsys):
    assert main([str(small_graph()), "--library", "onnxruntime", "--json"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)
    assert (finding["severity"], finding["text"]) == ("note", "ONNX Runtime opens it on CPU, in FP32")


def test_the_real_openvino_is_asked(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("L2G_CACHE", str(tmp_path))
    (finding,) = examine_graph(small_graph(), "openvino")
    assert (finding.severity, finding.text) == ("note", "OpenVINO opens it on CPU, in FP32")
    assert finding.evidence == "FP32 100.0 % of the FLOPs"


def test_float32_in_the_place_of_bf16_is_a_warning(opens):
    opens(Opened("int8 + fp32", "bf16", flops={"int8": 66, "fp32": 34, "bf16": 0}))
    warning, note = examine_graph(small_graph(), "openvino")
    assert warning.severity == "warn"
    assert warning.text == "CPU has no BF16 arithmetic: FP32 takes its place"
    assert warning.evidence == "OpenVINO on CPU: INT8 66.0 %, FP32 34.0 % of the FLOPs"
    assert note.text == "OpenVINO opens it on CPU, in INT8 + FP32"


@pytest.mark.parametrize(
    ("precision", "asked", "share", "expected"),
    [
        ("int8 + bf16", "bf16", 1.0, ["note"]),
        ("int8 + bf16", "int8", 1.0, ["note"]),
        ("int8 + fp32", "bf16", 1.0, ["refuse", "note"]),
        ("bf16", None, 0.9, ["refuse", "note"]),
        ("fp16", None, None, ["note"]),
    ],
)
def test_what_is_asked_for_is_to_be_found(opens, precision, asked, share, expected):
    opens(Opened(precision, share=share))
    found = examine_graph(small_graph(), "openvino", asked, min_share=0.95)
    assert [each.severity for each in found] == expected
    if share is None:
        assert found[0].evidence == "no audit is possible on NPU"


def test_what_does_not_open_says_why_and_what_mends_it(monkeypatch):
    def refused(path, library):
        raise L2GError(f"{path}: BF16 found, and ONNX Runtime's CPU has no BF16; run it with --library openvino")

    monkeypatch.setattr(graph_doctor, "open_backend", refused)
    (finding,) = examine_graph(small_graph(), "onnxruntime")
    assert (finding.severity, finding.mend) == ("refuse", "run it with --library openvino")
    assert finding.evidence == "BF16 found, and ONNX Runtime's CPU has no BF16"


def with_plugin(model):
    node = next(node for node in model.graph.node if node.op_type == "Softmax")
    node.op_type, node.domain = PLUGIN, "trt.plugins"
    model.opset_import.add(domain="trt.plugins", version=1)


def test_a_plugin_and_a_contract_are_told_before_anything_is_opened(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(graph_doctor, "open_backend", None)
    plugin = edited(small_graph(), with_plugin, tmp_path / "plugin.onnx")
    assert main([str(plugin), "--library", "openvino"]) == 1
    printed = capsys.readouterr().out
    assert "refuse: OpenVINO has none of TensorRT's plugins; only TensorRT runs this file" in printed
    assert f"1 node: {PLUGIN}" in printed
    bare = edited(small_graph(), set_contract(None), tmp_path / "bare.onnx")
    assert told(examine_graph(bare, "onnxruntime")) == [("refuse", "contract")]


def test_a_version_is_of_tensorrt(capsys):
    assert main([str(small_graph()), "--library", "openvino", "--library-version", "10.3"]) == 2
    assert "--library-version given, which has no effect here" in capsys.readouterr().err


@pytest.mark.parametrize("library", ["OpenVINO", "ONNX Runtime"])
@pytest.mark.parametrize(("operator", "plugin"), [(PLUGIN, True), ("Unheard", False)])
def test_the_libraries_name_an_operator_that_they_have_not(tmp_path, library, operator, plugin):
    path, shape = tmp_path / "Plugin.onnx", [1]
    value, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "ab")
    graph = helper.make_graph([helper.make_node(operator, ["a"], ["b"], domain="trt.plugins")], "g", [value], [result])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("trt.plugins", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    if library == "OpenVINO":
        openvino = pytest.importorskip("l2g.runtime.backends.openvino.backend")
        opener, name = openvino._read_model, f"trt.plugins.{operator}"
    else:
        opener, name = OnnxRuntimeBackend, f"trt.plugins:{operator}"
    with pytest.raises(L2GError) as error:
        opener(path)
    more = "only TensorRT with that plugin runs this file; " if plugin else ""
    assert str(error.value) == (
        f"{path}: {library} has no operator {name}; {more}export it for {library} with: "
        f"l2g export --ckpt CKPT --output {path}"
    )
