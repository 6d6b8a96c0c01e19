"""The README's moving picture is small, plays for ever, and shows what the shipped model does today."""

import struct
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from examples import readme_picture
from l2g.runtime.backends.open import open_backend
from l2g.runtime.video.source import open_source

SHIPPED = Path(__file__).parent.parent / "docs" / "assets" / "overlay.webp"


def chunks(data):
    """(name, content) of a RIFF file's parts."""
    assert data[:4] == b"RIFF"
    assert data[8:12] == b"WEBP"
    at = 12
    while at < len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        yield name, data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def still(part):
    """A frame of an animation, uint8 [H, W, 3] RGB; all cover the whole picture."""
    content = part[16:]
    file = b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def drawn():
    with open_source(readme_picture.CLIP) as source, closing(open_backend("l2g_tiny", top_k=None)) as backend:
        return list(readme_picture.drawn_frames(backend, source))


def test_the_shipped_picture_is_what_the_script_draws(drawn):
    parts = list(chunks(SHIPPED.read_bytes()))
    frames = [content for name, content in parts if name == b"ANMF"]
    assert SHIPPED.stat().st_size <= readme_picture.LARGEST
    assert len(frames) == len(drawn) == 90
    assert [struct.unpack("<IH", content)[1] for name, content in parts if name == b"ANIM"] == [0], "plays for ever"
    milliseconds = sum(int.from_bytes(content[12:15], "little") for content in frames)
    assert milliseconds == pytest.approx(6000, abs=100)
    for number in (0, 30, 89):
        gap = np.abs(still(frames[number]).astype(int) - drawn[number])
        assert gap.mean() < 4, f"frame {number}: run {readme_picture.__doc__}"


def test_it_is_written_whole_or_not_at_all(tmp_path, drawn):
    def interrupted():
        yield drawn[0]
        raise KeyboardInterrupt

    path = tmp_path / "new" / "picture.webp"
    with pytest.raises(KeyboardInterrupt):
        readme_picture.write_webp(path, interrupted(), 15.0, 50)
    assert list(path.parent.iterdir()) == []
    readme_picture.write_webp(path, drawn[:3], 15.0, 50)
    assert [file.name for file in path.parent.iterdir()] == ["picture.webp"]
    assert [name for name, _ in chunks(path.read_bytes())].count(b"ANMF") == 3
