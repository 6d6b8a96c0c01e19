"""What lies on disk is on its page, field by field, and nothing else is."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from l2g.batch.records import Settings, VideoRecord

PAGE = (Path(__file__).parents[2] / "docs/formats/batch.md").read_text()


@pytest.mark.parametrize(("heading", "record"), [("video.json", VideoRecord), ("batch.json", Settings)])
def test_every_field_is_on_its_page(heading, record):
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert named == {field.name for field in fields(record)}
