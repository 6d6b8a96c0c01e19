"""Measurements outlive the run that made them."""

import json

import pytest

from l2g.calibration.ledger import Ledger, name_of
from l2g.errors import ExportError


def never():
    raise AssertionError("measured twice")


def test_a_number_is_measured_once(tmp_path):
    path = tmp_path / "ledger.json"
    assert Ledger(path, {"a": 1}).measured("x", lambda: 0.1 + 0.2) == 0.1 + 0.2
    again = Ledger(path, {"a": 1})
    assert again.measured("x", never) == 0.1 + 0.2
    assert again.measured("y", lambda: 4) == 4
    assert json.loads(path.read_text())["values"] == {"x": 0.1 + 0.2, "y": 4}
    assert [entry.name for entry in tmp_path.iterdir()] == ["ledger.json"]


def test_what_fails_is_not_remembered(tmp_path):
    ledger = Ledger(tmp_path / "ledger.json", {})
    with pytest.raises(AssertionError):
        ledger.measured("x", never)
    assert Ledger(tmp_path / "ledger.json", {}).measured("x", lambda: 2) == 2


def test_other_facts_are_refused(tmp_path):
    Ledger(tmp_path / "ledger.json", {"layout": "tensorrt", "videos": (1, 2)})
    Ledger(tmp_path / "ledger.json", {"layout": "tensorrt", "videos": (1, 2)})
    with pytest.raises(ExportError, match="layout 'tensorrt', this one has 'onnxruntime'; give another --work"):
        Ledger(tmp_path / "ledger.json", {"layout": "onnxruntime", "videos": (1, 2)})


@pytest.mark.parametrize("values", ['{"a": "x"}', '{"a": null}', '{"a": [1]}', "[]", "3", '{"a": 1' + "0" * 400 + "}"])
def test_what_is_no_number_is_damage(tmp_path, values):
    path = tmp_path / "ledger.json"
    path.write_text('{"facts": {}, "values": ' + values + "}")
    with pytest.raises(ExportError, match=r"ledger\.json: damaged \(.*delete"):
        Ledger(path, {})


def test_a_name_is_of_a_set():
    assert name_of(["b", "a"]) == name_of(["a", "b"]) != name_of(["a"])
