"""The command on a real graph: it passes the model's own export and fails, saying why, on three broken ones."""

import base64
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from l2g.cli.running import evaluate, parity  # noqa: E402
from l2g.data.synthetic.dataset import write_synthetic  # noqa: E402
from tests.exported import (  # noqa: E402
    edited,
    ignore_prior_valid,
    scale_one_weight,
    small_checkpoint,
    small_graph,
    swap_streams,
)
from tests.modeling.small import HEIGHT, WIDTH  # noqa: E402

# Random weights find no object with confidence; all slots count.
ALL_SLOTS = ("--confidence", "0.0")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "val"
    return write_synthetic(folder, "val", videos=3, frames=5, size=(HEIGHT, WIDTH))


def run(tmp_path, candidate, dataset, *options, reference=None):
    """(exit code, report as JSON or None)"""
    folder = tmp_path / "report"
    arguments = ["--reference", str(reference or small_checkpoint()), "--candidate", str(candidate)]
    code = parity.main([*arguments, "--dataset", str(dataset), "--report", str(folder), *options])
    file = folder / "parity.json"
    return code, json.loads(file.read_text(), parse_constant=pytest.fail) if file.exists() else None


def checks(report):
    return {check["name"]: check for check in report["checks"]}


MASKS = "teacher-forced mask logits after the first frame"
FIRST = "first-frame mask logits of the typical slot"
IDENTITY = "identity agreement of the free run, percent"


def test_the_models_own_graph_passes(tmp_path, dataset, capsys):
    code, report = run(tmp_path, small_graph(), dataset, *ALL_SLOTS)
    assert code == 0
    assert report["passed"]
    assert report["findings"] == []
    assert report["first_divergence"] == {"forced": None, "free": None}
    assert all(check["passed"] for check in report["checks"])
    # Two libraries: not equal to the bit, which would mean that something was compared with itself.
    assert 0 < checks(report)[MASKS]["value"] < 1e-3
    assert 0 < checks(report)[FIRST]["value"] < 1e-3
    assert checks(report)[IDENTITY]["value"] == 100
    assert [video["frames"] for video in report["videos"]] == [5, 5, 5]
    assert [len(video[mode]["logits_max"]) for video in report["videos"] for mode in ("forced", "free")] == [5] * 6
    assert report["ap"]["difference"]["AP"] is not None
    printed = capsys.readouterr().out
    assert "PASS" in printed.splitlines()[0]
    assert str(tmp_path / "report" / "parity.html") in printed
    assert sorted(file.name for file in (tmp_path / "report").iterdir()) == ["parity.html", "parity.json"]


def test_two_graphs_compare_too(tmp_path, dataset):
    code, report = run(
        tmp_path, small_graph(), dataset, *ALL_SLOTS, "--videos", "1", "--no-ap", reference=small_graph()
    )
    assert code == 0
    assert checks(report)[MASKS]["value"] == 0
    assert report["ap"] is None


def test_one_weight_changed_by_ten_percent_fails(tmp_path, dataset, capsys):
    broken = edited(small_graph(), scale_one_weight, tmp_path / "broken.onnx")
    code, report = run(tmp_path, broken, dataset, *ALL_SLOTS)
    assert code == 1
    assert not checks(report)[MASKS]["passed"]
    assert not checks(report)[FIRST]["passed"]
    assert report["first_divergence"]["forced"]["frame"] == 0
    assert report["findings"] == [
        "first and later frames differ from the same state: weights, kernels or the preprocessing"
    ]
    assert "FAIL" in capsys.readouterr().out.splitlines()[0]


def test_priors_swapped_between_streams_fail(tmp_path, dataset):
    broken = edited(small_graph(), swap_streams, tmp_path / "broken.onnx")
    code, report = run(tmp_path, broken, dataset, *ALL_SLOTS, "--streams", "2")
    assert code == 1
    assert checks(report)[FIRST]["passed"]
    assert not checks(report)[MASKS]["passed"]
    # The first frame has no state; the second is the first that another stream's can spoil.
    assert report["first_divergence"]["forced"]["frame"] == 1
    assert [video["first_divergence"]["forced"] for video in report["videos"]] == [1, 1, None]
    assert "the state does not enter the graph as it should (another stream's rows" in report["findings"][0]


def test_a_graph_that_ignores_prior_valid_fails(tmp_path, dataset):
    broken = edited(small_graph(), ignore_prior_valid, tmp_path / "broken.onnx")
    code, report = run(tmp_path, broken, dataset, *ALL_SLOTS)
    assert code == 1
    assert not checks(report)[FIRST]["passed"]
    assert checks(report)[MASKS]["passed"]
    assert [video["first_divergence"]["forced"] for video in report["videos"]] == [0, 0, 0]
    assert "the graph does not honour the validity input" in report["findings"][0]


def test_tolerances_decide(tmp_path, dataset):
    strict = ("--tolerance", "mask_logits=1e-9", "identity=100")
    code, report = run(tmp_path, small_graph(), dataset, *ALL_SLOTS, "--videos", "1", *strict)
    assert code == 1
    assert report["tolerances"] == {"ap": 0.02, "mask_logits": 1e-9, "identity": 100.0}
    assert not checks(report)[MASKS]["passed"]
    broken = edited(small_graph(), scale_one_weight, tmp_path / "broken.onnx")
    loose = ("--tolerance", "mask_logits=100", "identity=0", "ap=100")
    assert run(tmp_path, broken, dataset, *ALL_SLOTS, "--videos", "1", *loose)[0] == 0


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.pictures, self.texts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_holds_everything_itself(tmp_path, dataset):
    broken = edited(small_graph(), swap_streams, tmp_path / "a<b>.onnx")
    run(tmp_path, broken, dataset, *ALL_SLOTS, "--streams", "2")
    text = (tmp_path / "report" / "parity.html").read_text()
    page = _Page(text)
    assert page.open == []
    assert not re.search(r"https?://|<script|<link|url\(", text)
    assert (page.tags.count("svg"), page.tags.count("polyline") >= 10) == (8, True)
    assert "nan" not in " ".join(re.findall(r'points="([^"]*)"', text))
    # Reference, candidate and difference, 400 pixels wide each.
    assert page.pictures
    for source in page.pictures:
        kind, coded = source.split(",")
        assert kind == "data:image/png;base64"
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(coded), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (round(HEIGHT * 400 / WIDTH), 1200, 3)
    assert any("a<b>.onnx" in piece for piece in page.texts)
    assert any("the state does not enter the graph" in piece for piece in page.texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tolerance", "speed=3"), "tolerance 'speed=3' found, NAME=VALUE expected with NAME one of ap, mask_logits"),
        (("--tolerance", "ap"), "tolerance 'ap' found"),
        (("--tolerance", "ap=-1"), "tolerance 'ap=-1' found"),
        (("--tolerance", "ap=nan"), "tolerance 'ap=nan' found"),
        (("--streams", "0"), "0 streams asked for"),
        (("--videos", "0"), "--videos 0 found"),
        (("--dataset", "nowhere"), "no data set 'nowhere'"),
        (("--candidate", "absent.onnx"), "absent.onnx: no such file; export a checkpoint with"),
        (("--reference", "absent.safetensors"), "absent.safetensors: no such file"),
    ],
)
def test_bad_input_is_one_line(tmp_path, dataset, capsys, options, message):
    code, report = run(tmp_path, small_graph(), dataset, *options)
    assert (code, report) == (2, None)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_evaluate_takes_a_graph_and_gives_what_parity_gives(tmp_path, dataset, capsys):
    _, report = run(tmp_path, small_graph(), dataset, *ALL_SLOTS)
    found = tmp_path / "scores.json"
    assert evaluate.main(["--model", str(small_graph()), "--dataset", str(dataset), "--report", str(found)]) == 0
    scores = json.loads(found.read_text())
    assert {name: scores[name] for name in report["ap"]["candidate"]} == pytest.approx(report["ap"]["candidate"])
    assert evaluate.main(["--model", str(small_graph(4)), "--dataset", str(dataset)]) == 2
    assert "export with --outputs raw" in capsys.readouterr().err


def test_chosen_detections_are_refused(tmp_path, dataset, capsys):
    assert run(tmp_path, small_graph(4), dataset, reference=small_graph(4))[0] == 2
    assert "export it with --outputs raw" in capsys.readouterr().err


def test_a_report_that_cannot_be_written(tmp_path, dataset, capsys):
    (tmp_path / "report").write_text("a file")
    assert (
        parity.main(
            [
                "--reference",
                "x.pth",
                "--candidate",
                "y.onnx",
                "--dataset",
                str(dataset),
                "--report",
                str(tmp_path / "report"),
            ]
        )
        == 2
    )
    assert "cannot be made" in capsys.readouterr().err
