"""The table of public models, for people and for programs."""

import json

from l2g.cli.running.models import main
from l2g.public.table import public_models


def test_a_line_a_model(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for model in public_models().values():
        assert any(line.startswith(f"{model.name} ") and model.licence in line for line in lines), model.name
        assert any(model.place in line for line in lines)
    assert any("videomt-s-ytvis2019" in line and "AP 52.8" in line and "640x640" in line for line in lines)


def test_as_json(capsys):
    assert main(["--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(found) == set(public_models())
    assert found["videomt-l-ovis"]["score"] == 52.5
    assert found["videomt-l-ovis"]["command"] == "l2g run --model videomt-l-ovis --input VIDEO --output FOLDER"
