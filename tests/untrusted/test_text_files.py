"""Text that people write with any editor: a byte order mark, the ends of lines of Windows, other encodings."""

import json

import pytest

from l2g.batch.entries import entries
from l2g.data.classes import read_mapping
from l2g.errors import L2GError
from l2g.metrics.vis_ap import evaluate_vis
from l2g.runtime.video.live.cameras import read_cameras
from l2g.training.config import load_config

CONFIG = "model: l2g_tiny\nphases:\n- {kind: image, iterations: 3, batch_size: 1, lr: 0.001}\n# ä\n"
TRUTH = {"videos": [{"id": 1, "height": 4, "width": 4, "length": 1}], "categories": [{"id": 1, "name": "ä"}],
         "annotations": []}  # fmt: skip
# How each kind of file is read: its name, its text, and what of it says that it was read.
READERS = {
    "config": ("a.yaml", CONFIG, lambda path: load_config(str(path)).phases[0].iterations == 3),
    "map of classes": ("a.yaml", "Bär: bear\nÄffchen: monkey\n", lambda path: read_mapping(path)["Bär"] == "bear"),
    "map as JSON": ("a.json", '{"Bär": "bear"}', lambda path: read_mapping(path) == {"Bär": "bear"}),
    "cameras": ("a.yaml", "- name: Tür\n  url: rtsp://a/b\n", lambda path: read_cameras(str(path))[0].name == "Tür"),
    "list of videos": ("a.txt", "/a/Tür.mp4\n", lambda path: [e.source for e in entries(str(path), "out")]
                       == ["/a/Tür.mp4"]),
    "ground truth": ("a.json", json.dumps(TRUTH), lambda path: evaluate_vis(path, [], allow_empty=True)),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", READERS)
def test_marks_and_ends_of_lines(tmp_path, kind, ends, encoding):
    name, text, is_right = READERS[kind]
    (tmp_path / name).write_bytes(text.replace("\n", ends).encode(encoding))
    assert is_right(tmp_path / name)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
@pytest.mark.parametrize("kind", ["config", "map of classes", "map as JSON", "cameras"])
def test_other_encodings_are_one_clear_error(tmp_path, kind, encoding):
    name, text, _ = READERS[kind]
    (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(L2GError, match=r"can't decode byte") as error:
        READERS[kind][2](tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
