"""docs/formats names every field of what the commands write, and none that nothing has.

Real files: each is made by its command, and its keys are looked up in the first columns and sentences of its page.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx")
exported = pytest.importorskip("tests.exported")

ROOT = Path(__file__).parent.parent
FORMATS = ROOT / "docs" / "formats"
# Objects whose keys are names of something else: tensors, libraries, IoU thresholds, units of the model.
OPEN = {"versions", "differences", "tolerances", "errors", "limits", "AP_per_IoU", "sensitivity", "tensors"}
OPEN |= {"tensors_by_method", "layers", "nodes", "libraries", "why_not", "details"}


def run(door, *words, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "L2G_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *door, *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def door(path):
    return [str(ROOT / path)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two drawn videos, and what run and evaluate say of them."""
    folder = tmp_path_factory.mktemp("formats")
    draw = ["-m", "l2g.data.synthetic"]
    run(draw, "--split", "val", "--videos", 2, "--frames", 4, "--size", 64, 96, "--output", "own", cwd=folder)
    clip = ROOT / "examples/demo/clip.mp4"
    run(
        door("runtime/run_video.py"),
        "--model",
        "l2g_tiny",
        "--input",
        clip,
        "--end",
        "0.2",
        "--output",
        "out",
        cwd=folder,
    )
    return folder


def keys(value, path=()):
    """Every key of a JSON value, as a path; keys of open objects are left out, their values are not looked into."""
    found = set()
    if isinstance(value, dict):
        for key, inner in value.items():
            found.add((*path, key))
            if key not in OPEN or not isinstance(inner, dict):
                found |= keys(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            found |= keys(inner, path)
    return found


def section(page, *headings):
    """The text of a page, or of those of its sections with these headings."""
    text = (FORMATS / page).read_text()
    if not headings:
        return text
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    return "\n".join(found[heading] for heading in headings)


def words(text):
    return set(re.findall(r"`\"?([\w.]+)\"?`", text))


def listed(text):
    """What stands in backticks in the first column of tables."""
    return {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in words(row)}


def compare(value, text, absent=()):
    """All keys are named, and all names in first columns are keys, but for those of other kinds of this file."""
    found = {path[-1] for path in keys(value)}
    assert found, "no keys"
    assert found <= words(text), f"not named: {sorted(found - words(text))}"
    assert listed(text) - found <= set(absent), f"no such key: {sorted(listed(text) - found - set(absent))}"


def contract_of(path):
    model = onnx.load(path, load_external_data=False)
    return json.loads({entry.key: entry.value for entry in model.metadata_props}["l2g.contract"])


INT8 = {"int8", "float32_sha256", "float32_verification"}
INT8_PARTS = {"ap_budget", "loss", "datasets", "layout", "scales", "units", "flops_percent", "ranges", "calibration"}
STUFF = {"stuff_classes"}
FP16_PARTS = {"errors", "limits", "largest_activation", "float32"}


def test_frames_jsonl(folder):
    lines = [json.loads(line) for line in (folder / "out/frames.jsonl").read_text().splitlines()]
    assert any(line["tracks"] for line in lines)
    compare(lines, section("results.md", "frames.jsonl"), {"reset", "stream"})


def test_results_json(folder):
    entries = json.loads((folder / "out/results.json").read_text())
    assert entries
    compare(entries, section("results.md", "results.json"), {"first_frame"})


def test_the_contract_of_fp32():
    compare(contract_of(exported.small_graph()), section("contract.md"), INT8 | INT8_PARTS | FP16_PARTS | STUFF)


def test_the_contract_of_fp16(tmp_path):
    export = ["--ckpt", exported.small_checkpoint(), "--precision", "fp16", "--output", "half.onnx"]
    run(door("export/to_onnx.py"), *export, cwd=tmp_path)
    compare(contract_of(tmp_path / "half.onnx"), section("contract.md"), INT8 | INT8_PARTS | STUFF)


def test_the_contract_and_the_report_of_int8(folder):
    small = ["--videos", 1, "--frames", 2, "--probe-frames", 1, "--max-trials", 0, "--method", "max"]
    small += ["--verdict-videos", 1, "--quiet"]
    options = ["--ckpt", exported.small_graph(), "--dataset", "own", "--output", "q.onnx", "--ap-budget", "none"]
    run(door("calibration/quantize.py"), *options, *small, cwd=folder)
    compare(contract_of(folder / "q.onnx"), section("contract.md"), FP16_PARTS | STUFF)
    text = section("reports.md", "The report of quantize") + section("contract.md", "verification of INT8", "int8")
    compare(
        json.loads((folder / "q.report.json").read_text()), text, {"flops_percent", "ranges", "library", "ap_budget"}
    )


def test_the_sidecar(folder):
    library = pytest.importorskip("l2g.runtime.backends.tensorrt.library")
    if library.installed_version("tensorrt-rtx") is None:
        pytest.skip("TensorRT-RTX is not installed")
    options = ["--onnx", exported.small_graph(), "--library", "tensorrt-rtx", "--output", "small.engine", "--no-cache"]
    run(door("export/build_engine.py"), *options, cwd=folder)
    data = json.loads((folder / "small.engine.json").read_text())
    assert data["engine"]["verification"]["status"] == "unverified"
    # A machine without a GPU cannot verify: the record is the one that the comparison would leave.
    from l2g.artifacts.records import Agreement
    from l2g.engines.verification import check_agreement

    data["contract"] = {}
    record = check_agreement(Agreement(0.0, 0.0, 0.0), "fp32", Path("small.engine"), "a GPU").to_json()
    compare([data, {"verification": record}, record["found"]], section("sidecar.md"))


def test_parity_json(folder):
    options = ["--reference", exported.small_checkpoint(), "--candidate", exported.small_graph(), "--dataset", "own"]
    run(door("runtime/parity.py"), *options, "--report", "parity", "--no-ap", "--confidence", "0", cwd=folder)
    found = json.loads((folder / "parity/parity.json").read_text())
    compare(found, section("reports.md", "parity.json"), {"vpq"})


def test_the_report_of_evaluate(folder):
    options = ["--model", exported.small_checkpoint(), "--dataset", "own", "--report", "val.json"]
    run(door("runtime/evaluate.py"), *options, cwd=folder)
    compare(json.loads((folder / "val.json").read_text()), section("reports.md", "The report of evaluate"))


@pytest.fixture(scope="module")
def panoptic(folder):
    """The same of things and stuff: a small random model that shows all it has."""
    from l2g.checkpoint import save_checkpoint
    from l2g.data.synthetic.panoptic import CATEGORIES
    from tests.modeling.small import small_model

    names = tuple(category.name for category in CATEGORIES)
    stuff = tuple(place for place, category in enumerate(CATEGORIES) if not category.is_thing)
    model = small_model(num_classes=12, class_names=names, stuff_classes=stuff)
    model.heads.class_embed.weight.data.mul_(20)  # sure of much
    save_checkpoint(model, folder / "panoptic.safetensors")
    everything = ["--object-mask-threshold", "0", "--overlap-threshold", "0"]
    words = ["--model", "panoptic.safetensors", *everything]
    clip = ROOT / "examples/demo/clip.mp4"
    run(door("runtime/run_video.py"), *words, "--input", clip, "--end", "0.2", "--output", "maps", cwd=folder)
    draw = ["data", "draw", "--panoptic", "--split", "val", "--videos", 2, "--frames", 4, "--size", 64, 96]
    run(["-m", "l2g"], *draw, "--output", "both", cwd=folder)
    data = ["--dataset", "vipseg:both", "--split", "val"]
    run(door("runtime/evaluate.py"), *words, *data, "--report", "maps.json", "--results", "kept", cwd=folder)
    return folder


def test_panoptic_jsonl(panoptic):
    lines = [json.loads(line) for line in (panoptic / "maps/panoptic.jsonl").read_text().splitlines()]
    kinds = {segment["isthing"] for line in lines for segment in line["segments"]}
    assert kinds == {True, False}
    text = section("results.md", "panoptic.jsonl")
    compare(lines, text + "`size` `counts`", {"reset", "stream"})


def test_pred_json(panoptic):
    for name in ("maps", "kept"):
        compare(
            json.loads((panoptic / name / "pred.json").read_text()), section("results.md", "pred.json and pan_pred")
        )


def test_the_report_of_evaluate_on_maps(panoptic):
    found = json.loads((panoptic / "maps.json").read_text())
    text = section("reports.md", "Things and stuff")
    assert found.pop("windows").keys() == {"1", "2", "4", "6", "8"}
    compare(found, text, {"windows"})


def test_the_report_of_gpu_check(folder):
    words = ["--device", "cpu", "--models", "l2g_tiny", "--size", "64x96", "--only", "video", "--output", "check"]
    run(["-m", "l2g"], "gpu-check", *words, "--quiet", cwd=folder)
    found = json.loads((folder / "check/report.json").read_text())
    assert [outcome["step"] for outcome in found["outcomes"]] == ["machine", "video"]
    compare(found, section("reports.md", "The report of gpu-check"))


def test_a_missing_field_and_a_made_up_one_are_found():
    text = section("results.md", "frames.jsonl")
    value = {
        "stream": "door",
        "index": 0,
        "time": 0.0,
        "reset": "cut",
        "tracks": [{"id": 1, "label": 0, "name": "", "score": 1.0, "box": []}],
    }
    value["tracks"][0]["segmentation"] = {"size": [1, 1], "counts": ""}
    compare(value, text)
    with pytest.raises(AssertionError, match=r"not named: \[.age"):
        compare({**value, "age": 3}, text)
    del value["tracks"][0]["label"]
    with pytest.raises(AssertionError, match=r"no such key: \[.label"):
        compare(value, text)
