"""Foreign formats against files written by hand by their specifications, and there and back again."""

import json
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from l2g.cli.learning import data_convert
from l2g.data.convert import cvat, label_studio
from l2g.data.convert.job import WRITERS, convert
from l2g.data.convert.tracks import mask_of
from l2g.data.registry import find_format, load_dataset, split_source
from l2g.errors import DataError
from tests.data.layouts import HEIGHT, WIDTH, box_mask, picture, uncompressed, write_picture, write_youtube_vis
from tests.runtime.clips import write_clip

ASSETS = Path(__file__).parents[1] / "assets/converters"
EXACT = {"youtube_vis", "ovis", "coco_video", "cvat"}  # hold overlaps


def no_masks():
    return np.zeros((HEIGHT, WIDTH), bool)


@pytest.fixture
def source(tmp_path):
    """Two videos of three frames; in the first two objects overlap by 4 x 3 pixels in frame 1. One has a hole."""
    hole = box_mask(2, 2, 12, 12) & ~box_mask(5, 5, 8, 8)
    small = box_mask(8, 9, 14, 14)
    videos = [
        {"id": n, "width": WIDTH, "height": HEIGHT, "file_names": [f"{name}/{t:05d}.png" for t in range(3)]}
        for n, name in ((5, "one"), (9, "two"))
    ]  # fmt: skip
    rows = [(5, 4, [hole, hole, None]), (5, 2, [None, small, small]), (9, 4, [small, None, hole])]
    marks = []
    for number, (video, kind, masks) in enumerate(rows, 1):
        codes = [None if mask is None else uncompressed(mask) for mask in masks]
        grades = [None if mask is None else "no_occlusion" for mask in masks]
        marks.append({"id": number, "video_id": video, "category_id": kind, "iscrowd": 0, "segmentations": codes,
                      "occlusion": grades})  # fmt: skip
    data = {"videos": videos, "annotations": marks, "categories": [{"id": 2, "name": "cat"}, {"id": 4, "name": "dog"}]}
    write_youtube_vis(tmp_path / "source", data, "instances.json", "JPEGImages")
    return load_dataset(tmp_path / "source")


def content(dataset):
    """{video: sorted [(class, per frame mask bytes)]} and the frames, whatever the format."""
    found = {}
    for video in dataset.videos:
        clip = video.read(range(video.length))
        objects = sorted(
            (dataset.class_names[label], m.tobytes()) for label, m in zip(clip.labels, clip.masks, strict=True)
        )
        found[video.name.rsplit("/")[-1]] = objects, clip.frames.tobytes()
    return found


@pytest.mark.parametrize("kind", sorted(set(WRITERS) - {"label_studio"}))
def test_there_and_back_again(source, tmp_path, kind):
    done = convert(source, kind, tmp_path / "there")
    assert (done.videos, done.frames, done.objects) == (2, 6, 3)
    assert find_format(tmp_path / "there") == ("youtube_vis" if kind == "ovis" else kind)
    back = load_dataset(f"{kind}:{tmp_path / 'there'}")
    convert(back, "youtube_vis", tmp_path / "back")
    found, expected = content(load_dataset(tmp_path / "back")), content(source)
    if kind == "vipseg":
        assert "6 frames compressed anew, as JPEG of quality 95" in done.lost
        found, expected = ({n: (o, b"") for n, (o, _) in side.items()} for side in (found, expected))
    if kind in EXACT:
        assert found == expected
        assert [line for line in done.lost if "occlusion" not in line] == []
        return
    # A pixel has one object there: the smaller one keeps the 4 x 3 pixels that both have.
    assert "12 pixels of overlapping objects, given to the smaller one" in done.lost
    assert found["two"] == expected["two"]
    hole = box_mask(2, 2, 12, 12) & ~box_mask(5, 5, 8, 8)
    cut = np.stack([hole, hole & ~box_mask(8, 9, 14, 14), no_masks()])
    small = np.stack([no_masks(), box_mask(8, 9, 14, 14), box_mask(8, 9, 14, 14)])
    assert found["one"][0] == [("cat", small.tobytes()), ("dog", cut.tobytes())]


def test_what_pycocotools_reads_of_coco_per_frame(source, tmp_path):
    convert(source, "coco_video", tmp_path / "there", "val")
    assert content(load_dataset(f"coco_video:{tmp_path / 'there'}", "valid")) == content(source)
    coco = COCO(str(tmp_path / "there/annotations/instances_val.json"))
    names = {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())}
    frames = sorted(coco.imgs.values(), key=lambda image: image["file_name"])
    assert [image["file_name"] for image in frames[:2]] == ["one/000000.png", "one/000001.png"]
    seen = coco.loadAnns(coco.getAnnIds(frames[1]["id"]))
    assert {names[a["category_id"]]: int(coco.annToMask(a).sum()) for a in seen} == {"dog": 91, "cat": 30}
    assert all(a["area"] == coco.annToMask(a).sum() for a in coco.anns.values())
    assert len({a["instance_id"] for a in coco.anns.values()}) == 3
    assert (tmp_path / "there/val/one/000001.png").read_bytes() == (
        tmp_path / "source/JPEGImages/one/00001.png"
    ).read_bytes()


def test_coco_without_identities_is_pictures_and_says_so(source, tmp_path):
    convert(source, "coco_video", tmp_path / "there")
    path = tmp_path / "there/annotations/instances_train.json"
    data = json.loads(path.read_text())
    for mark in data["annotations"]:
        del mark["instance_id"]
    path.write_text(json.dumps(data))
    alone = load_dataset(f"coco_video:{tmp_path / 'there'}")
    assert [len(video.objects) for video in alone.videos] == [4, 2]
    assert any("6 annotations have no instance_id" in str(problem) for problem in alone.problems)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><name>clip</name><size>5</size><mode>interpolation</mode>
<labels><label><name>cat</name></label><label><name>owl</name></label></labels>
<original_size><width>40</width><height>24</height></original_size></task></meta>{}</annotations>"""


def write_cvat(root, tracks, frames=5):
    for t in range(frames):
        write_picture(root / "images" / f"frame_{t:06d}.png", picture(t))
    (root / "annotations.xml").write_text(CVAT.format(tracks))
    return load_dataset(f"cvat:{root}", skip_broken=True)


def test_cvat_shapes_by_the_specification(tmp_path):
    points = quoteattr("4.0,2.0;14.0,2.0;14.0,10.0;4.0,10.0")
    flags = 'occluded="0" keyframe="1"'
    dataset = write_cvat(tmp_path, f"""
      <track id="0" label="owl"><polygon frame="0" outside="0" {flags} points={points}/>
        <polygon frame="3" outside="1" {flags} points={points}/></track>
      <track id="1" label="cat"><box frame="0" outside="0" {flags} xtl="0" ytl="0" xbr="4" ybr="4"/>
        <box frame="4" outside="0" {flags} xtl="8" ytl="12" xbr="16" ybr="16"/></track>
      <track id="2" label="cat"><mask frame="1" outside="0" {flags} rle="1, 2, 1, 2" left="10" top="20" width="3"
         height="2"/><mask frame="2" outside="1" {flags} rle="1, 2, 1, 2" left="10" top="20" width="3" height="2"/>
      </track>
      <track id="3" label="cat"><points frame="0" outside="0" {flags} points="1,1"/></track>""")  # fmt: skip
    assert dataset.class_names == ("cat", "owl")
    clip = dataset.videos[0].read(range(5))
    assert clip.labels.tolist() == [1, 0, 0]
    polygon, box, mask = clip.masks
    assert [frame.any() for frame in polygon] == [True, True, True, False, False]  # holds until it is outside
    assert np.array_equal(polygon[2], box_mask(4, 2, 14, 10))
    # Half way between the two boxes, (4, 6) to (10, 10); and each in its own frame.
    assert [np.array_equal(box[t], b) for t, b in ((0, box_mask(0, 0, 4, 4)), (2, box_mask(4, 6, 10, 10)))] == [
        True
    ] * 2
    assert np.array_equal(box[4], box_mask(8, 12, 16, 16))
    expected = no_masks()
    expected[20, 11:13] = expected[21, 11:13] = True  # lines "0 1 1" and "0 1 1"
    assert [np.array_equal(mask[t], expected if t == 1 else no_masks()) for t in range(5)] == [True] * 5
    told = [str(problem) for problem in dataset.problems]
    assert any("2 boxes, taken as masks of all their pixels" in line for line in told)
    assert any("1 shapes of kind 'points', left out" in line for line in told)


def test_a_turned_box_of_cvat(tmp_path):
    dataset = write_cvat(tmp_path, '<track id="0" label="cat"><box frame="0" outside="0" occluded="0" keyframe="1" '
                         'xtl="10" ytl="8" xbr="18" ybr="12" rotation="90"/></track>')  # fmt: skip
    assert np.array_equal(dataset.videos[0].read([4]).masks[0, 0], box_mask(12, 6, 16, 14))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares entities"),
        ("<annotations><version>", "not an XML file"),
        ("<kml/>", "<annotations> expected"),
        ('<annotations><image id="0"/></annotations>', "single images"),
    ],
)
def test_what_is_no_cvat_video_is_refused(tmp_path, text, message):
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset(f"cvat:{tmp_path}")


@pytest.mark.parametrize(
    "shape",
    ['<mask frame="1" rle="1, 99" left="0" top="0" width="3" height="2"/>', '<box frame="7" xtl="0"/>',
     '<mask frame="1" rle="1, 5" left="39" top="0" width="3" height="2"/>', '<polygon frame="0" points="1,2;x,3"/>',
     '<box frame="0" xtl="0" ytl="0" xbr="nan" ybr="3"/>'],
)  # fmt: skip
def test_broken_shapes_of_cvat_are_named(tmp_path, shape):
    good = '<track id="7" label="cat"><box frame="0" xtl="0" ytl="0" xbr="4" ybr="4"/></track>'
    dataset = write_cvat(tmp_path, f'{good}<track id="8" label="cat">{shape}</track>')
    assert [len(video.objects) for video in dataset.videos] == [1]
    assert any(problem.fatal and "track 8 of" in problem.where for problem in dataset.problems)
    with pytest.raises(DataError, match="track 8 of"):
        load_dataset(f"cvat:{tmp_path}")


def keyframe(frame, x, enabled):
    return {"frame": frame, "enabled": enabled, "rotation": 0, "x": x, "y": 25, "width": 20, "height": 50, "time": 0}


def write_label_studio(root, sequence, video="/data/local-files/?d=clips/my%20clip.mp4"):
    for t in range(8):
        write_picture(root / "my clip" / f"{t:06d}.png", picture(t))
    region = {"id": "a", "type": "videorectangle", "value": {"framesCount": 8, "sequence": sequence, "labels": ["owl"]}}
    tasks = [{"id": 3, "data": {"video": video}, "annotations": [{"was_cancelled": True}, {"result": [region]}]}]
    (root / "project.json").write_text(json.dumps(tasks))
    return load_dataset(f"label_studio:{root}")


def test_label_studio_boxes_move_between_keyframes_and_end(tmp_path):
    """20 % of 40 pixels is 8, 50 % of 24 is 12; frames count from 1; a keyframe that is not enabled is the last."""
    sequence = [keyframe(2, 0, True), keyframe(4, 50, False), keyframe(7, 10, True)]
    dataset = write_label_studio(tmp_path, sequence)
    assert dataset.class_names == ("owl",)
    masks = dataset.videos[0].read(range(8)).masks[0]
    seen = {1: 0, 2: 10, 3: 20, 6: 4, 7: 4}  # frame from 0 -> left edge
    for t, mask in enumerate(masks):
        expected = box_mask(seen[t], 6, seen[t] + 8, 18) if t in seen else no_masks()
        assert np.array_equal(mask, expected), t
    assert any("5 boxes, taken as masks" in str(problem) for problem in dataset.problems)


@pytest.mark.parametrize("url", ["video", "film"])
def test_label_studio_tasks_may_have_a_title_beside_their_video(tmp_path, url):
    write_label_studio(tmp_path, [keyframe(2, 0, True)])
    tasks = json.loads((tmp_path / "project.json").read_text())
    tasks[0]["data"] = {"title": "street corner", url: tasks[0]["data"]["video"]}
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    assert [video.name for video in load_dataset(f"label_studio:{tmp_path}").videos] == ["my clip"]
    # An export is read as it is, wherever a data set is named.
    assert [video.name for video in load_dataset(tmp_path).videos] == ["my clip"]


def test_the_tools_own_code_sees_the_same():
    """Key frames as Label Studio's SDK fills them in, runs as CVAT's SDK writes them (their versions in the file)."""
    made = json.loads((ASSETS / "labelling_tools.json").read_text())
    for region, expanded in zip(made["regions"], made["expanded"], strict=True):
        masks = label_studio._masks(region["value"]["sequence"], 24, HEIGHT, WIDTH)
        boxes = {frame: box for frame, *box in expanded}
        assert [t for t, mask in enumerate(masks, 1) if mask] == sorted(boxes)
        for frame, (x, y, w, h) in boxes.items():
            sides = np.array([x * WIDTH, y * HEIGHT, w * WIDTH, h * HEIGHT]) / 100
            np.testing.assert_allclose(coco_mask.toBbox(masks[frame - 1]), sides, atol=1)
    for code in made["masks"]:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask.ravel()[code["pixels"]] = True
        *runs, left, top, right, bottom = code["points"]
        facts = {"left": left, "top": top, "width": right - left + 1, "height": bottom - top + 1}
        facts = {"rle": ", ".join(map(str, runs)), **{name: str(value) for name, value in facts.items()}}
        assert cvat._mask_facts(mask) == facts
        read = cvat._Shapes(HEIGHT, WIDTH, 1)._held(ElementTree.Element("mask", facts))
        assert np.array_equal(mask_of(read), mask)


def test_the_frames_of_a_video_file_are_taken_from_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv("L2G_CACHE", str(tmp_path / "cache"))
    images = [np.full((HEIGHT, WIDTH, 3), 30 * t + 20, np.uint8) for t in range(8)]
    (tmp_path / "export").mkdir()
    write_clip(tmp_path / "export" / "my clip.mp4", images)
    region = {"type": "videorectangle", "value": {"sequence": [keyframe(3, 0, False)], "labels": ["owl"]}}
    tasks = [{"data": {"video": "/data/upload/1/my%20clip.mp4"}, "annotations": [{"result": [region]}]}]
    (tmp_path / "export/tasks.json").write_text(json.dumps(tasks))
    for _ in range(2):
        (video,) = load_dataset(f"label_studio:{tmp_path / 'export'}").videos
        assert video.length == 8
        for t, image in enumerate(images):
            assert abs(video.frame(t).mean() - image.mean()) < 4
    assert len(list((tmp_path / "cache/frames").iterdir())) == 1


def test_boxes_go_to_label_studio_and_back(source, tmp_path):
    done = convert(source, "label_studio", tmp_path / "there")
    assert "6 masks, of which only the boxes stay" in done.lost
    back = load_dataset(f"label_studio:{tmp_path / 'there'}")
    for old, new in zip(source.videos, back.videos, strict=True):
        before, after = old.read(range(3)), new.read(range(3))
        assert [source.class_names[k] for k in before.labels] == [back.class_names[k] for k in after.labels]
        np.testing.assert_allclose(before.boxes, after.boxes, atol=1e-6)


def test_mots_text_and_maps_are_two_spellings(tmp_path):
    one, two, ignored = box_mask(1, 2, 9, 8), box_mask(20, 3, 30, 20), box_mask(32, 0, 40, 5)
    lines = []
    for t, (car, walker) in enumerate([(one, None), (one, two)]):
        flat = np.zeros((HEIGHT, WIDTH), np.uint16)
        for key, mask in ((1005, car), (2000, walker), (10000, ignored)):
            if mask is not None:
                flat[mask] = key
                counts = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
                lines.append(f"{t} {key} {key // 1000} {HEIGHT} {WIDTH} {counts}")
        for root in ("text", "maps"):
            write_picture(tmp_path / root / "training/image_02/0003" / f"{t:06d}.png", picture(t))
        (tmp_path / "maps/instances/0003").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "maps/instances/0003" / f"{t:06d}.png"), flat)
    (tmp_path / "text/instances_txt").mkdir()
    (tmp_path / "text/instances_txt/0003.txt").write_text("\n".join(lines))
    text, maps = (load_dataset(f"mots:{tmp_path / root}") for root in ("text", "maps"))
    assert text.class_names == maps.class_names == ("car", "pedestrian")
    assert content(text) == content(maps)
    assert sorted(o.iscrowd for o in text.videos[0].objects) == [False, False, True]
    assert np.array_equal(text.videos[0].read([0, 1]).masks, np.stack([[one, one], [no_masks(), two]]))
    (tmp_path / "text/instances_txt/0003.txt").write_text("\n".join([*lines, "1 1006 1 24 40"]))
    with pytest.raises(DataError, match="line 6 of"):
        load_dataset(f"mots:{tmp_path / 'text'}")


@pytest.mark.parametrize("beside", ["notes.xml", "instances/one/x.png", "Annotations/one/00000.png"])
def test_a_set_of_youtube_vis_is_that_whatever_lies_beside_it(source, tmp_path, beside):
    there = tmp_path / "source" / beside
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_text("<annotations/>")
    assert content(load_dataset(tmp_path / "source")) == content(source)


@pytest.mark.parametrize("size", ["480p", "Full-Resolution"])
def test_masks_in_davis_folders_of_a_size(tmp_path, size):
    write_picture(tmp_path / "JPEGImages" / size / "bear/00000.png", picture(0))
    (tmp_path / "Annotations" / size / "bear").mkdir(parents=True)
    mask = box_mask(3, 4, 12, 15)
    cv2.imwrite(str(tmp_path / "Annotations" / size / "bear/00000.png"), mask.astype(np.uint8))
    dataset = load_dataset(f"masks:{tmp_path}")
    assert [video.name for video in dataset.videos] == [f"JPEGImages/{size}/bear"]
    assert np.array_equal(dataset.videos[0].read([0]).masks, mask[None, None])


@pytest.mark.parametrize("first", [0, 1, 500])
def test_frames_of_mots_are_counted_as_their_pictures_are(tmp_path, first):
    """MOTSChallenge's first frame is 1, KITTI's 0."""
    masks = [box_mask(4 * t, 2, 4 * t + 8, 10) for t in range(3)]
    lines = []
    for t, mask in enumerate(masks):
        counts = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
        lines.append(f"{first + t} 2000 2 {HEIGHT} {WIDTH} {counts}")
        for root in ("text", "maps"):
            write_picture(tmp_path / root / "train/images/0002" / f"{first + t:06d}.png", picture(t))
        (tmp_path / "maps/instances/0002").mkdir(parents=True, exist_ok=True)
        if t != 1:  # a frame without objects may have no map
            file = tmp_path / "maps/instances/0002" / f"{first + t:06d}.png"
            cv2.imwrite(str(file), np.where(mask, 2000, 0).astype(np.uint16))
    (tmp_path / "text/instances_txt").mkdir()
    file = tmp_path / "text/instances_txt/0002.txt"
    file.write_text("\n".join(lines))
    found = load_dataset(f"mots:{tmp_path / 'text'}").videos[0].read([0, 1, 2]).masks
    assert np.array_equal(found, np.stack([masks]))
    found = load_dataset(f"mots:{tmp_path / 'maps'}").videos[0].read([0, 1, 2]).masks
    assert np.array_equal(found, np.stack([[masks[0], no_masks(), masks[2]]]))
    file.write_text("\n".join([*lines, lines[0].replace(f"{first} ", f"{first + 9} ", 1)]))
    with pytest.raises(DataError, match=f"1 frames have masks and no picture, the first: {first + 9}"):
        load_dataset(f"mots:{tmp_path / 'text'}")


def test_masks_in_folders_with_a_palette(tmp_path):
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[2:8, 4:20], numbers[10:20, 4:9] = 1, 2
    for t in range(3):
        write_picture(tmp_path / "JPEGImages/a" / f"{t:05d}.png", picture(t))
    for t in (0, 2):  # frame 1 was not labelled
        shown = Image.fromarray(numbers)
        shown.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        (tmp_path / "Annotations/a").mkdir(parents=True, exist_ok=True)
        shown.save(tmp_path / "Annotations/a" / f"{t:05d}.png")
    plain = load_dataset(f"masks:{tmp_path}")
    assert (plain.class_names, plain.videos[0].length) == (("object",), 2)
    assert np.array_equal(plain.videos[0].read([1]).masks[:, 0], [numbers == 1, numbers == 2])
    meta = {"videos": {"a": {"objects": {"1": {"category": "cat"}, "2": {"category": "dog"}}}}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert load_dataset(f"masks:{tmp_path}").class_names == ("cat", "dog")


def test_a_folder_may_be_called_as_drawn_video_is(source, tmp_path, monkeypatch):
    convert(source, "masks", tmp_path / "synthetic_masks", "train")
    monkeypatch.chdir(tmp_path)
    assert data_convert.main(["synthetic_masks", "--to", "coco_video", "--output", "out"]) == 0
    assert len(load_dataset("coco_video:out")) == 2


def test_the_command_names_what_is_lost(source, tmp_path, capsys):
    command = [str(tmp_path / "source"), "--to", "masks", "--output", str(tmp_path / "there")]
    assert data_convert.main(command) == 0
    told = capsys.readouterr().out.splitlines()
    assert "lost: 12 pixels of overlapping objects, given to the smaller one" in told
    assert told[-1] == f"wrote {tmp_path / 'there'}: 2 videos, 6 frames, 3 objects"
    assert data_convert.main(command) == 2
    assert "is not empty" in capsys.readouterr().err
    assert split_source(str(tmp_path / "there")) == ("masks", str(tmp_path / "there"))
    with pytest.raises(DataError, match="pictures alone are no video"):
        convert(load_dataset("synthetic:train", videos=1), "cvat", tmp_path / "drawn")
    assert not (tmp_path / "drawn").exists()


@pytest.mark.parametrize("odd", [None, True, -1, 1.5, 2**70, float("inf"), "x", [1], {"a": 1}, [None]], ids=repr)
@pytest.mark.parametrize("key", ["image_id", "category_id", "instance_id", "id", "frame_id", "video_id", "height"])
def test_odd_values_of_coco_per_frame_are_named_or_taken(source, tmp_path, key, odd):
    """A list where an id is due was a TypeError."""
    convert(source, "coco_video", tmp_path / "there")
    path = tmp_path / "there" / "annotations" / "instances_train.json"
    data = json.loads(path.read_text())
    data["images" if key in ("frame_id", "video_id", "height", "id") else "annotations"][0][key] = odd
    path.write_text(json.dumps(data))
    told = None
    try:
        convert(load_dataset(f"coco_video:{tmp_path / 'there'}"), "youtube_vis", tmp_path / "back")
    except DataError as error:
        told = str(error)
    assert told is None or any(word in told for word in ("image", "annotation", "video", "categor")), told


@pytest.mark.parametrize("kind", ["coco_video", "cvat", "label_studio", "mots", "masks", "vipseg", "youtube_vis"])
def test_texts_that_start_with_a_byte_order_mark(source, tmp_path, kind):
    """As editors on Windows write them; found by themselves, and read as without."""
    convert(source, kind, tmp_path / "there")
    named = f"{kind}:{tmp_path / 'there'}"
    before = content(load_dataset(named))
    texts = [path for path in (tmp_path / "there").rglob("*") if path.suffix in (".json", ".txt", ".xml")]
    assert texts
    for path in texts:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert find_format(tmp_path / "there") == kind
    assert content(load_dataset(named)) == before
