"""Spoiled data of other tools and of things and stuff: annotations, maps, class maps."""

from __future__ import annotations

import functools
import io
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from l2g.cli.main import main
from l2g.data.convert.job import WRITERS
from l2g.data.synthetic.panoptic import write_panoptic
from l2g.data.synthetic.shapes import CLASS_NAMES
from tests.exported import small_graph
from tests.mutations.change import bytes_of, json_of, text_of
from tests.mutations.originals import Originals

FORMATS = tuple(sorted(set(WRITERS) - {"youtube_vis", "ovis"}))
_VALUES = ("", "-1", "0", "nan", "1e400", "9" * 30, "x" * 5000, "../../etc/passwd", "a:b", "1.5", "&amp;#0;", "True")


@functools.cache
def _converted(folder: Path, data: Path, kind: str) -> Path:
    assert main(["data", "convert", str(data), "--to", kind, "--output", str(folder / f"as_{kind}")]) == 0
    return folder / f"as_{kind}"


@functools.cache
def _panoptic(folder: Path) -> Path:
    return write_panoptic(folder / "stuff", "val", seed=3, videos=2, frames=2, size=(64, 96))


def words_of(text: str, rng: random.Random) -> str:
    """Text whose quoted or blank-separated words are exchanged for odd ones."""
    pattern = r'(?<=")[^"<>]*(?=")' if text.lstrip().startswith("<") else r"[^\s,;]+"
    for _ in range(rng.randrange(1, 4)):
        places = list(re.finditer(pattern, text))
        if places:
            found = rng.choice(places)
            text = text[: found.start()] + rng.choice(_VALUES) + text[found.end() :]
    return text


def picture_of(data: bytes, rng: random.Random) -> bytes:
    """A picture file that is damaged, or of another size or kind."""
    if rng.random() < 0.4:
        return bytes_of(data, rng)
    size = rng.choice(((1, 1), (64, 96), (65, 96), (7, 2000)))
    depth = rng.choice((np.uint8, np.uint16))
    shape = rng.choice((size, (*size, 3), (*size, 4))) if depth == np.uint8 else size
    made = np.random.default_rng(rng.randrange(99)).integers(0, 255, shape).astype(depth)
    picture, buffer = Image.fromarray(made), io.BytesIO()
    if rng.random() < 0.3 and picture.mode == "RGB":
        picture = picture.convert(rng.choice(("P", "1", "L")))
    picture.save(buffer, rng.choice(("PNG", "PNG", "TIFF", "GIF")) if depth == np.uint8 else "PNG")
    return buffer.getvalue()


def spoil(path: Path, rng: random.Random) -> None:
    """A file by what it is."""
    if path.suffix.lower() in (".png", ".jpg"):
        path.write_bytes(picture_of(path.read_bytes(), rng))
    elif rng.random() < 0.15:
        path.write_bytes(bytes_of(path.read_bytes(), rng))
    elif path.suffix == ".json":
        path.write_text(json_of(json.loads(path.read_text()), rng))
    else:
        path.write_text(words_of(path.read_text(), rng))


def _one_of(folder: Path, rng: random.Random) -> Path:
    """A file; annotations rather than one of many pictures."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    texts = [path for path in files if path.suffix.lower() not in (".png", ".jpg")]
    return rng.choice(texts if texts and rng.random() < 0.75 else files)


def converted(good: Originals, rng: random.Random, work: Path) -> list[str]:
    kind = rng.choice(FORMATS)
    data = work / "data"
    shutil.copytree(_converted(good.folder, good.data, kind), data)
    spoil(_one_of(data, rng), rng)
    named = f"{kind}:{data}" if rng.random() < 0.7 else str(data)
    if rng.random() < 0.5:
        return ["data", "check", named, *(["--decode"] if rng.random() < 0.5 else [])]
    back = rng.choice(sorted(WRITERS))
    return ["data", "convert", named, "--to", back, "--output", str(work / "out" / "back")]


def panoptic(good: Originals, rng: random.Random, work: Path) -> list[str]:
    data = work / "data"
    shutil.copytree(_panoptic(good.folder), data)
    truth = next(data.glob("*.json"))
    asked = rng.random()
    if asked < 0.5:
        spoil(_one_of(data, rng), rng)
        return ["data", "check", f"vipseg:{data}", *(["--decode"] if rng.random() < 0.6 else [])]
    # Results of the truth's own form, with maps of their own.
    results = work / "results"
    shutil.copytree(data / "panomasksRGB", results / "pan_pred")
    (results / "pred.json").write_text(truth.read_text())
    spoil(_one_of(rng.choice((results, results, data)), rng), rng)
    ways = ["--ground-truth", str(truth), "--ground-truth-maps", str(data / "panomasksRGB"), "--results", str(results)]
    return ["metrics", rng.choice(("vpq", "stq")), *ways, "--json", str(work / "out" / "s.json")]


def class_maps(good: Originals, rng: random.Random, work: Path) -> list[str]:
    path = work / rng.choice(("c.yaml", "c.json"))
    names = dict.fromkeys(CLASS_NAMES[::-1])
    if rng.random() < 0.5:
        path.write_text(text_of("\n".join(f"{name}: {name}" for name in names), rng))
    else:
        path.write_text(json_of({name: name for name in names}, rng))
    results = str(work / "out" / "r.json")
    words = ["evaluate", "--model", str(small_graph()), "--dataset", str(good.data), "--results", results, "--quiet"]
    return [*words, "--classes", str(path)]
