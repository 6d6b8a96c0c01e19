"""Labels stay off each other where there is room, near their objects, and where they were."""

import itertools

import numpy as np

from l2g.runtime.video.labels import LabelPlacer

PICTURE = (720, 1280)
SIZES = ((130, 21), (40, 21))


def _crowd(count, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal((640, 360), (210, 120), (count, 2))
    half = random.uniform(25, 80, (count, 2))
    boxes = np.concatenate([centres - half, centres + half], axis=1)
    return np.clip(boxes, 0, (1280, 720, 1280, 720)).astype(int)


def _rectangles(places, sizes=SIZES):
    return [(p.x, p.y, p.x + sizes[p.variant][0], p.y + sizes[p.variant][1]) for p in places]


def _overlapping(rectangles):
    pairs = 0
    for number, (left, top, right, bottom) in enumerate(rectangles):
        for x1, y1, x2, y2 in rectangles[:number]:
            pairs += left < x2 and x1 < right and top < y2 and y1 < bottom
    return pairs


def _place(placer, boxes, tracks=None, sizes=SIZES, picture=PICTURE, taken=()):
    tracks = range(1, len(boxes) + 1) if tracks is None else tracks
    return placer.place(list(tracks), np.asarray(boxes), np.array([sizes] * len(boxes)), picture, taken)


def test_alone_a_label_lies_on_top_of_its_box():
    (place,) = _place(LabelPlacer(), [(200, 100, 300, 180)])
    assert (place.x, place.y, place.variant, place.away) == (200, 100 - 21, 0, False)


def test_fifty_labels_of_a_crowd_do_not_cover_each_other():
    boxes = _crowd(50)
    above = [(x, y - 21, x + 130, y) for x, y, _, _ in boxes.tolist()]
    assert _overlapping(above) > 20, "which they would above their boxes"
    placer = LabelPlacer()
    for t in range(40):
        places = _place(placer, boxes + np.array([3 * t % 60, t] * 2))
        rectangles = _rectangles(places)
        assert _overlapping(rectangles) == 0
        assert all(min(x1, y1) >= 0 and x2 <= 1280 and y2 <= 720 for x1, y1, x2, y2 in rectangles)
        assert sum(place.away for place in places) <= 10
        assert sum(place.variant == 0 for place in places) >= 45, "and most of them are whole"


def test_away_means_that_box_and_label_do_not_touch():
    boxes = _crowd(80)
    places = _place(LabelPlacer(), boxes)
    assert any(place.away for place in places)
    for place, (x1, y1, x2, y2), box in zip(places, _rectangles(places), boxes, strict=True):
        gap = max(x1 - box[2], box[0] - x2, y1 - box[3], box[1] - y2)
        assert place.away == (gap > 1)


def test_no_room_at_all_gives_the_short_label_within_the_picture():
    boxes = [(0, 0, 60, 40)] * 30
    places = _place(LabelPlacer(), boxes, sizes=((60, 20), (20, 20)), picture=(40, 60))
    assert all(0 <= place.x <= 60 - (60, 20)[place.variant] and 0 <= place.y <= 20 for place in places)
    assert sum(place.variant == 1 for place in places) >= 28


def test_a_label_stays_where_it_was_while_it_can():
    """One object passes another: its label gives way, and nothing else moves."""
    placer, still = LabelPlacer(), (600, 300, 700, 400)
    offsets = []
    for t in range(25):
        passing = (400 + 10 * t, 310, 500 + 10 * t, 410)
        first, second = _place(placer, [still, passing], tracks=(1, 2))
        assert (first.x, first.y) == (600, 279), "the older one stays"
        assert _overlapping(_rectangles([first, second])) == 0
        offsets.append((second.x - passing[0], second.y - passing[1]))
    changes = sum(one != other for one, other in itertools.pairwise(offsets))
    assert 1 <= changes <= 2


def test_labels_of_a_crowd_do_not_dance():
    """Masks tremble by a pixel or two from frame to frame; of fifty labels hardly one at a time changes its place."""
    placer, random, boxes = LabelPlacer(), np.random.default_rng(0), _crowd(50)
    changes, before, frames = 0, None, 60
    for t in range(frames):
        now = boxes + np.tile(random.integers(-2, 3, (50, 2)), 2) + [t, 0, t, 0]
        places = _place(placer, now, picture=(2000, 2000))
        assert _overlapping(_rectangles(places)) == 0
        offsets = [(p.x - x, p.y - y, p.variant) for p, (x, y, _, _) in zip(places, now.tolist(), strict=True)]
        changes += before is not None and sum(one != other for one, other in zip(before, offsets, strict=True))
        before = offsets
    assert changes / (frames - 1) < 1.5


def test_a_label_that_had_to_move_comes_back_when_there_is_room_again():
    placer = LabelPlacer()
    _place(placer, [(100, 100, 200, 200), (100, 100, 200, 200)])
    ways = [_place(placer, [(100, 100, 200, 200)], tracks=(2,))[0] for _ in range(40)]
    assert (ways[0].x, ways[0].y) != (100, 79)
    assert (ways[-1].x, ways[-1].y) == (100, 79)


def test_what_is_taken_stays_free():
    (place,) = _place(LabelPlacer(), [(0, 10, 100, 60)], taken=[(0, 0, 250, 21)])
    assert place.y >= 21 or place.x >= 250


def test_what_a_placer_remembers_can_be_told_to_another():
    """Where labels had to go they stay; a placer without that memory puts them where it likes best."""
    crowd = _crowd(50)
    away = np.tile((crowd[:, :2] + crowd[:, 2:]) / 2 - (640, 360), 2)
    frames = [np.clip(crowd + 0.02 * t * away, 0, (1280, 720, 1280, 720)).astype(int) for t in range(60)]
    placer, other, without = LabelPlacer(), LabelPlacer(), LabelPlacer()
    for boxes in frames[:20]:
        _place(placer, boxes)
    other.recall(placer.memory())
    places = [[_place(each, boxes) for boxes in frames[20:]] for each in (placer, other, without)]
    assert places[0] == places[1]
    assert places[0] != places[2], "else nothing is compared"
