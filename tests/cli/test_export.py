"""The command, from a checkpoint file to an ONNX file, and what it says when it cannot."""

import os
import pkgutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from l2g.cli.making.export import main
from tests import golden
from tests.export.models import run, session
from tests.exported import small_checkpoint


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
