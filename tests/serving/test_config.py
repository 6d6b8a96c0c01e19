"""`config.pbtxt` by the server's own protobuf: what it holds, field by field."""

import json
from dataclasses import replace

import pytest

from l2g.contract import TensorSpec, make_contract
from l2g.errors import ConfigError
from l2g.serving import wire
from l2g.serving.config import differences, graph_config, tracks_config
from l2g.serving.options import ServingOptions, batching

CONTRACT = make_contract(
    height=96,
    width=160,
    num_queries=20,
    hidden_dim=64,
    class_names=('a "quoted" cat', "dög\n"),
    association="propagate",
)
GRAPH = {"backend": "onnxruntime"}


@pytest.fixture(scope="module")
def parse():
    """Text -> the server's ModelConfig; an unknown field, a wrong type or a wrong name of an enumeration raises."""
    pb = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")
    from google.protobuf import text_format

    return lambda text: text_format.Parse(text, pb.ModelConfig())


def _tracks(options=None, contract=CONTRACT):
    options = options or ServingOptions()
    return tracks_config("m", {"model": "m.onnx"}, contract, options, batching(options))


def _graph(contract=CONTRACT, **how):
    options = ServingOptions(**{**GRAPH, **how})
    return graph_config("m_graph", contract, options, batching(options))


def _controls(config):
    return {control.name: control.control[0] for control in config.sequence_batching.control_input}


def test_the_model_that_returns_tracks(parse):
    config = parse(_tracks(ServingOptions(score_threshold=0.25, cuts=(1.5, 20.0), library="openvino", idle=2.5)))
    assert (config.name, config.backend, config.max_batch_size) == ("m", "python", 4)
    assert [(t.name, list(t.dims), t.optional, t.allow_ragged_batch) for t in config.input] == [
        ("FRAME", [-1, -1, 3], True, True),
        ("PICTURE", [1], True, True),
        ("TIME", [1], True, True),
        ("RESET", [1], True, True),
    ]
    assert [t.name for t in config.output] == [spec.name for spec in wire.OUTPUTS]
    batcher = config.sequence_batching
    assert batcher.max_sequence_idle_microseconds == 2_500_000
    assert batcher.WhichOneof("strategy_choice") == "direct"
    controls = _controls(config)
    for name, kind in (("START", 0), ("READY", 1), ("END", 2)):
        assert (controls[name].kind, list(controls[name].bool_false_true)) == (kind, [False, True])
    assert (controls["CORRID"].kind, controls["CORRID"].data_type) == (3, 5)  # TYPE_UINT64
    values = {key: entry.string_value for key, entry in config.parameters.items()}
    assert tuple(json.loads(values["class_names"])) == CONTRACT.class_names
    expected = {"model": "m.onnx", "score_threshold": "0.25", "top_k": "50", "max_age": "30", "cuts": "1.5,20.0"}
    assert {key: values[key] for key in expected} == expected
    assert (values["library"], "device" in values) == ("openvino", False)


def test_warm_up_is_a_first_frame_and_a_last_one(parse):
    first, later = parse(_tracks()).model_warmup
    assert (first.name, later.name, first.batch_size, first.count) == ("first frame", "later frame", 1, 0)
    for sample, true in ((first, {"START", "READY"}), (later, {"END", "READY"})):
        assert set(sample.inputs) == {"FRAME", "START", "END", "READY", "CORRID"}
        assert {name for name, data in sample.inputs.items() if data.input_data_file == "true"} == true
        assert list(sample.inputs["FRAME"].dims) == [96, 160, 3]
    assert len(parse(_tracks(ServingOptions(warm_up=False))).model_warmup) == 0
    assert len(parse(_graph()).model_warmup) == 0


def test_the_graph_with_the_server_s_state(parse):
    config = parse(_graph(streams=20))
    assert (config.platform, config.backend, config.max_batch_size) == ("onnxruntime_onnx", "", 8)
    assert [(t.name, list(t.dims)) for t in config.input] == [("frames", [96, 160, 3])]
    outputs = {t.name: list(t.dims) for t in config.output}
    assert outputs["queries"] == [20, 64]
    assert list(outputs) == [spec.name for spec in CONTRACT.outputs]
    states = {state.input_name: state for state in config.sequence_batching.state}
    assert {name: (s.output_name, list(s.dims)) for name, s in states.items()} == {
        "prior_queries": ("queries", [20, 64]),
        "prior_boxes": ("boxes", [20, 4]),
    }
    for state in states.values():
        (initial,) = state.initial_state
        assert (initial.zero_data, initial.data_type, list(initial.dims)) == (True, 11, list(state.dims))
        assert state.use_same_buffer_for_input_output
        assert initial.name
    oldest = config.sequence_batching.oldest
    assert (oldest.max_candidate_sequences, list(oldest.preferred_batch_size)) == (20, [])
    assert parse(_graph(backend="tensorrt", gpu=True)).platform == "tensorrt_plan"


@pytest.mark.parametrize(
    ("dtype", "field"), [("float32", "fp32_false_true"), ("int32", "int32_false_true"), ("bool", "bool_false_true")]
)
def test_start_is_the_validity_input_turned_round(parse, dtype, field):
    inputs = tuple(
        TensorSpec(spec.name, dtype, spec.shape) if spec.name == "prior_valid" else spec for spec in CONTRACT.inputs
    )
    (control,) = _controls(parse(_graph(replace(CONTRACT, inputs=inputs)))).values()
    assert control.kind == 0  # CONTROL_SEQUENCE_START
    assert [bool(value) for value in getattr(control, field)] == [True, False]
    with pytest.raises(ConfigError, match="input 'prior_valid' is float16"):
        _graph(replace(CONTRACT, inputs=tuple(replace(s, dtype="float16") for s in inputs)))


def test_every_frame_of_an_image_model_is_a_first_one(parse):
    (control,) = _controls(parse(_graph(replace(CONTRACT, association="embedding")))).values()
    assert list(control.fp32_false_true) == [0, 0]


def test_states_are_those_of_the_contract(parse):
    """A family with other pairs, without boxes."""
    other = make_contract(
        height=64, width=64, num_queries=10, hidden_dim=32, class_names=("a",), association="propagate", boxes=False,
        scoring="softmax", resize="squash", top_k=5,
    )  # fmt: skip
    config = parse(_graph(other))
    assert [state.input_name for state in config.sequence_batching.state] == ["prior_queries"]
    assert {t.name: list(t.dims) for t in config.output}["masks"] == [5, 16, 16]


def test_batches_instances_and_versions(parse):
    how = {"streams": 30, "instances": 2, "gpu": True, "delay": 0.004, "preferred": (2, 8), "versions": "3"}
    config = parse(_graph(**how))
    oldest = config.sequence_batching.oldest
    assert (oldest.max_candidate_sequences, list(oldest.preferred_batch_size)) == (15, [2, 8])
    assert oldest.max_queue_delay_microseconds == 4000
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, 1)  # KIND_GPU
    assert config.version_policy.latest.num_versions == 3
    direct = parse(_tracks(ServingOptions(delay=0.004, versions="all")))
    assert direct.sequence_batching.direct.max_queue_delay_microseconds == 4000
    assert direct.sequence_batching.direct.minimum_slot_utilization == 1
    assert direct.version_policy.WhichOneof("policy_choice") == "all"
    (group,) = direct.instance_group
    assert (group.count, group.kind) == (1, 2)  # KIND_CPU


def test_a_shape_that_no_batch_has():
    inputs = (TensorSpec("frames", "uint8", (1, 96, 160, 3)), *CONTRACT.inputs[1:])
    with pytest.raises(ConfigError, match=r"tensor 'frames' is \[1, 96, 160, 3\], a free first axis"):
        _graph(replace(CONTRACT, inputs=inputs))


@pytest.mark.parametrize(
    ("change", "tracks", "graph"),
    [
        ({}, [], []),
        ({"class_names": ("a", "b")}, ["class names"], []),
        ({"association": "embedding"}, [], ["association"]),
        ({"height": 128}, [], ["tensors"]),
    ],
)
def test_what_cannot_be_of_another_version(change, tracks, graph):
    """The rest of a configuration is how it is served, and the last one's."""
    other = replace(CONTRACT, **{name: value for name, value in change.items() if name != "height"})
    if "height" in change:
        facts = {"width": 160, "num_queries": 20, "hidden_dim": 64, "class_names": CONTRACT.class_names}
        other = make_contract(**facts, **change, association="propagate")
    how = ServingOptions(streams=2, score_threshold=0.1, versions="all", delay=0.01)
    assert differences(_tracks(), _tracks(how, other)) == tracks
    assert differences(_graph(), _graph(other, streams=2, versions="all")) == graph


def test_another_backend_is_another_model():
    options = ServingOptions()
    elsewhere = tracks_config("m", {"graph": "m_graph"}, CONTRACT, options, batching(options))
    assert differences(_tracks(), elsewhere) == ["file or graph"]
    assert differences(_graph(), _graph(backend="tensorrt", gpu=True)) == ["backend"]
