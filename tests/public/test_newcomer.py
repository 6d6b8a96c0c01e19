"""A newcomer's path as README has it: a name, a video, and what comes out; the hub is a server on this machine.

The weights are written by hand to see red and green, so that it is known what every frame has to say.
"""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

import l2g
from l2g.cli.running.run import main as run
from tests.modeling.videomt.colours import NAMES, colour_videomt
from tests.public.stand_in import standing_in

HEIGHT, WIDTH, FRAMES = 160, 240, 24
AWAY = range(8, 16)  # frames without the green one
RED, GREEN = (40, 30, 220), (30, 200, 40)  # as OpenCV writes them, B first


def boxes(time):
    """Where the things are, by name: (top, bottom, left, right)."""
    found = {"red thing": (20, 70, 10 + 5 * time, 70 + 5 * time)}
    if time not in AWAY:
        found["green thing"] = (90, 140, 170 - 5 * time, 230 - 5 * time)
    return found


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    ground = np.linspace(60, 190, WIDTH).astype(np.uint8)[None, :, None].repeat(HEIGHT, 0).repeat(3, 2)
    for time in range(FRAMES):
        frame = ground.copy()
        for name, (top, bottom, left, right) in boxes(time).items():
            frame[top:bottom, left:right] = RED if name == "red thing" else GREEN
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture(scope="module")
def out(clip, tmp_path_factory):
    """What `l2g run --model NAME` wrote."""
    folder = tmp_path_factory.mktemp("newcomer")
    l2g.save_checkpoint(colour_videomt(), folder / "repository")
    files = {file.name: file.read_bytes() for file in (folder / "repository").iterdir()}
    arguments = ["--model", "videomt-s-ytvis2019", "--input", str(clip), "--output", str(folder / "out")]
    with pytest.MonkeyPatch.context() as patch, standing_in(files, folder / "cache", patch):
        assert run([*arguments, "--cuts", "off"]) == 0
    return folder / "out"


def frames(out):
    lines = (out / "frames.jsonl").read_text().splitlines()
    return [{track["name"]: track for track in json.loads(line)["tracks"]} for line in lines]


def test_each_frame_says_what_is_there(out):
    found = frames(out)
    assert [set(frame) for frame in found] == [set(boxes(time)) for time in range(FRAMES)]
    assert set(NAMES) == set(found[0])


def test_ids_are_slots_and_stay_when_a_thing_goes_and_comes_back(out):
    ids = {name: {frame[name]["id"] for frame in frames(out) if name in frame} for name in NAMES}
    assert [len(found) for found in ids.values()] == [1, 1]
    assert ids["red thing"] != ids["green thing"]


def test_masks_are_where_the_things_are(out):
    for time, frame in enumerate(frames(out)):
        for name, (top, bottom, left, right) in boxes(time).items():
            segmentation = frame[name]["segmentation"]
            truth = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
            truth[top:bottom, left:right] = 1
            (iou,) = rle.iou([segmentation], [rle.encode(truth)], [0])
            assert iou > 0.7  # a cell of the map is 10 pixels wide


def test_the_overlay_shows_them(out, clip):
    videos = [cv2.VideoCapture(str(path)) for path in (clip, out / "overlay.mp4")]
    for time in range(FRAMES):
        plain, shown = (video.read()[1].astype(int) for video in videos)
        changed = np.abs(plain - shown).max(2)
        top, bottom, left, right = boxes(time)["red thing"]
        assert np.median(changed[top + 20 : bottom, left : min(right, WIDTH)]) > 20
        assert np.median(changed[145:, :]) < 10  # beside them all is as it was
    assert not videos[1].read()[0]
