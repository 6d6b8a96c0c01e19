"""`l2g triton`: what it prints, what it refuses, and its page."""

import re
from pathlib import Path

import pytest

from l2g.cli.main import main
from l2g.serving import wire
from tests.serving.graphs import tiny_graph

PAGES = Path(__file__).parents[2] / "docs"


def test_a_repository_and_the_reason(tmp_path, capsys):
    words = ["triton", str(tiny_graph()), "--output", str(tmp_path / "models"), "--streams", "20", "--idle", "2m"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "oldest: 20 streams take turns in batches of at most 8" in told
    assert f"tritonserver --model-repository {tmp_path / 'models'}" in told
    (config,) = (tmp_path / "models").glob("*/config.pbtxt")
    assert "max_sequence_idle_microseconds: 120000000" in config.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--backend", "openvino"], "no implicit state"),
        (["--backend", "onnxruntime", "--warm-up"], "Triton refuses to load"),
        (["--backend", "onnxruntime", "--server", "22.12"], "23.11"),
        (["--streams", "9", "--strategy", "direct"], "9 streams found for 8 slots"),
        (["--backend", "tensorrt"], "l2g build"),
        (["--queue-delay", "-1"], "a queue delay of -1 s"),
    ],
)
def test_what_is_refused(words, said, tmp_path, capsys):
    assert main(["triton", str(tiny_graph()), "--output", str(tmp_path / "models"), *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "models").exists()


def _rows(heading):
    text = (PAGES / "formats/triton.md").read_text()
    table = text[text.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")[:3]] for row in table]


@pytest.mark.parametrize(("heading", "specs"), [("input", wire.INPUTS), ("output", wire.OUTPUTS)])
def test_the_tensors_are_on_their_page(heading, specs):
    rows = _rows(heading)
    assert [(name, kind) for name, kind, _ in rows] == [(spec.name, spec.datatype) for spec in specs]
    for (_, _, shape), spec in zip(rows, specs, strict=True):
        sides = [int(side) if side.isdigit() else -1 for side in re.findall(r"\w+", shape)]
        assert tuple(sides) == spec.shape


def test_the_parameters_are_on_their_page(tmp_path, capsys):
    main(["triton", str(tiny_graph()), "--output", str(tmp_path / "a")])
    main(["triton", str(tiny_graph()), "--output", str(tmp_path / "b"), "--backend", "onnxruntime"])
    main(["triton", str(tiny_graph()), "--output", str(tmp_path / "c"), "--library", "openvino", "--precision", "fp32"])
    texts = [config.read_text() for config in tmp_path.glob("*/*/config.pbtxt")]
    keys = {key for text in texts for key in re.findall(r'parameters \{\n  key: "(\w+)"', text)}
    text = (PAGES / "formats/triton.md").read_text()
    table = text[text.index("| parameter |") :].split("\n\n")[0]
    assert keys == {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
