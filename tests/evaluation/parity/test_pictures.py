"""Which frames are kept as the worst, and what their picture shows."""

import cv2
import numpy as np

from l2g.evaluation.parity.frame import compare_frame
from l2g.evaluation.parity.pictures import PANEL_WIDTH, WorstFrames, draw_pair
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.picture.letterbox import Letterbox

BOX = Letterbox(32, 64, 32, 64)
IMAGE = np.full((32, 64, 3), 90, np.uint8)


def outputs(columns, score=0.9):
    """One slot whose mask covers the map's columns [start, stop) of 16."""
    masks = np.full((1, 1, 8, 16), -5, np.float32)
    masks[..., slice(*columns)] = 5
    logits = np.full((1, 1, 2), np.log(score / (1 - score)), np.float32)
    return RawOutputs(np.zeros((1, 1, 4), np.float32), np.zeros((1, 1, 4), np.float32), logits, masks)


def offer(worst, video, frame, shift, length=30):
    """A frame whose mask is off by `shift` columns of 8."""
    pair = outputs((0, 8)), outputs((shift, 8 + shift))
    found = compare_frame(*pair, 0.5, False)
    worst.offer((video, f"video {video}", length), frame, IMAGE, BOX, pair, found, found)


def kept(worst):
    return [(frame.video, frame.frame) for frame in worst.worst()]


def test_the_worst_frames_stay_in_whatever_order_they_come():
    frames = [(0, 3, 2), (1, 5, 6), (2, 0, 1), (3, 9, 4), (4, 7, 3)]
    for order in (frames, frames[::-1], frames[2:] + frames[:2]):
        worst = WorstFrames(2, 0.5, ("a", "b"))
        for video, frame, shift in order:
            offer(worst, video, frame, shift)
        assert kept(worst) == [("video 1", 5), ("video 3", 9)]


def test_one_frame_of_each_third_of_a_video():
    worst = WorstFrames(6, 0.5, ("a", "b"))
    for frame, shift in ((0, 2), (1, 5), (2, 4), (10, 1), (29, 3)):
        offer(worst, 0, frame, shift)
    assert kept(worst) == [("video 0", 1), ("video 0", 29), ("video 0", 10)]


def test_none_is_none():
    worst = WorstFrames(0, 0.5, ("a", "b"))
    offer(worst, 0, 0, 5)
    assert kept(worst) == []


def test_the_third_panel_is_red_where_the_masks_differ():
    png = draw_pair(IMAGE, BOX, outputs((0, 8)), outputs((4, 12)), 0.5, ("a", "b"))
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert picture.shape == (PANEL_WIDTH // 2, 3 * PANEL_WIDTH, 3)
    difference = picture[:, 2 * PANEL_WIDTH :]
    red = (difference[:, :, 0] > 200) & (difference[:, :, 1] < 60)
    columns = red.mean(axis=0)
    # Columns 0 to 4 and 8 to 12 of 16, at 25 pixels each, give or take the interpolation at an edge.
    assert columns[:98].min() == columns[202:298].min() == 1
    assert columns[104:196].max() == columns[304:].max() == 0
    # Below the confidence there is nothing to draw.
    quiet = draw_pair(IMAGE, BOX, outputs((0, 8), 0.2), outputs((4, 12), 0.2), 0.5, ("a", "b"))
    assert (cv2.imdecode(np.frombuffer(quiet, np.uint8), cv2.IMREAD_COLOR) == 90).all()
