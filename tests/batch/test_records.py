"""What lies on disk is on its page, field by field, and nothing else is."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from l2g.batch.records import Settings, VideoRecord
from l2g.cli.commands import BY_NAME
from l2g.cli.entry import parser_of
from l2g.cli.running.batch import settings_of
from l2g.files import sha256_of_file

PAGE = (Path(__file__).parents[2] / "docs/formats/batch.md").read_text()


@pytest.mark.parametrize(("heading", "record"), [("video.json", VideoRecord), ("batch.json", Settings)])
def test_every_field_is_on_its_page(heading, record):
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert named == {field.name for field in fields(record)}


def test_a_model_is_known_by_its_sum(tmp_path):
    """That of a folder too, into which another may be written; a name stands for one model."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/config.json").write_text("{}")
    weights = tmp_path / "folder/model.safetensors"

    def settings(model):
        words = ["--model", str(model), "--input", "in", "--output", "out"]
        return settings_of(parser_of(BY_NAME["batch"]).parse_args(words))

    found = []
    for content in (b"one", b"other"):
        weights.write_bytes(content)
        found.append(settings(tmp_path / "folder"))
        assert found[-1].model_sha256 == settings(weights).model_sha256 == sha256_of_file(weights)
    assert found[0].differences(found[1]) == ["model_sha256"]
    assert (settings("l2g_tiny").model, settings("l2g_tiny").model_sha256) == ("l2g_tiny", None)
