"""Lists of cameras: read with every mistake named, and what is seen of a source turned, cut out and thinned."""

import numpy as np
import pytest

from l2g.errors import VideoError
from l2g.runtime.video.live.cameras import Camera, Viewed, read_cameras
from l2g.runtime.video.source import Selection, open_source
from tests.runtime.blobs import scene
from tests.runtime.clips import moving_scenes, write_clip

pytestmark = pytest.mark.alone


def write(tmp_path, text):
    path = tmp_path / "cameras.yaml"
    path.write_text(text)
    return str(path)


def test_a_list_is_read(tmp_path):
    text = "- {name: gate, url: 'rtsp://a/1'}\n- {name: yard, url: 0, rotation: 90, region: [0, 0.25, 1, 1], rate: 10}"
    assert read_cameras(write(tmp_path, text)) == [
        Camera("gate", "rtsp://a/1"),
        Camera("yard", "0", 90, (0.0, 0.25, 1.0, 1.0), 10.0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a}", "camera 1: .*url"),
        ("- {name: a, url: x, colour: red}", "'colour' is not known"),
        ("- {name: a, url: x, rotation: 45}", "rotation 45 found"),
        ("- {name: a, url: x, region: [0, 0, 2, 1]}", "from 0 to 1 expected"),
        ("- {name: a, url: x, rate: 0}", "more than 0"),
        ("- {name: a, url: x}\n- {name: a, url: y}", "two cameras have the name 'a'"),
        ("[]", "a list of cameras expected"),
        ("{", "cameras.yaml: not a YAML file"),
        ("[" * 5000, "nested too deep"),
        (
            "- &a {name: a, url: x}\n"
            + "".join(f"- &{c} [{', '.join(['*' + b] * 30)}]\n" for b, c in ("ab", "bc", "cd")),
            "its aliases stand for more than",
        ),
        ("- 2001-99-99", "not a YAML file"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(VideoError, match=message):
        read_cameras(write(tmp_path, text))


@pytest.mark.parametrize("text", ["- url: rtsp://me:secret@host: 1", "- {name: a, url: ['rtsp://me:secret@host']}"])
def test_mistakes_show_no_password(tmp_path, text):
    with pytest.raises(VideoError, match=r"rtsp://me:\*\*\*@host"):
        read_cameras(write(tmp_path, text))


def test_a_view_is_turned_and_cut_out(tmp_path):
    image = scene(64, 96, [(0, (0, 0, 48, 64)), (2, (48, 0, 96, 32))])
    clip = write_clip(tmp_path / "a.mp4", [image] * 3)
    with open_source(clip) as source:
        view = Viewed(source, Camera("a", "a", rotation=90, region=(0.5, 0.5, 1.0, 1.0)))
        frames = list(view)
    assert len(frames) == 3
    assert (view.height, view.width) == (48, 32)
    expected = np.rot90(image, -1)[48:, 32:]
    assert frames[0].image.shape == expected.shape
    assert np.abs(frames[0].image.astype(int) - expected).mean() < 6


@pytest.mark.parametrize(("rate", "count"), [(None, 40), (10, 40), (4, 16), (3, 12), (50, 40)])
def test_a_rate_is_kept(tmp_path, rate, count):
    with open_source(write_clip(tmp_path / "a.mp4", moving_scenes(40)), Selection()) as source:
        frames = list(Viewed(source, Camera("a", "a", rate=rate)))
    assert len(frames) == count
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})


def test_a_view_has_its_shape_once_its_source_was_found(tmp_path):
    """In the background, while the model is loaded, say; whoever asks first takes the shape."""
    for ask in (lambda view: view.is_open, lambda view: view.await_open()):
        with open_source(write_clip(tmp_path / "a.mp4", moving_scenes(3))) as source:
            source.is_open = False
            view = Viewed(source, Camera("a", "a", rotation=90, region=(0.0, 0.5, 1.0, 1.0), rate=4))
            assert not view.is_open
            source.is_open = True
            ask(view)
            assert view.is_open
            assert (view.height, view.width, view.frame_rate) == (48, 64, 4)
            assert [frame.image.shape for frame in view] == [(48, 64, 3)]
