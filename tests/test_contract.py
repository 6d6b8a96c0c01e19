"""The contract that travels with an artifact: complete, exact through JSON, and refused when it does not fit."""

import itertools
import json

import numpy as np
import pytest

from l2g import contract
from l2g.contract import GraphContract, StateSpec, TensorSpec, make_contract
from l2g.errors import ContractError
from l2g.provenance import BuildFacts

ARGUMENTS = {
    "height": 96,
    "width": 160,
    "num_queries": 20,
    "hidden_dim": 64,
    "class_names": ("cat", "dog", "owl"),
    "association": "propagate",
}


def test_raw_contract_lists_the_design():
    made = make_contract(**ARGUMENTS)
    assert made.inputs == (
        TensorSpec("frames", "uint8", ("B", 96, 160, 3)),
        TensorSpec("prior_queries", "float32", ("B", 20, 64)),
        TensorSpec("prior_boxes", "float32", ("B", 20, 4)),
        TensorSpec("prior_valid", "float32", ("B", 1)),
    )
    assert made.outputs == (
        TensorSpec("queries", "float32", ("B", 20, 64)),
        TensorSpec("boxes", "float32", ("B", 20, 4)),
        TensorSpec("logits", "float32", ("B", 20, 3)),
        TensorSpec("mask_logits", "float32", ("B", 20, 24, 40)),
    )
    assert made.states == (StateSpec("prior_queries", "queries"), StateSpec("prior_boxes", "boxes"))
    assert (made.output_kind, made.valid_input, made.resize) == ("raw", "prior_valid", "letterbox")


def test_detections_replace_what_the_host_need_not_copy():
    made = make_contract(**ARGUMENTS, top_k=5)
    assert made.output_kind == "detections"
    assert made.outputs[2:] == (
        TensorSpec("scores", "float32", ("B", 5)),
        TensorSpec("labels", "int32", ("B", 5)),
        TensorSpec("slots", "int32", ("B", 5)),
        TensorSpec("masks", "uint8", ("B", 5, 24, 40)),
    )
    assert made.outputs[:2] == make_contract(**ARGUMENTS).outputs[:2]


@pytest.mark.parametrize("top_k", [None, 5])
def test_json_and_back(top_k):
    made = make_contract(**ARGUMENTS, top_k=top_k, model={"num_queries": 20}, build=BuildFacts(precision="fp16"))
    again = GraphContract.from_json(made.to_json())
    assert again == made
    assert json.loads(made.to_json())["schema_version"] == 1


def test_the_canvas_is_padded_with_the_colour_nearest_to_zero():
    for value, mean, std in zip(contract.PAD_VALUE, contract.PIXEL_MEAN, contract.PIXEL_STD, strict=True):
        normalised = np.abs((np.arange(256) - mean) / std)
        assert value == normalised.argmin()


@pytest.mark.parametrize(
    ("array", "fits"),
    [
        (np.zeros((1, 20, 4), np.float32), True),
        (np.zeros((7, 20, 4), np.float32), True),
        (np.zeros((1, 20, 4), np.float64), False),
        (np.zeros((1, 20, 4), np.float16), False),
        (np.zeros((1, 21, 4), np.float32), False),
        (np.zeros((20, 4), np.float32), False),
        (np.zeros((1, 1, 20, 4), np.float32), False),
    ],
)
def test_tensors_are_checked(array, fits):
    spec = make_contract(**ARGUMENTS).input("prior_boxes")
    if fits:
        spec.check(array)
    else:
        found = f"'prior_boxes': found {array.dtype} {list(array.shape)}, expected float32 [B, 20, 4]"
        with pytest.raises(ContractError) as error:
            spec.check(array)
        assert found in str(error.value)


def test_names_are_looked_up():
    made = make_contract(**ARGUMENTS)
    assert made.output("logits").shape == ("B", 20, 3)
    with pytest.raises(ContractError, match=r"no output named 'scores'; the contract has \['queries', 'boxes'"):
        made.output("scores")
    with pytest.raises(ContractError, match="no input named 'image'"):
        made.input("image")


def test_foreign_and_damaged_contracts_are_refused():
    text = make_contract(**ARGUMENTS).to_json()
    data = json.loads(text)
    broken = {
        "not JSON": text[:-5],
        "not a JSON object but a list": "[1, 2]",
        "schema version 99 found, 1, 2, 3, 4 expected": json.dumps(data | {"schema_version": 99}),
        "schema_version: None found": "{}",
        "unexpected keyword": json.dumps(data | {"colour": 1}),
        "'states'": json.dumps({key: value for key, value in data.items() if key != "states"}),
        "'dtype'": json.dumps(data | {"inputs": [{"name": "frames"}]}),
        "mean: 3 found, expected a list": json.dumps(data | {"mean": 3}),
    }
    for message, damaged in broken.items():
        with pytest.raises(ContractError) as error:
            GraphContract.from_json(damaged)
        assert message.removeprefix("not JSON") in str(error.value)
        assert "export the model again" in str(error.value)


def test_every_prefix_of_a_contract_is_refused_cleanly():
    text = make_contract(**ARGUMENTS).to_json()
    for length in itertools.chain(range(0, len(text) - 1, 97), [len(text) - 1]):
        with pytest.raises(ContractError):
            GraphContract.from_json(text[:length])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema_version": True}, "schema_version: True"),
        ({"schema_version": 1.0}, "schema_version: 1.0"),
        ({"class_names": ["a"]}, "class_names: '1 names'"),
        ({"class_names": []}, "class_names"),
        ({"class_names": "abc"}, "class_names: 'abc' found, expected a list"),
        ({"class_names": [1, 2, 3]}, "class_names: 1 found"),
        ({"class_names": ["a\0", "b", "c"]}, "class_names"),
        ({"class_names": ["\ud800", "b", "c"]}, "class_names"),
        ({"pad_value": [300, -5, 1]}, "pad_value: 300"),
        ({"pad_value": [1, 2]}, "pad_value"),
        ({"pad_value": [True, 2, 3]}, "pad_value: True"),
        ({"mean": [0, float("nan"), 0]}, "mean: nan"),
        ({"mean": [0, "x", 0]}, "mean: 'x'"),
        ({"std": [1, 0, 1]}, "std: 0"),
        ({"std": [1, float("inf"), 1]}, "std: inf"),
        ({"std": [1, 10**400, 1]}, "std: 1000"),
        ({"mean": [1, -(10**400), 1]}, "mean: -1000"),
        ({"height": 10**9}, "height: 1000000000"),
        ({"height": 64.0}, "height: 64.0"),
        ({"width": -96}, "width: -96"),
        ({"association": "none"}, "association: 'none'"),
        ({"association": ["propagate"]}, r"association: \['propagate'\]"),
        ({"output_kind": {}}, "output_kind: {}"),
        ({"valid_input": []}, r"valid_input: \[\]"),
        ({"resize": None}, "resize mode 'None'"),
        ({"model": []}, r"model: \[\]"),
        ({"states": [{"input": [1], "output": "queries"}]}, "states: input"),
        ({"states": [{"input": "prior_queries", "output": "queries"}] * 2}, "each name once"),
        ({"inputs": []}, "inputs"),
        ({"outputs": [{"name": "a", "dtype": "float32", "shape": "abc"}]}, "outputs entry"),
        ({"outputs": [{"name": "a", "dtype": "float31", "shape": [1]}]}, "dtype: 'float31'"),
        ({"outputs": [{"name": "a", "dtype": "float32", "shape": [2**20, 2**20]}]}, "at most 1073741824 numbers"),
        ({"outputs": [{"name": "a", "dtype": "float32", "shape": [True]}]}, "shape: True"),
        ({"build": {"graph_bytes": 2**62}}, "build.graph_bytes"),
        ({"build": {"max_streams": -1}}, "build.max_streams: -1"),
        ({"build": {"graph_sha256": "0" * 64}}, "build.graph_bytes: None"),
        ({"build": {"graph_sha256": "x", "graph_bytes": 5}}, "build.graph_sha256: 'x'"),
        ({"build": {"precision": "int4"}}, "build.precision: 'int4'"),
        ({"build": []}, "build"),
    ],
)
def test_every_field_has_its_type_and_range(change, named):
    data = json.loads(make_contract(**ARGUMENTS).to_json())
    with pytest.raises(ContractError, match=named):
        GraphContract.from_json(json.dumps(data | change))


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_tensor_is_named_once(side):
    data = json.loads(make_contract(**ARGUMENTS).to_json())
    data[side].append(data[side][0])
    with pytest.raises(ContractError, match="each name once"):
        GraphContract.from_json(json.dumps(data))


def test_depth_is_no_crash():
    with pytest.raises(ContractError, match="nested too deep"):
        GraphContract.from_json("[" * 200_000)


SQUASHED = {**ARGUMENTS, "boxes": False, "scoring": "softmax", "resize": "squash"}


def test_version_1_is_written_where_it_says_all():
    """What older runtimes read stays what they read, to the byte."""
    text = make_contract(**ARGUMENTS).to_json()
    data = json.loads(text)
    assert data["schema_version"] == 1
    assert "scoring" not in data
    assert list(data)[-2:] == ["build", "schema_version"]


@pytest.mark.parametrize(
    "changes", [{"boxes": False}, {"scoring": "softmax"}, {"resize": "squash"}, {"boxes": False, "scoring": "softmax"}]
)
def test_version_2_is_written_where_version_1_would_be_wrong(changes):
    made = make_contract(**ARGUMENTS, **changes)
    assert json.loads(made.to_json())["schema_version"] == 2
    assert GraphContract.from_json(made.to_json()) == made


def test_version_2_describes_a_softmax_without_boxes():
    made = make_contract(**SQUASHED)
    assert [spec.name for spec in made.inputs] == ["frames", "prior_queries", "prior_valid"]
    assert [spec.name for spec in made.outputs] == ["queries", "logits", "mask_logits"]
    assert made.output("logits").shape == ("B", 20, 4)  # three classes, and "no object"
    assert made.states == (StateSpec("prior_queries", "queries"),)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"scoring": "argmax"}, "scoring 'argmax' found in the contract, one of sigmoid, softmax expected"),
        ({"resize": "crop"}, "resize mode 'crop' found in the contract, one of letterbox, squash expected"),
        ({"schema_version": 5}, "schema version 5 found, 1, 2, 3, 4 expected"),
        ({"schema_version": 1}, "scoring"),
    ],
)
def test_what_is_not_known_is_refused(changes, text):
    data = json.loads(make_contract(**SQUASHED).to_json()) | changes
    with pytest.raises(ContractError, match=text):
        GraphContract.from_json(json.dumps(data))


def test_a_version_2_without_scoring_is_refused():
    data = json.loads(make_contract(**SQUASHED).to_json())
    del data["scoring"]
    with pytest.raises(ContractError, match="scoring"):
        GraphContract.from_json(json.dumps(data))


def test_version_3_says_what_is_stuff_and_others_do_not():
    made = make_contract(**ARGUMENTS, stuff_classes=(0, 2))
    data = json.loads(made.to_json())
    assert (data["schema_version"], data["stuff_classes"], data["scoring"]) == (3, [0, 2], "sigmoid")
    assert GraphContract.from_json(made.to_json()) == made
    for arguments in (ARGUMENTS, SQUASHED):
        assert "stuff_classes" not in json.loads(make_contract(**arguments).to_json())


def test_version_4_has_masks_of_another_size():
    made = make_contract(**SQUASHED, mask_size=(14, 20))
    data = json.loads(made.to_json())
    assert (data["schema_version"], data["stuff_classes"], made.mask_size) == (4, [], (14, 20))
    assert GraphContract.from_json(made.to_json()) == made
    chosen = make_contract(**SQUASHED, mask_size=(14, 20), top_k=5)
    assert (chosen.schema_version, chosen.mask_size, chosen.output("masks").shape) == (4, (14, 20), ("B", 5, 14, 20))
    assert make_contract(**SQUASHED).mask_size == (ARGUMENTS["height"] // 4, ARGUMENTS["width"] // 4)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (["B", 20, "h", "w"], "four sizes, the last two whole numbers"),
        (["B", 20, 16], "four sizes"),
        (["B", 20, 16, 100_000], "mask_logits: width: 100000 found, expected a whole number from 1 to"),
    ],
)
def test_masks_of_no_size_are_refused(shape, text):
    data = json.loads(make_contract(**ARGUMENTS).to_json())
    next(spec for spec in data["outputs"] if spec["name"] == "mask_logits")["shape"] = shape
    with pytest.raises(ContractError, match=text):
        GraphContract.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("stuff", "text"),
    [
        ([3], "stuff_classes: 3 found, expected a whole number from 0 to 2"),
        ([1, 1], r"stuff_classes: \[1, 1\] found, expected ascending places, each once"),
        ([2, 0], "ascending"),
        ([True], "stuff_classes: True found"),
        (1, "stuff_classes: 1 found, expected a list"),
        (None, "stuff_classes"),
    ],
)
def test_stuff_that_is_no_class_is_refused(stuff, text):
    data = json.loads(make_contract(**ARGUMENTS, stuff_classes=(0, 2)).to_json()) | {"stuff_classes": stuff}
    if stuff is None:
        del data["stuff_classes"]
    with pytest.raises(ContractError, match=text):
        GraphContract.from_json(json.dumps(data))


def test_chosen_detections_of_a_model_that_knows_stuff_have_weights():
    made = make_contract(**ARGUMENTS, stuff_classes=(0,), top_k=4)
    assert made.output("weights") == TensorSpec("weights", "float32", ("B", 4))
    assert "weights" not in [spec.name for spec in make_contract(**ARGUMENTS, top_k=4).outputs]
