"""A model's classes and a data set's are matched by name, never by count alone."""

import json
from dataclasses import replace

import pytest

from l2g.data.classes import SHIPPED_MAPS, match_classes, read_mapping
from l2g.data.dataset import Category, VideoDataset
from l2g.data.synthetic.dataset import write_synthetic
from l2g.data.youtube_vis import ground_truth, load_youtube_vis
from l2g.errors import DataError
from l2g.public.classes import COCO_CLASSES

# The official lists, for the maps that ship: every name of a map has to be in them.
YOUTUBE_VIS_2019 = [
    "person",
    "giant_panda",
    "lizard",
    "parrot",
    "skateboard",
    "sedan",
    "ape",
    "dog",
    "snake",
    "monkey",
    "hand",
    "rabbit",
    "duck",
    "cat",
    "cow",
    "fish",
    "train",
    "horse",
    "turtle",
    "bear",
    "motorbike",
    "giraffe",
    "leopard",
    "fox",
    "deer",
    "owl",
    "surfboard",
    "airplane",
    "truck",
    "zebra",
    "tiger",
    "elephant",
    "snowboard",
    "boat",
    "shark",
    "mouse",
    "frog",
    "eagle",
    "earless_seal",
    "tennis_racket",
]
YOUTUBE_VIS_2021 = [
    "airplane",
    "bear",
    "bird",
    "boat",
    "car",
    "cat",
    "cow",
    "deer",
    "dog",
    "duck",
    "earless_seal",
    "elephant",
    "fish",
    "flying_disc",
    "fox",
    "frog",
    "giant_panda",
    "giraffe",
    "horse",
    "leopard",
    "lizard",
    "monkey",
    "motorbike",
    "mouse",
    "parrot",
    "person",
    "rabbit",
    "shark",
    "skateboard",
    "snake",
    "snowboard",
    "squirrel",
    "surfboard",
    "tennis_racket",
    "tiger",
    "train",
    "truck",
    "turtle",
    "whale",
    "zebra",
]
OVIS = [
    "Person",
    "Bird",
    "Cat",
    "Dog",
    "Horse",
    "Sheep",
    "Cow",
    "Elephant",
    "Bear",
    "Zebra",
    "Giraffe",
    "Poultry",
    "Giant_panda",
    "Lizard",
    "Parrot",
    "Monkey",
    "Rabbit",
    "Tiger",
    "Fish",
    "Turtle",
    "Bicycle",
    "Motorcycle",
    "Airplane",
    "Boat",
    "Vehical",
]
OFFICIAL = {"coco-youtube_vis_2019": YOUTUBE_VIS_2019, "coco-youtube_vis_2021": YOUTUBE_VIS_2021, "coco-ovis": OVIS}


def dataset(*names):
    return VideoDataset("made up", tuple(Category(number, name) for number, name in enumerate(names, 1)), ())


def test_equal_classes_need_nothing():
    match = match_classes(dataset("cat", "dog"), ("cat", "dog"))
    assert (match.columns, match.note) == (None, "")


def test_another_order_is_reordered():
    match = match_classes(dataset("dog", "Tennis_Racket", "cat"), ("cat", "dog", "tennis racket"))
    assert match.columns == (1, 2, 0)
    assert "another order" in match.note


@pytest.mark.parametrize("names", [("cat", "horse"), ("cat",), ("cat", "dog", "horse")])
def test_other_names_are_refused_whatever_their_number(names):
    with pytest.raises(DataError, match=r"names differ.*'(dog|horse)'.*--classes FILE"):
        match_classes(dataset("cat", "dog"), names)


def test_the_same_name_twice_is_refused():
    with pytest.raises(DataError, match="the model has the class 'cat' twice"):
        match_classes(dataset("cat", "dog"), ("cat", "CAT"))


def test_a_model_without_names_is_taken_at_its_word_and_says_so():
    match = match_classes(dataset("cat", "dog"), ("class_0", "class_1"))
    assert match.columns is None
    assert "in its order" in match.note
    with pytest.raises(DataError, match="3 classes without names"):
        match_classes(dataset("cat", "dog"), ("class_0", "class_1", "class_2"))


def test_a_mapping_leaves_the_classes_in_it(tmp_path):
    write_synthetic(tmp_path / "data", "val", seed=3, videos=3, frames=4)
    data = load_youtube_vis(tmp_path / "data")
    first, last = data.class_names[0], data.class_names[-1]
    match = match_classes(replace(data, class_map={last: "x", first: "z"}), ("x", "y", "z"))
    assert match.dataset.class_names == (first, last)
    assert match.columns == (2, 0)
    expected = [[o for o in v.objects if o.label in (0, len(data.categories) - 1)] for v in data.videos]
    assert [len(v.objects) for v in match.dataset.videos] == [len(objects) for objects in expected]
    assert sum(map(len, expected)) < sum(len(v.objects) for v in data.videos)
    truth = ground_truth(match.dataset)
    assert {c["id"] for c in truth["categories"]} == {data.categories[0].id, data.categories[-1].id}
    assert {a["category_id"] for a in truth["annotations"]} <= {c["id"] for c in truth["categories"]}
    labels = [o.label for v in match.dataset.videos for o in v.objects]
    truly = [o.record["category_id"] for v in match.dataset.videos for o in v.objects]
    assert [match.dataset.categories[label].id for label in labels] == truly


@pytest.mark.parametrize(("mapping", "words"), [({"cow": "cat"}, "made up"), ({"cat": "cow"}, "the model")])
def test_a_mapping_of_what_is_not_there(mapping, words):
    with pytest.raises(DataError, match=f"'cow', which .*{words}"):
        match_classes(replace(dataset("cat"), class_map=mapping), ("cat",))


@pytest.mark.parametrize("name", SHIPPED_MAPS)
def test_the_shipped_maps_hold_names_that_exist(name):
    mapping = read_mapping(name)
    match = match_classes(replace(dataset(*OFFICIAL[name]), class_map=mapping), COCO_CLASSES)
    pairs = zip(match.dataset.class_names, (COCO_CLASSES[column] for column in match.columns), strict=True)
    assert len(match.columns) == len(mapping) == len(set(match.columns))
    assert dict(pairs)[next(n for n in OFFICIAL[name] if n.lower() == "zebra")] == "zebra"
    assert "mouse" not in {n.lower() for n in match.dataset.class_names}  # an animal there, a device in COCO


def test_files_of_classes(tmp_path):
    (tmp_path / "map.yaml").write_text("sedan: car\nmotorbike: motorcycle\n")
    (tmp_path / "map.json").write_text(json.dumps({"sedan": "car"}))
    assert read_mapping(tmp_path / "map.yaml") == {"sedan": "car", "motorbike": "motorcycle"}
    assert read_mapping(tmp_path / "map.json") == {"sedan": "car"}


@pytest.mark.parametrize("text", ["- sedan\n", "", "sedan: 3\n", "a: [", "[" * 5000])
def test_files_that_are_no_map(tmp_path, text):
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(DataError, match=r"map\.yaml"):
        read_mapping(tmp_path / "map.yaml")
    with pytest.raises(DataError, match="cannot be read"):
        read_mapping(tmp_path / "a\0b")
    with pytest.raises(DataError, match=r"no\.yaml: cannot be read"):
        read_mapping(tmp_path / "no.yaml")


def test_equal_lists_match_whatever_is_in_them():
    """A model that was trained on a data set fits it, also where a name comes twice."""
    match = match_classes(dataset("cat", "dog", "cat"), ("cat", "dog", "cat"))
    assert (match.columns, match.note) == (None, "")


def test_a_mapping_that_names_a_class_twice():
    with pytest.raises(DataError, match="names 'Cat' twice"):
        match_classes(replace(dataset("cat", "dog"), class_map={"cat": "x", "Cat": "y"}), ("x", "y"))


def test_two_classes_may_be_one_to_the_model():
    match = match_classes(
        replace(dataset("parrot", "owl", "cat"), class_map={"parrot": "bird", "owl": "bird"}), ("bird",)
    )
    assert (match.dataset.class_names, match.columns) == (("parrot", "owl"), (0, 0))
