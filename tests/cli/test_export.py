"""The command, from a checkpoint file to an ONNX file, and what it says when it cannot."""

import os
import pkgutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from l2g import export_onnx
from l2g import quantize as quantise
from l2g.cli.making import quantize
from l2g.cli.making.export import main
from l2g.errors import ExportError, L2GError
from l2g.export.exporter import export
from l2g.export.precision.emulate import emulate_file
from l2g.runtime.backends.open import open_backend
from tests import golden
from tests.export.models import run, session
from tests.exported import exported_model, small_checkpoint, small_graph


def test_public_mask_dino_from_the_command_line(tmp_path, capsys):
    """Every number of the public implementation, from its own checkpoint format, through the file."""
    fixture = golden.fixture("tiny_seed0")
    checkpoint, path = tmp_path / "public.pth", tmp_path / "model.onnx"
    torch.save({"model": golden.tiny_state_dict("tiny_seed0")}, checkpoint)
    height, width = fixture["image"].shape[:2]
    arguments = ["--height", str(height), "--width", str(width), "--num-queries", "20"]
    assert main(["--ckpt", str(checkpoint), "--output", str(path), *arguments]) == 0
    assert "verified by onnxruntime" in capsys.readouterr().out
    prior = np.full((2, 20, 260), np.nan, np.float32)
    frames = np.stack([fixture["image"], fixture["image"]])
    outputs = run(session(path), (frames, prior[..., :256], prior[..., 256:], np.zeros((2, 1), np.float32)))
    for stream in range(2):
        np.testing.assert_allclose(outputs[2][stream], fixture["out/pred_logits"][0], rtol=0, atol=1e-4)
        np.testing.assert_allclose(outputs[3][stream], fixture["out/pred_masks"][0], rtol=0, atol=1e-3)


def test_without_a_checkpoint(tmp_path, capsys):
    assert main(["--ckpt", str(tmp_path / "none.pth"), "--output", str(tmp_path / "model.onnx")]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--height", "100"], "multiples of 32"),
        (["--opset", "9"], "opset 9 found"),
        (["--lowering", "plugin"], "add --target tensorrt"),
        (["--max-streams", "0"], "1 to 127 expected"),
        (["--outputs", "detections", "--top-k", "-1"], "at least 1"),
    ],
)
def test_bad_options(arguments, text, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    assert main(["--ckpt", str(small_checkpoint()), "--output", str(path), *arguments]) == 2
    assert text in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["model.txt", "model", "model.onnx.bak"])
def test_a_name_by_which_no_graph_is_opened_is_refused_before_the_checkpoint_is_read(name, tmp_path, capsys):
    path, text = tmp_path / name, f"{name}: '{Path(name).suffix}' found at its end, .onnx expected"
    assert main(["--ckpt", str(tmp_path / "none.pth"), "--output", str(path)]) == 2
    assert text in capsys.readouterr().err
    for model in (tmp_path / "none.pth", exported_model()):
        with pytest.raises(ExportError, match=text):
            export_onnx(model, path)
    with pytest.raises(ExportError, match=text):
        export(exported_model(), path)
    with pytest.raises(ExportError, match=text):
        emulate_file(small_graph(), path)


def test_the_case_of_a_graph_s_name_matters_nowhere(tmp_path, capsys):
    path = tmp_path / "MODEL.ONNX"
    assert main(["--ckpt", str(small_checkpoint()), "--output", str(path)]) == 0
    open_backend(path).close()
    given = [
        "--ckpt",
        str(path),
        "--dataset",
        "nowhere",
        "--output",
        str(path.with_stem("OTHER")),
        "--num-queries",
        "3",
    ]
    assert quantize.main(given) == 2
    assert "an .onnx says all of it" in capsys.readouterr().err
    with pytest.raises(L2GError, match="num_queries"):
        quantise(path, "nowhere", path.with_stem("OTHER"), num_queries=3)


def test_no_folder_to_write_to(tmp_path, capsys):
    path = tmp_path / "missing" / "model.onnx"
    assert main(["--ckpt", str(small_checkpoint()), "--output", str(path)]) == 2
    assert "make its folder first" in capsys.readouterr().err


def test_no_module_of_the_export_hides_a_library():
    """`python export/to_onnx.py` puts that folder first on sys.path."""
    libraries = {"numpy", "cv2", "torch", "onnx", "onnxruntime", "onnxslim", "tensorrt", "safetensors", "ml_dtypes"}
    names = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parents[2] / "export")])}
    assert len(names) == 5
    assert not names & (set(sys.stdlib_module_names) | libraries)
