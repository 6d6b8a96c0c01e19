"""Records in JSON: what goes out comes back as the same types, and what is something else is refused by its name."""

import json
from dataclasses import dataclass, field, replace

import pytest

from l2g.artifacts.records import Agreement, Audit, EngineOptions, EngineVerification
from l2g.artifacts.sidecar import EngineFacts
from l2g.contract import GraphContract, make_contract
from l2g.errors import ContractError
from l2g.provenance import (
    BuildFacts,
    CalibrationData,
    DatasetLoss,
    INT8Verification,
    Quantisation,
    Ranges,
    ReducedVerification,
    Verification,
)
from l2g.records import Record

FLOAT32 = Verification("onnxruntime 1.2 CPU", ((1, 3), (3, 2)), {"queries": 1e-5}, {"queries": 1e-4}, 0)
HALVED = ReducedVerification("x", ((1, 3),), {"a": 1.0}, {"a": 0.5}, {"a": 2.0}, ("t", 12.0), FLOAT32)
LOST = INT8Verification("x", None, 0.25, (DatasetLoss("val", 80, 40.5, 40.25, None, (0.9, None), 0.25),))
INTEGERS = Quantisation(
    "tensorrt",
    "fp16",
    ("a", "b"),
    81.5,
    Ranges("auto", {"minmax": 3}),
    CalibrationData("val", 6, "rollout", {"first": 50.0}),
)
EXPORTED = BuildFacts(
    precision="fp32",
    fp32_blocks=(),
    lowering="gather",
    target="onnxruntime",
    opset=17,
    max_streams=8,
    simplified=False,
    versions={"l2g": "0.1.0"},
    graph_bytes=7,
    graph_sha256="0" * 64,
    verification=FLOAT32,
)


@dataclass(frozen=True)
class Inner(Record):
    number: float
    name: str | None = None


@dataclass(frozen=True)
class Outer(Record):
    pair: tuple[int, str]
    many: tuple[Inner, ...] = ()
    by_name: dict[str, tuple[float, ...]] = field(default_factory=dict)
    flag: bool = False


def through_json(record):
    return type(record).from_json(json.loads(json.dumps(record.to_json())))


@pytest.mark.parametrize(
    "record",
    [
        Outer((1, "a"), (Inner(2.5), Inner(1.0, "b")), {"x": (1.0, 2.0)}, True),
        EXPORTED,
        replace(EXPORTED, precision="fp16", verification=HALVED, checkpoint="a.pth", checkpoint_sha256="1" * 64),
        replace(EXPORTED, int8=INTEGERS, verification=LOST, float32_sha256="2" * 64, float32_verification=FLOAT32),
        BuildFacts(),
        BuildFacts(more={"note": [1, {"a": None}]}),
        EngineVerification("unverified", "no GPU"),
        EngineVerification("verified", None, "a GPU", Agreement(0.1, 0.2, 0.3), Agreement(1.0, 1.0, 1.0, 1.0), 2, 4),
        EngineFacts(
            "tensorrt", "10.13", "3" * 64, 9, "a.onnx", "4" * 64, None, ("8.6", "8.9"),
            options=EngineOptions((1, 1, 8), None, ("8.6",), 3, True),
            audit=Audit("fp16", 0.99, {"fp16": 5}, {"fp16": 1}, {"fp16": 1}, (("n", "fp32"),), 1, None, 4, "build log"),
        ),
    ],
)  # fmt: skip
def test_what_goes_out_comes_back(record):
    again = through_json(record)
    assert again == record
    assert list(again.to_json()) == list(record.to_json())


def test_the_json_of_an_exported_graph_is_what_it_always_was():
    """Files are compared by their sums: keys, their order and what is written as null are part of the format."""
    assert json.dumps(EXPORTED.to_json()) == (
        '{"precision": "fp32", "fp32_blocks": [], "lowering": "gather", "target": "onnxruntime", "opset": 17, '
        '"max_streams": 8, "plugin_version": null, "simplified": false, "checkpoint": null, '
        '"checkpoint_sha256": null, "versions": {"l2g": "0.1.0"}, "graph_bytes": 7, '
        f'"graph_sha256": "{"0" * 64}", "verification": {{"library": "onnxruntime 1.2 CPU", '
        '"rollouts": [[1, 3], [3, 2]], "differences": {"queries": 1e-05}, "tolerances": {"queries": 0.0001}, '
        '"ties": 0}}'
    )
    assert BuildFacts().to_json() == {}
    assert EngineVerification("unverified", "no GPU").to_json() == {"status": "unverified", "reason": "no GPU"}


def test_what_another_version_says_is_kept():
    written = {"precision": "fp32", "verification": {"library": "of tomorrow"}, "seal": {"by": "somebody"}}
    read = BuildFacts.from_json(written)
    assert (read.precision, read.verification) == ("fp32", None)
    assert read.to_json() == written


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (Outer, [], "Outer: found list, expected an object"),
        (Outer, {"pair": [1]}, r"Outer\.pair: found \[1\], expected 2 items"),
        (Outer, {"pair": [1, 2]}, r"Outer\.pair\[1\]: found 2, expected str"),
        (Outer, {"pair": [True, "a"]}, r"Outer\.pair\[0\]: found True, expected int"),
        (Outer, {"pair": [1, "a"], "flag": 1}, r"Outer\.flag: found 1, expected bool"),
        (Outer, {"pair": [1, "a"], "many": [{"number": "x"}]}, r"Outer\.many\[0\]\.number: found 'x', expected float"),
        (Outer, {"pair": [1, "a"], "many": [{"number": 1, "name": 2}]}, r"many\[0\]\.name: found 2, expected str"),
        (Outer, {"pair": [1, "a"], "by_name": {"x": 1}}, r"by_name\.x: found 1, expected a list"),
        (Outer, {"pair": [1, "a"], "by_name": []}, r"by_name: found \[\], expected an object"),
        (Outer, {"pair": [1, "a"], "other": 1}, "Outer: 'other' is not known"),
        (Outer, {}, "pair"),
        (BuildFacts, {"opset": "17"}, r"build\.opset: found '17', expected int"),
    ],
)
def test_what_is_something_else_is_refused_by_its_name(kind, data, message):
    with pytest.raises((TypeError, ValueError), match=message):
        kind.from_json(data)


@pytest.mark.parametrize("build", [[], {"precision": 16}, {"graph_bytes": "9"}, {"versions": {"torch": None}}])
def test_a_contract_with_a_damaged_build_is_refused(build):
    made = make_contract(
        height=64, width=96, num_queries=5, hidden_dim=32, class_names=("a",), association="propagate", build=EXPORTED
    )
    assert GraphContract.from_json(made.to_json()) == made
    with pytest.raises(ContractError, match=r"incomplete or damaged \(build"):
        GraphContract.from_json(json.dumps({**made.to_dict(), "build": build}))
    with pytest.raises(ContractError):
        GraphContract.from_json('{"a":' * 100_000)
