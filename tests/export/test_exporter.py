"""The exported file: its numbers for any number of streams, its contract, and what is refused."""

import hashlib
import json
import os

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from l2g.artifacts.graph_sum import intact
from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.contract import METADATA_KEY, GraphContract
from l2g.errors import ExportError
from l2g.export import exporter
from l2g.export.deformable.lowering import plugin_nodes
from l2g.export.deformable.plugin import check_plugins
from l2g.export.exporter import ExportOptions, build_graph, contract_of, export
from tests.export.models import close, eager, inputs, run, session, traced
from tests.exported import exported_model, small_checkpoint, small_graph


@pytest.fixture
def traced_once(monkeypatch):
    """Exports of the small model at opset 17 take its graph from the one trace."""

    def trace(_, contract, opset, _progress):
        assert opset == 17
        return traced(None if contract.output_kind == "raw" else contract.output("scores").shape[1])

    monkeypatch.setattr(exporter, "trace", trace)


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_any_number_of_streams_in_any_state(streams):
    model, runner = exported_model(), session(small_graph())
    for seed in range(3):
        arrays = inputs(model, streams, seed=seed, valid=[(seed + index) % 2 for index in range(streams)])
        close(run(runner, arrays), eager(model, arrays))


def test_streams_do_not_touch_each_other():
    runner = session(small_graph())
    arrays = inputs(exported_model(), 3)
    together = run(runner, arrays)
    for stream in range(3):
        alone = run(runner, tuple(array[stream : stream + 1] for array in arrays))
        close([array[stream : stream + 1] for array in together], alone)


@pytest.mark.parametrize("content", [0.0, np.nan, 1e30, -np.inf])
def test_the_prior_of_a_fresh_stream_has_no_effect(content):
    runner = session(small_graph())
    frames, queries, boxes, valid = inputs(exported_model(), 2, valid=[0, 1])
    expected = run(runner, (frames, queries, boxes, valid))
    queries[0], boxes[0] = content, content
    for array, wanted in zip(run(runner, (frames, queries, boxes, valid)), expected, strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_a_nan_prior_that_counts_does_no_harm_to_the_other_stream():
    runner = session(small_graph())
    frames, queries, boxes, valid = inputs(exported_model(), 2, valid=[1, 1])
    expected = run(runner, (frames, queries, boxes, valid))
    queries[0], boxes[0] = np.nan, np.nan
    found = run(runner, (frames, queries, boxes, valid))
    assert np.isnan(found[0][0]).all()
    close([array[1:] for array in found], [array[1:] for array in expected])


def test_three_hundred_frames_without_a_nan():
    model, runner = exported_model(), session(small_graph())
    queries, boxes = np.full((1, 10, 64), np.nan, np.float32), np.full((1, 10, 4), np.nan, np.float32)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (1, *model.config.input_size, 3), dtype=np.uint8)
    for frame in range(300):
        picture = np.roll(picture, 1, axis=2)
        outputs = run(runner, (picture, queries, boxes, np.full((1, 1), frame > 0, np.float32)))
        assert all(np.isfinite(array).all() for array in outputs), frame
        queries, boxes = outputs[:2]


LOWERINGS = [
    {"target": "tensorrt"},
    {"lowering": "gridsample"},
    {"simplify": True, "top_k": 4},
    {"lowering": "plugin", "target": "tensorrt", "simplify": True},
]


@pytest.mark.parametrize("choices", LOWERINGS, ids=[" ".join(map(str, choices.values())) for choices in LOWERINGS])
def test_every_lowering_passes_its_verification(choices, traced_once, tmp_path):
    options = ExportOptions(**choices)
    done = export(exported_model(), tmp_path / "model.onnx", options)
    assert done.verification.differences["queries"] < 1e-4
    assert done.verification.rollouts == ((1, 3), (3, 2))
    contract = read_contract(read_model(done.path), done.path)
    assert contract.to_json() == done.contract.to_json()
    assert [contract.build.lowering, contract.build.target, contract.build.simplified] == [
        options.lowering,
        options.target,
        options.simplify,
    ]
    if options.lowering != "plugin":
        arrays = inputs(exported_model(), 2)
        found, expected = run(session(done.path), arrays), eager(exported_model(), arrays, options.top_k)
        if options.top_k is None:
            close(found, expected)
        else:
            assert [array.dtype for array in found[2:]] == [np.float32, np.int32, np.int32, np.uint8]
            np.testing.assert_allclose(found[2], expected[2], atol=1e-4)
            np.testing.assert_array_equal(found[4], expected[4])
            np.testing.assert_allclose(found[5].astype(int), expected[5].astype(int), atol=1)


def test_simplifying_leaves_fewer_nodes_and_the_numbers():
    model = exported_model()
    contract = contract_of(model, ExportOptions())
    graphs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "trace", lambda *_: traced())
        graphs = [build_graph(model, contract, ExportOptions(simplify=simplify)) for simplify in (False, True)]
    counts = [len(onnx.load_from_string(graph).graph.node) for graph in graphs]
    assert counts[1] < counts[0]
    arrays = inputs(model, 2)
    for before, after in zip(*(run(session(graph), arrays) for graph in graphs), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=2e-5)


@pytest.mark.parametrize("opset", [18, 20])
def test_other_opsets(opset, tmp_path):
    done = export(exported_model(), tmp_path / "model.onnx", ExportOptions(opset=opset, lowering="gridsample"))
    assert {entry.domain: entry.version for entry in read_model(done.path).opset_import} == {"": opset}


def test_a_model_exports_from_its_checkpoint_alone(tmp_path, traced_once):
    done = export(exported_model(), tmp_path / "model.onnx", checkpoint=small_checkpoint())
    text = {entry.key: entry.value for entry in onnx.load(done.path).metadata_props}[METADATA_KEY]
    contract = GraphContract.from_json(text)
    assert text == done.contract.to_json()
    build = contract.build
    assert build.checkpoint_sha256 == hashlib.sha256(small_checkpoint().read_bytes()).hexdigest()
    assert build.verification.differences == done.verification.differences
    assert build.precision == "fp32"
    assert build.versions["torch"] == torch.__version__
    assert contract.class_names == exported_model().config.class_names
    assert json.loads(text)["states"] == [
        {"input": "prior_queries", "output": "queries", "initial": "zeros"},
        {"input": "prior_boxes", "output": "boxes", "initial": "zeros"},
    ]


def test_the_sum_is_of_the_graph_without_the_contract(tmp_path):
    path = tmp_path / "model.onnx"
    content = small_graph().read_bytes()
    path.write_bytes(content)
    contract = read_contract(read_model(path), path)
    size = contract.build.graph_bytes
    assert hashlib.sha256(content[:size]).hexdigest() == contract.build.graph_sha256
    assert METADATA_KEY.encode() not in content[:size]
    assert intact(path, contract)
    path.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    assert not intact(path, contract)


def test_a_failed_verification_leaves_nothing(tmp_path, monkeypatch, traced_once):
    def wrong(*arguments):
        model = onnx.load_from_string(build_graph(*arguments))
        weight = next(w for w in model.graph.initializer if w.name.endswith("bbox_embed.layers.2.bias"))
        array = onnx.numpy_helper.to_array(weight).copy()
        array[0] *= 1.1
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        return model.SerializeToString()

    monkeypatch.setattr(exporter, "build_graph", wrong)
    with pytest.raises(
        ExportError, match=r"output 'queries' by 0\.\d+ \(tolerance 0.0001\) at .* first in frame 0 of the"
    ):
        export(exported_model(), tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


def test_a_block_that_the_graph_has_not_is_refused_before_the_verification(tmp_path, monkeypatch, traced_once):
    monkeypatch.setattr(exporter, "rollouts", lambda *_: pytest.fail("the model was run"))
    options = ExportOptions(precision="fp16", fp32_blocks=("encoder", "foo"))
    with pytest.raises(ExportError, match=r"the graph has no block 'foo'; it has .*encoder\.layers\.0"):
        export(exported_model(), tmp_path / "model.onnx", options)
    assert os.listdir(tmp_path) == []


def test_an_older_file_survives_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"older")
    monkeypatch.setattr(exporter, "trace", lambda *_: traced())
    monkeypatch.setattr(exporter, "rollouts", lambda *_: (_ for _ in ()).throw(ExportError("no")))
    with pytest.raises(ExportError):
        export(exported_model(), path)
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_plugin_graph_is_checked_node_by_node():
    model = exported_model()
    contract = contract_of(model, ExportOptions())
    options = ExportOptions(lowering="plugin", target="tensorrt", plugin_version="2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "trace", lambda *_: traced())
        graph = ir.from_proto(onnx.load_from_string(build_graph(model, contract, options)))
    nodes = plugin_nodes(graph)
    assert check_plugins(graph, model.config) == len(nodes) == 3
    assert {node.attributes["plugin_version"].as_string() for node in nodes} == {"2"}
    tokens = 2 * 1 + 2 * 3 + 4 * 6 + 8 * 12  # strides 64 (rounded up), 32, 16, 8 of 64 x 96
    assert [node.inputs[0].shape.dims[1] for node in nodes] == [tokens] * 3
    assert [node.inputs[3].shape.dims[1] for node in nodes] == [tokens, 10, 10]
    nodes[1].inputs[3].dtype = ir.DataType.FLOAT16
    with pytest.raises(ExportError, match="sampling_locations is FLOAT16"):
        check_plugins(graph, model.config)
    nodes[1].inputs[3].dtype = ir.DataType.FLOAT
    nodes[2].replace_input_with(2, nodes[2].inputs[1])
    with pytest.raises(ExportError, match="levels begin at"):
        check_plugins(graph, model.config)
    graph.graph.remove(nodes[0])
    with pytest.raises(ExportError, match="2 plugin nodes found, 3 expected"):
        check_plugins(graph, model.config)


REFUSED = {
    "17 to 20 expected": {"opset": 16},
    "opset 21 found": {"opset": 21},
    "add --target tensorrt": {"lowering": "plugin"},
    "TensorRT#4646": {"lowering": "gridsample", "target": "tensorrt", "opset": 20},
    "lowering 'magic' found": {"lowering": "magic"},
    "target 'phone' found": {"target": "phone"},
    "plugin version '3' found": {"plugin_version": "3"},
    "1 to 127 expected": {"max_streams": 128},
    "top-k 0 found": {"top_k": 0},
}


@pytest.mark.parametrize(("text", "options"), REFUSED.items(), ids=REFUSED)
def test_refusals(text, options):
    with pytest.raises(ExportError, match=text):
        ExportOptions(**options)


@pytest.mark.parametrize(("text", "options"), [("multiples of 32", {"height": 100}), ("x0 found", {"width": 0})])
def test_a_canvas_that_the_model_cannot_take_is_refused(text, options):
    with pytest.raises(ExportError, match=text):
        contract_of(exported_model(), ExportOptions(**options))


def test_more_instances_than_slots_are_as_many_as_there_are():
    assert contract_of(exported_model(), ExportOptions(top_k=50)).output("slots").shape == ("B", 10)
