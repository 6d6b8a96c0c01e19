"""The doctor finds every reason not to build, with its evidence, and says nothing of a graph that is fine."""

import json

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
from onnx import TensorProto, helper, numpy_helper

from l2g.artifacts.sidecar import Gpu
from l2g.cli.making.doctor import main
from l2g.engines.doctor import BF16_OPSET, examine, refuse
from l2g.engines.findings import Circumstances
from l2g.errors import EngineError
from l2g.export.inspection import inspect_graph
from l2g.export.precision.convert import REDUCED
from tests.engines.engines import engine_graph, rewritten
from tests.export.precision.half import halve, uncast
from tests.exported import edited, set_contract, small_graph

RTX = Circumstances("tensorrt-rtx", "1.7.1.116")
TENSORRT = Circumstances("tensorrt", "10.13.3")


def found(path, asked=RTX, rule=None):
    return [each for each in examine(path, asked) if rule in (None, each.rule)]


def only(path, asked, rule, severity="refuse"):
    """The one finding of a rule, which is of that severity."""
    (finding,) = found(path, asked, rule)
    assert finding.severity == severity
    assert finding.evidence
    assert finding.mend
    return finding


def test_a_graph_made_for_engines_is_healthy():
    assert found(engine_graph()) == []
    assert found(engine_graph("fp16")) == []
    assert found(engine_graph("int8")) == []
    assert found(engine_graph(), TENSORRT) == []


def test_a_contract_is_needed(tmp_path):
    path = edited(engine_graph(), set_contract(None), tmp_path / "m.onnx")
    assert "no usable 'l2g.contract'" in only(path, RTX, "contract").evidence


def test_a_changed_graph_is_refused(tmp_path):
    def change(model):
        model.graph.node[5].name += "?"

    assert (
        "have not the sum"
        in only(edited(engine_graph(), change, tmp_path / "m.onnx", summed=False), RTX, "sum").evidence
    )


def test_casts_that_were_removed(tmp_path):
    """The contract says FP16 and sums fit, as if a tool had written both; the graph itself has none of it."""
    path = rewritten(engine_graph("fp16"), uncast, tmp_path / "m.onnx")
    finding = only(path, RTX, "precision")
    assert "the graph has none of it" in finding.text
    assert finding.evidence.startswith("0 of ")
    with pytest.raises(EngineError, match=r"no engine is built from this graph[\s\S]*the graph has none of it"):
        refuse(path, examine(path, RTX))


def test_some_casts_that_were_removed(tmp_path):
    """One product's operand is float32 again, the other still FP16."""

    def change(model):
        cast = next(node for node in model.graph.node if node.op_type == "Cast" and node.output[0].endswith("_fp16"))
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                if name == cast.output[0]:
                    node.input[index] = cast.input[0]
        return model

    finding = only(rewritten(engine_graph("fp16"), change, tmp_path / "m.onnx"), RTX, "mixed")
    assert "fp16 and fp32" in finding.evidence


def test_too_little_fp16(tmp_path):
    path = rewritten(small_graph(), lambda model: halve(model, limit=3), tmp_path / "m.onnx", precision="fp16")
    finding = only(path, RTX, "precision")
    assert finding.evidence.startswith("3 of ")
    assert "95 % asked for" in finding.evidence
    assert found(path, Circumstances("tensorrt-rtx", "1.7", min_share=0.0), "precision") == []


def as_bf16(model):
    """The types of a halved graph, not its numbers."""
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT16:
            weight.data_type = TensorProto.BFLOAT16
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
    return model


def test_bf16_and_fp16_are_two_precisions(tmp_path):
    brain = rewritten(engine_graph("fp16"), as_bf16, tmp_path / "m.onnx", precision="bf16")
    assert found(brain, rule="precision") == []
    for path, precision in ((engine_graph("fp16"), "bf16"), (brain, "fp16"), (engine_graph(), "bf16")):
        finding = only(path, Circumstances("tensorrt-rtx", "1.7", precision=precision), "precision")
        assert finding.text.startswith(f"{precision} is asked for, and the graph has none of it")
        assert finding.mend.endswith(f"--precision {precision}")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_fp32_asked_for_of_another_graph(precision):
    path = engine_graph(precision)
    finding = only(path, Circumstances("tensorrt-rtx", "1.7", precision="fp32"), "precision")
    assert "fp32 is asked for, and too little of the graph has it" in finding.text
    assert "products in FP32" in finding.evidence
    lenient = Circumstances("tensorrt-rtx", "1.7", precision="fp32", min_share=0.0)
    assert f"the contract says {precision}" in only(path, lenient, "precision", "warn").text
    assert found(engine_graph(), Circumstances("tensorrt-rtx", "1.7", precision="fp32"), "precision") == []


def test_precision_asked_for_and_absent():
    for precision in ("fp16", "int8"):
        finding = only(engine_graph(), Circumstances("tensorrt-rtx", "1.7", precision=precision), "precision")
        assert f"{precision} is asked for" in finding.text
    asked = Circumstances("tensorrt-rtx", "1.7", precision="fp16")
    # Quantised convolutions are narrower than asked for; the products around them are not.
    assert "convolutions and products in FP16" in only(engine_graph("int8"), asked, "precision").evidence


def with_grids(opset, dtype, path):
    """One GridSample at the end of a graph of that opset, behind everything."""

    def change(model):
        model.opset_import[0].version = opset
        values = numpy_helper.from_array(np.zeros((1, 1, 4, 4), dtype), "pixels")
        grid = numpy_helper.from_array(np.zeros((1, 2, 2, 2), np.float32), "grid")
        model.graph.initializer.extend([values, grid])
        model.graph.node.append(helper.make_node("GridSample", ["pixels", "grid"], ["sampled"], "grid_node"))
        return model

    return rewritten(engine_graph(), change, path)


@pytest.mark.parametrize(
    ("library", "version", "opset", "dtype", "severity", "text"),
    [
        ("tensorrt", "10.13", 20, np.float32, "refuse", "TensorRT#4646"),
        ("tensorrt-rtx", "1.7", 20, np.float32, "warn", "TensorRT#4813"),
        ("tensorrt", "10.14", 17, np.float32, "refuse", "TensorRT#4813"),
        ("tensorrt", "11.1", 17, np.float32, "refuse", "TensorRT#4813"),
        ("tensorrt", "10.13", 17, np.float32, "warn", "TensorRT#4813"),
        ("tensorrt-rtx", "1.7", 17, np.float16, "refuse", "rejects GridSample of FP16 data"),
        ("tensorrt-rtx", "1.7", 17, np.float32, "warn", "TensorRT#4813"),
    ],
)
def test_gridsample(tmp_path, library, version, opset, dtype, severity, text):
    finding = only(
        with_grids(opset, dtype, tmp_path / "m.onnx"), Circumstances(library, version), "gridsample", severity
    )
    assert text in finding.text
    assert "GridSample 'grid_node'" in finding.evidence
    assert "--lowering gather" in finding.mend


@pytest.mark.parametrize(
    ("library", "version", "opset", "refused"),
    [
        ("tensorrt", "10.13", 20, False),
        ("tensorrt", "10.13", 21, True),
        ("tensorrt", "11.4", 21, False),
        ("tensorrt", "11.4", 26, True),
        ("tensorrt-rtx", "1.7", 26, True),
    ],
)
def test_library_and_opset(tmp_path, library, version, opset, refused):
    def change(model):
        model.opset_import[0].version = opset
        return model

    path = rewritten(engine_graph(), change, tmp_path / "m.onnx")
    assert [f.severity for f in found(path, Circumstances(library, version), "opset")] == ["refuse"] * refused


@pytest.mark.parametrize(("version", "refused"), [("10.8", True), ("11.1", False)])
def test_bf16_takes_a_newer_library(tmp_path, version, refused):
    """No older opset has it, so that exporting again in another one mends nothing."""

    def change(model):
        model.opset_import[0].version = BF16_OPSET
        for weight in model.graph.initializer:
            if weight.data_type == TensorProto.FLOAT:
                weight.data_type = TensorProto.BFLOAT16
        return model

    path = rewritten(engine_graph(), change, tmp_path / "m.onnx")
    texts = [f.text + "; " + f.mend for f in found(path, Circumstances("tensorrt", version), "opset")]
    assert len(texts) == refused
    for text in texts:
        assert "documented for opset 9 to 20, and BF16 takes opset 22; take TensorRT 11 or newer, or FP16" in text
        assert "--opset" not in text
    assert REDUCED["bf16"].opset == BF16_OPSET


def test_scales_of_two_types(tmp_path):
    """As when a pair stands in a float32 island and what it feeds is FP16 with FP16 scales."""

    def change(model):
        conv = next(node for node in model.graph.node if node.op_type == "Conv")
        pair = next(node for node in model.graph.node if conv.input[1] in node.output)
        scale = next(weight for weight in model.graph.initializer if weight.name == pair.input[1])
        half = numpy_helper.from_array(numpy_helper.to_array(scale).astype(np.float16), "half_scale")
        model.graph.initializer.append(half)
        pair.input[1] = "half_scale"
        return model

    finding = only(rewritten(engine_graph("int8"), change, tmp_path / "m.onnx"), RTX, "scales")
    assert finding.evidence.startswith("1 node: Conv ")
    assert "fp32 and fp16" in finding.evidence


def with_plugin(version, path):
    def change(model):
        model.graph.node.append(helper.make_node("MultiscaleDeformableAttnPlugin_TRT", ["queries"], ["plugged"], "p"))
        return model

    return rewritten(engine_graph(), change, path, plugin_version=version)


def test_plugins(tmp_path):
    path = with_plugin("1", tmp_path / "m.onnx")
    assert "ships no plugins" in only(path, RTX, "plugin").text
    have = frozenset({("MultiscaleDeformableAttnPlugin_TRT", "1")})
    assert found(path, Circumstances("tensorrt", "10.13", plugins=have), "plugin") == []
    absent = Circumstances("tensorrt", "10.13", plugins=frozenset({("Other", "1")}))
    assert "does not offer Multiscale" in only(path, absent, "plugin").text
    assert "wants version 2" in only(path, Circumstances("tensorrt", "11.2"), "plugin").text


def test_memory(tmp_path):
    poor = Circumstances("tensorrt-rtx", "1.7", memory=300 << 20)
    assert "0.31 GB free" in only(engine_graph(), poor, "memory").evidence
    full = Gpu("a GPU", (8, 9), memory=8 << 30, free_memory=1 << 20)
    assert (
        "a GPU: 0.00 GB free" in only(engine_graph(), Circumstances("tensorrt", "10.13", gpu=full), "memory").evidence
    )
    rich = Circumstances("tensorrt", "10.13", memory=4 << 30, gpu=Gpu("a GPU", (8, 9), 8 << 30, 8 << 30))
    assert found(engine_graph(), rich, "memory") == []


def test_uint8_goes_into_a_cast_only(tmp_path):
    def change(model):
        cast = next(node for node in model.graph.node if "frames" in node.input)
        assert cast.op_type == "Cast"
        cast.op_type = "Identity"
        del cast.attribute[:]
        return model

    assert "Identity" in only(rewritten(engine_graph(), change, tmp_path / "m.onnx"), RTX, "uint8").evidence


def test_what_is_laid_out_for_another_library_is_a_warning():
    assert [f.rule for f in found(small_graph()) if f.severity == "warn"] == ["target"]
    refuse(small_graph(), examine(small_graph(), RTX))


def test_the_command(tmp_path, capsys):
    path = str(engine_graph())
    assert main([path, "--library", "tensorrt-rtx", "--library-version", "1.7"]) == 0
    assert "nothing found" in capsys.readouterr().out
    assert main([path, "--library-version", "10.13", "--precision", "int8", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding["rule"] == "precision"
    assert main([str(tmp_path / "none.onnx")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_fixtures_are_valid_onnx(tmp_path):
    for precision in ("fp32", "fp16", "int8"):
        onnx.checker.check_model(onnx.load(engine_graph(precision)), full_check=True)
    uncast_again = rewritten(engine_graph("fp16"), uncast, tmp_path / "m.onnx")
    onnx.checker.check_model(onnx.load(uncast_again), full_check=True)
    weights = onnx.load(engine_graph("fp16")).graph.initializer
    assert sum(weight.data_type == TensorProto.FLOAT16 for weight in weights) > 20


@pytest.mark.parametrize(
    "change", [{"class_names": ["a"]}, {"association": "no"}, {"output_kind": "detections"}, {"height": 96}]
)
def test_what_the_runtime_refuses_is_refused(tmp_path, change):
    data = inspect_graph(engine_graph()).contract.to_dict() | change
    only(edited(engine_graph(), set_contract(json.dumps(data)), tmp_path / "m.onnx"), RTX, "contract")


def test_a_graph_of_another_boundary_is_refused(tmp_path):
    def rename(model):
        model.graph.output[0].name += "?"

    path = edited(engine_graph(), rename, tmp_path / "m.onnx")
    assert {finding.rule for finding in examine(path, RTX) if finding.severity == "refuse"} == {"boundary"}
