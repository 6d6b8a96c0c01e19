"""The classes of a model and those of a data set, matched by name wherever the two meet.

Equal counts mean nothing: YouTube-VIS 2019 and 2021 both have 40 classes, and a data set may list the same classes in
another order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from l2g.data.dataset import AnnotatedVideo, Video, VideoDataset
from l2g.errors import DataError

# Data set's class -> COCO's, by which a public image model is scored on what both know. A mouse of YouTube-VIS is an
# animal and COCO's is a device; what is several classes on one side (COCO's one "bird" for parrot and owl) is left
# out.
_SAME = {
    name: name for name in ("person", "dog", "cat", "cow", "horse", "bear", "giraffe", "zebra", "elephant", "boat")
}
_YOUTUBE_VIS = _SAME | {
    "skateboard": "skateboard",
    "train": "train",
    "motorbike": "motorcycle",
    "surfboard": "surfboard",
    "airplane": "airplane",
    "truck": "truck",
    "snowboard": "snowboard",
    "tennis_racket": "tennis racket",
}
SHIPPED_MAPS: dict[str, dict[str, str]] = {
    "coco-youtube_vis_2019": _YOUTUBE_VIS | {"sedan": "car"},
    "coco-youtube_vis_2021": _YOUTUBE_VIS | {"car": "car", "bird": "bird", "flying_disc": "frisbee"},
    "coco-ovis": _SAME
    | {"bird": "bird", "sheep": "sheep", "bicycle": "bicycle", "motorcycle": "motorcycle", "airplane": "airplane"},
}
_MADE_UP = re.compile(r"class_\d+")
_SHOWN = 6  # names in an error message


@dataclass(frozen=True)
class ClassMatch:
    """A data set as a model can be scored on it.

    dataset: with the classes that both know. columns: of each of its classes, the model's; None where the model's
    classes are the data set's, in its order. note: what a user should know of it, empty where there is nothing.
    """

    dataset: VideoDataset
    columns: tuple[int, ...] | None = None
    note: str = ""


def match_classes(dataset: VideoDataset, class_names: Sequence[str]) -> ClassMatch:
    """Match the classes of `dataset` with a model's `class_names` by name.

    Names are equal but for case and the signs between words. The same names in another order are reordered. Other names
    need the data set's `class_map`, and the data set is then scored on the classes in it alone. A
    model whose names were made up ("class_0", ...) is taken to have the data set's classes in its order, if it has as
    many; the note says so. Raises DataError where classes cannot be matched.
    """
    theirs = dataset.class_names
    if dataset.class_map is not None:
        return _mapped(dataset, class_names, dataset.class_map)
    if made_up(class_names):
        if len(class_names) == len(theirs):
            note = f"the model names no classes; taken to be those of '{dataset.name}', in its order"
            return ClassMatch(dataset, note=note)
        raise DataError(
            f"the model has {len(class_names)} classes without names, data set '{dataset.name}' has {len(theirs)}; "
            "evaluate on the data set that the model was trained for"
        )
    columns = same_names(class_names, theirs)
    if columns is None:
        model = _numbered(class_names, "the model")
        data = _numbered(theirs, f"data set '{dataset.name}'")
        raise DataError(_difference(dataset, class_names, data, model))
    if columns == tuple(range(len(theirs))):
        return ClassMatch(dataset)
    return ClassMatch(
        dataset, columns, f"the model has the classes of '{dataset.name}' in another order; matched by name"
    )


def made_up(names: Sequence[str]) -> bool:
    """Whether nothing names these classes: "class_0", "class_1", ..."""
    return bool(names) and all(_MADE_UP.fullmatch(name) for name in names)


def same_names(names: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...] | None:
    """Where each of `wanted` stands in `names`; None where the two are not the same names, each once.

    In one and the same order a name may come twice.
    """
    places = {_plain(name): place for place, name in enumerate(names)}
    plain = [_plain(name) for name in wanted]
    if plain == [_plain(name) for name in names]:  # also where a name comes twice
        return tuple(range(len(plain)))
    if len(places) < len(names) or len(set(plain)) < len(plain) or set(plain) != places.keys():
        return None
    return tuple(places[name] for name in plain)


def common_names(names: Sequence[str], wanted: Sequence[str]) -> tuple[int | None, ...]:
    """Where each of `wanted` stands in `names`, None where it does not; all None where a name comes twice.

    In one and the same order a name may come twice.
    """
    if (same := same_names(names, wanted)) is not None:
        return same
    places = {_plain(name): place for place, name in enumerate(names)}
    plain = [_plain(name) for name in wanted]
    if len(places) < len(names) or len(set(plain)) < len(plain):
        return (None,) * len(plain)
    return tuple(places.get(name) for name in plain)


def read_mapping(source: str | Path) -> dict[str, str]:
    """The mapping of a shipped name (`SHIPPED_MAPS`), or of a YAML or JSON file {data set's class: model's class}."""
    if str(source) in SHIPPED_MAPS:
        return SHIPPED_MAPS[str(source)]
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: no text, or a null byte in the name
        raise DataError(
            f"{path}: cannot be read ({error}); give a file of classes, or one of {', '.join(SHIPPED_MAPS)}"
        ) from None
    found = _parsed(path, text)
    if not (isinstance(found, dict) and found and all(isinstance(x, str) for pair in found.items() for x in pair)):
        raise DataError(f"{path}: expected lines 'class of the data set: class of the model', names on both sides")
    return found


def _parsed(path: Path, text: str):
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: is not JSON ({error})") from None
    try:
        from l2g.untrusted.yaml_files import parse_yaml
    except ModuleNotFoundError:
        raise DataError(f"{path}: YAML needs PyYAML; pip install pyyaml, or write the file as JSON") from None
    return parse_yaml(text, str(path), DataError)


def _mapped(dataset: VideoDataset, class_names: Sequence[str], mapping: Mapping[str, str]) -> ClassMatch:
    model = _numbered(class_names, "the model")
    data = _numbered(dataset.class_names, f"data set '{dataset.name}'")
    kept: dict[int, int] = {}
    for theirs, ours in mapping.items():
        for name, known, side in ((theirs, data, f"data set '{dataset.name}'"), (ours, model, "the model")):
            if _plain(name) not in known:
                raise DataError(f"the mapping names '{name}', which {side} does not have; its classes: {_list(known)}")
        if (label := data[_plain(theirs)]) in kept:
            raise DataError(f"the mapping names '{theirs}' twice; leave one of them out")
        kept[label] = model[_plain(ours)]
    order = sorted(kept)
    note = f"scored on the {len(order)} classes of the mapping, of {len(dataset.categories)} in '{dataset.name}'"
    return ClassMatch(_only(dataset, order), tuple(kept[label] for label in order), note)


def _only(dataset: VideoDataset, labels: Sequence[int]) -> VideoDataset:
    """The data set with some of its classes; objects of the others are left out."""
    place = {label: index for index, label in enumerate(labels)}
    videos = [_fewer(video, place) for video in dataset.videos]
    return replace(dataset, categories=tuple(dataset.categories[label] for label in labels), videos=videos)


def _fewer(video: Video, place: Mapping[int, int]) -> Video:
    if not isinstance(video, AnnotatedVideo):
        raise DataError(f"video '{video.name}' lists no objects, so its classes cannot be mapped; use another data set")
    return video.with_objects(replace(o, label=place[o.label]) for o in video.objects if o.label in place)


def _numbered(names: Sequence[str], whose: str) -> dict[str, int]:
    found = {_plain(name): index for index, name in enumerate(names)}
    if len(found) < len(names):
        twice = next(name for index, name in enumerate(names) if found[_plain(name)] != index)
        raise DataError(f"{whose} has the class '{twice}' twice; rename one of them")
    return found


def _difference(dataset: VideoDataset, class_names: Sequence[str], data: dict, model: dict) -> str:
    only_data = [name for name in dataset.class_names if _plain(name) not in model]
    only_model = [name for name in class_names if _plain(name) not in data]
    sides = [
        f"{whose} {_list(names)}"
        for whose, names in (("only the data set has", only_data), ("only the model has", only_model))
        if names
    ]
    return (
        f"the model has {len(class_names)} classes, data set '{dataset.name}' has {len(data)}, and their names differ: "
        f"{'; '.join(sides)}. Evaluate on the data set that the model was trained for, or say which class is which "
        f"with --classes FILE (lines 'class of the data set: class of the model') or one of {', '.join(SHIPPED_MAPS)}"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def _list(names) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
