"""The whole run on a small model: resumed, refused, and steered by planted losses."""

import dataclasses
import json
import sys

import numpy as np
import onnx
import pytest

from l2g.artifacts.graph_sum import intact
from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.calibration import job
from l2g.calibration.report import Report
from l2g.calibration.scoring import Verdict
from l2g.calibration.unit_search import UnitSearch
from l2g.calibration.units import Inventory, Unit
from l2g.cli.making import quantize
from l2g.data.registry import load_dataset
from l2g.errors import DataError, ExportError
from l2g.evaluation.run import evaluate_backend
from l2g.export.exporter import ExportOptions, export
from l2g.runtime.backends.open import open_backend
from tests.calibration.small_data import small_videos
from tests.export.models import inputs, run, session
from tests.exported import edited, exported_model, set_contract, small_checkpoint, small_graph

WHOLE = job.take_inventory


def by_stage(model):
    """One unit a stage: what is measured for each then takes seconds."""
    inventory = WHOLE(model)
    stages = {}
    for unit in inventory.units:
        stages.setdefault(unit.name.split(".")[0], []).append(unit)
    units = (
        Unit(name, sum((u.nodes for u in found), ()), sum(u.flops for u in found), found[0].default)
        for name, found in stages.items()
    )
    return Inventory(tuple(units), inventory.flops)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return small_videos(tmp_path_factory.mktemp("data"), frames=4)


@pytest.fixture
def command(videos, monkeypatch):
    """Run the command with these options added; the exit code."""
    monkeypatch.setattr(job, "take_inventory", by_stage)
    monkeypatch.setattr(job, "interleaved_speed", lambda *_: {"fp32": 0.2, "int8": 0.1})

    def run(output, *options, ckpt=None):
        small = ["--videos", "2", "--frames", "3", "--probe-frames", "2", "--search-videos", "1", "--quiet"]
        arguments = ["--ckpt", str(ckpt or small_graph()), "--dataset", str(videos), "--output", str(output)]
        return quantize.main([*arguments, *small, *options])

    return run


def quantised_nodes(path):
    """Names of convolutions and linear layers that read dequantised weights."""
    model = onnx.load(path)
    twins = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul") and n.input[1] in twins}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The folder of a run of the small checkpoint, which two tests share."""
    return ["--max-trials", "2", "--work", str(tmp_path_factory.mktemp("run") / "work")]


def test_a_checkpoint_becomes_a_graph_that_runs_and_says_what_it_is(command, work, tmp_path, videos, capsys):
    output = tmp_path / "small.int8.onnx"
    assert command(output, *work, ckpt=small_checkpoint()) == 0
    contract = read_contract(read_model(output), output)
    build = contract.build
    assert build.precision == "int8"
    assert intact(output, contract)
    inventory = by_stage(onnx.load(small_graph()))
    assert set(build.int8.units) == set(inventory.names)
    assert build.int8.flops_percent == pytest.approx(inventory.share(inventory.names), abs=0.01)
    assert quantised_nodes(output) == inventory.nodes(inventory.names)
    assert build.int8.calibration.frames == 6
    assert sum(build.int8.calibration.percent.values()) == pytest.approx(100, abs=0.2)
    assert [entry.frames for entry in build.verification.datasets] == [8]
    assert build.checkpoint == small_checkpoint().name
    # The same interface as any other graph.
    backend = open_backend(output, top_k=None)
    assert evaluate_backend(backend, load_dataset(videos, "valid"), progress=False).report.stats["AP"] >= 0
    backend.close()
    report = json.loads((tmp_path / "small.int8.report.json").read_text())
    assert report["accepted"]
    assert set(report["sensitivity"]) == set(inventory.names)
    assert all(error > 0 for error in report["sensitivity"].values())
    assert {item["method"] for item in report["methods"]} == {"auto", "max", "percentile", "entropy"}
    assert report["method"] == min(report["methods"], key=lambda item: item["error"])["method"]
    text = (tmp_path / "small.int8.report.md").read_text()
    assert "accepted" in text
    assert "| backbone |" in text
    printed = capsys.readouterr()
    assert text in printed.out
    assert "frames" not in printed.err  # --quiet
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_detections_are_those_of_the_judged_graph(command, work, tmp_path):
    raw, chosen = tmp_path / "raw.onnx", tmp_path / "chosen.onnx"
    assert command(raw, *work, ckpt=small_checkpoint()) == 0
    assert command(chosen, *work, "--outputs", "detections", "--top-k", "4", ckpt=small_checkpoint()) == 0
    contract = read_contract(read_model(chosen), chosen)
    assert contract.output_kind == "detections"
    assert contract.build.precision == "int8"
    assert quantised_nodes(chosen) == quantised_nodes(raw)
    arrays = inputs(exported_model(), 2)
    queries, _, logits, _ = run(session(raw), arrays)
    found = dict(zip([spec.name for spec in contract.outputs], run(session(chosen), arrays), strict=True))
    np.testing.assert_allclose(found["queries"], queries, atol=1e-5)
    best = np.sort(1 / (1 + np.exp(-logits.max(-1))))[:, ::-1][:, :4]
    np.testing.assert_allclose(found["scores"], best, atol=1e-5)


def test_an_interrupted_run_goes_on_and_ends_alike(command, tmp_path, monkeypatch, capsys):
    """Stopped after every few measurements, again and again, it writes the file of a run that was left alone."""
    whole, pieces = tmp_path / "whole.onnx", tmp_path / "pieces.onnx"
    assert command(whole, "--max-trials", "2") == 0
    original, left = job.Ledger.measured, [0]

    def failing(self, name, measure):
        if name not in self.values:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return original(self, name, measure)

    monkeypatch.setattr(job.Ledger, "measured", failing)
    codes = []
    for _ in range(20):
        left[0] = 4
        codes.append(command(pieces, "--max-trials", "2"))
        if codes[-1] == 0:
            break
        assert not pieces.exists()
    assert codes[-1] == 0
    assert set(codes[:-1]) == {130}
    assert len(codes) > 2
    assert "goes on from here" in capsys.readouterr().err
    assert pieces.read_bytes() == whole.read_bytes()


def test_too_much_lost_is_refused_and_an_older_file_stays(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(job, "compare_on", lambda *_: Verdict("videos", 8, 60.0, 57.0, 90.0, (1.0, 0.9, 0.9, 0.8)))
    output = tmp_path / "small.onnx"
    output.write_bytes(b"older")
    assert command(output, "--max-trials", "1", "--work", str(tmp_path / "work")) == 1
    assert output.read_bytes() == b"older"
    assert "3.00 AP lost, 0.5 allowed" in capsys.readouterr().err
    report = json.loads((tmp_path / "small.report.json").read_text())
    assert not report["accepted"]
    # It gave up sensitive units before it gave up: the whole data set was tried with fewer and fewer.
    assert len({entry["units"] for entry in report["judged"]}) > 1
    # The same folder with the budget lifted: nothing is measured again, and the file is written.
    assert command(output, "--max-trials", "1", "--work", str(tmp_path / "work"), "--ap-budget", "none") == 0
    assert read_contract(read_model(output), output).build.verification.loss == pytest.approx(3.0)


def test_a_stage_that_costs_ap_is_left_out(command, tmp_path, monkeypatch):
    """Planted: whatever has an aligner on 8 bits loses five points."""

    def planted(path, *_):
        return 60.0 - 5.0 * any("/aligner/" in name for name in quantised_nodes(path))

    monkeypatch.setattr(job, "average_precision", planted)
    output = tmp_path / "small.onnx"
    assert command(output) == 0
    build = read_contract(read_model(output), output).build
    assert "aligner" not in build.int8.units
    assert {"backbone", "encoder", "decoder", "proposals"} == set(build.int8.units)
    assert not any("/aligner/" in name for name in quantised_nodes(output))
    report = json.loads((tmp_path / "small.report.json").read_text())
    assert report["search"]["excluded"] == ["aligner"]


def test_the_budget_holds_on_every_data_set(command, tmp_path, videos, monkeypatch):
    """Planted: fine on the first, but whatever has a decoder on 8 bits loses two points on the second."""
    other = tmp_path / "other"
    other.symlink_to(videos)

    def planted(_, candidate, dataset, *__):
        worse = dataset.name == str(other) and any("/decoder/" in name for name in quantised_nodes(candidate))
        return Verdict(dataset.name, 8, 60.0, 58.0 if worse else 60.0, 90.0, (1.0,) * 4)

    monkeypatch.setattr(job, "compare_on", planted)
    monkeypatch.setattr(
        job.QuantizeJob,
        "_sensitivity",
        lambda self, *_: {
            unit.name: unit.flops * (2.0 if unit.name == "decoder" else 1.0) for unit in self.inventory.units
        },
    )
    output = tmp_path / "small.onnx"
    assert command(output, "--max-trials", "2", "--method", "max", "--also-on", str(other)) == 0
    build = read_contract(read_model(output), output).build
    assert set(build.int8.units) == {"backbone", "encoder", "aligner", "proposals"}
    assert [entry.loss for entry in build.verification.datasets] == [0, 0]
    judged = json.loads((tmp_path / "small.report.json").read_text())["judged"]
    assert [[entry["loss"] for entry in step["datasets"]] for step in judged] == [[0, 2], [0, 0]]


def test_tensorrt_with_fp16_around_the_integers(command, tmp_path):
    base = tmp_path / "base.onnx"
    export(exported_model(), base, ExportOptions(target="tensorrt", opset=19))
    output = tmp_path / "small.onnx"
    assert command(output, "--layout", "tensorrt", "--scales", "fp16", "--max-trials", "0", ckpt=base) == 0
    model = read_model(output)
    arrays = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        assert arrays[node.input[1]].dtype == np.float16
        assert arrays[node.input[2]].dtype == np.int8
        assert not arrays[node.input[2]].any()
    inventory = by_stage(onnx.load(base))
    assert quantised_nodes(output) == inventory.nodes(inventory.default)
    assert all(spec.type.tensor_type.elem_type != onnx.TensorProto.FLOAT16 for spec in model.graph.output)
    # Weights were rounded with the very scales that multiply them again.
    rough = {node.output[0]: node for node in pairs if node.input[0] in arrays}
    name = "/backbone/res3/res3.0/conv1/Conv"
    conv = next(node for node in model.graph.node if node.name == name)
    original = next(node for node in onnx.load(base).graph.node if node.name == name)
    weight = next(w for w in onnx.load(base).graph.initializer if w.name == original.input[1])
    pair = rough[conv.input[1]]
    scale = arrays[pair.input[1]].astype(np.float64).reshape(-1, 1, 1, 1)
    error = arrays[pair.input[0]] * scale - onnx.numpy_helper.to_array(weight)
    assert (np.abs(error) <= scale / 2 * 1.001).all()


@pytest.mark.parametrize(("layout", "library"), [("openvino", "openvino"), ("tensorrt", "onnxruntime")])
def test_the_contract_names_the_library_that_judged(command, tmp_path, monkeypatch, layout, library):
    pytest.importorskip(library)
    asked = []

    def planted(*arguments):
        asked.append(arguments[-1])
        return Verdict("videos", 8, 60.0, 60.0, 90.0, (1.0,) * 4)

    monkeypatch.setattr(job, "compare_on", planted)
    monkeypatch.setattr(job.QuantizeJob, "_error", lambda *_: 1.0)
    output = tmp_path / "small.onnx"
    assert command(output, "--layout", layout, "--max-trials", "0", "--method", "max") == 0
    assert asked == [library]
    assert read_contract(read_model(output), output).build.verification.library == f"{library} CPU"
    assert json.loads((tmp_path / "small.report.json").read_text())["library"] == library


def test_a_judge_that_is_not_installed_is_missed_at_once(command, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "l2g.runtime.backends.openvino.backend", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    for model in (small_graph(), small_checkpoint()):
        assert command(tmp_path / "small.onnx", "--layout", "openvino", ckpt=model) == 2
        assert "'openvino' is not installed; install it with: pip install 'l2g[openvino]'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*.onnx")] == []
    assert not (tmp_path / "small.onnx.work" / "rollouts").exists()


def test_a_cpu_without_bf16_is_told_of_before_the_work_begins(videos, tmp_path, monkeypatch):
    openvino = pytest.importorskip("l2g.runtime.backends.openvino.backend")
    monkeypatch.setattr(openvino, "native_precisions", lambda device="CPU": ("fp32",))
    monkeypatch.setitem(job.SCALES_OPSETS, "bf16", 17)
    data, options = load_dataset(videos, "valid"), job.QuantizeOptions(layout="openvino", scales="bf16")

    def opened():
        return job.QuantizeJob(small_graph(), data, data, tmp_path / "o.onnx", tmp_path / "work", options, False)

    with pytest.warns(UserWarning, match="this CPU has no BF16 arithmetic: INT8 is measured with FP32 around it"):
        made = opened()
    assert (made.library, made.lacking) == ("openvino", "bf16")
    # A processor that has it measures another thing.
    monkeypatch.setattr(openvino, "native_precisions", lambda device="CPU": ("fp32", "bf16"))
    with pytest.raises(ExportError, match="measured with 'FP32 in place of BF16', this one has None"):
        opened()


@pytest.mark.parametrize(
    ("lacking", "library", "told"),
    [
        ("bf16", "openvino CPU, FP32 in place of BF16", "scales bf16; measured with FP32 in place of BF16."),
        (None, "openvino CPU", "scales bf16."),
    ],
)
def test_what_was_measured_is_in_the_report_and_in_the_contract(lacking, library, told):
    report = Report(
        model="m",
        dataset="d",
        calibration="d",
        options=job.QuantizeOptions(layout="openvino", scales="bf16"),
        samples=1,
        shares={},
        methods=(),
        method="max",
        tensors_by_method={},
        sensitivity={},
        units=(),
        total_flops=1,
        search=UnitSearch((), (), ()),
        chosen=(),
        share=0.0,
        default_share=0.0,
        judged=((0, (Verdict("d", 8, 60.0, 60.0, 90.0, (1.0,) * 4),)),),
        accepted=True,
        speed={"fp32": 2.0, "int8": 1.0},
        library="openvino",
        lacking=lacking,
    )
    assert report.verification().library == library
    assert f"Layout openvino, {told}" in report.table().splitlines()
    assert report.to_json()["lacking"] == lacking


def test_a_folder_of_another_run_is_refused(command, tmp_path, capsys):
    work = ["--work", str(tmp_path / "work"), "--max-trials", "0", "--method", "max"]
    assert command(tmp_path / "a.onnx", *work) == 0
    assert command(tmp_path / "a.onnx", *work, "--percentile", "99.9") == 2
    assert "percentile 99.99, this one has 99.9; give another --work" in capsys.readouterr().err
    assert command(tmp_path / "a.onnx", *work, "--percentile", "99.9", "--fresh") == 0
    (tmp_path / "work" / "measurements.json").write_text("{")
    assert command(tmp_path / "a.onnx", *work, "--percentile", "99.9") == 2
    assert "damaged" in capsys.readouterr().err


def test_a_graph_of_another_canvas_is_not_taken(tmp_path):
    """The folder has an export, as a run leaves it that ended before its first measurement."""

    def base(layout="onnxruntime", **canvas):
        return job.export_base(str(small_checkpoint()), tmp_path, job.QuantizeOptions(layout=layout), **canvas)

    path = base(height=96)
    assert base(height=96, width=96) == path  # the width is the model's own
    for canvas in ({}, {"height": 64}, {"height": 96, "width": 128}):
        with pytest.raises(ExportError, match=r"with canvas 96x96, this one has (64x96|96x128); give another --work"):
            base(**canvas)
    assert base(height=96, box_init="mask2box") == path  # which is what the checkpoint says
    with pytest.raises(ExportError, match="with box_init mask2box, this one has no; give another --work"):
        base(height=96, box_init="no")
    with pytest.raises(ExportError, match="with target onnxruntime, this one has tensorrt"):
        base("tensorrt", height=96)


def test_a_folder_is_of_its_data_and_not_of_their_name(tmp_path):
    """Another split of the folder, and annotations that were mended, are other data, also for calibration."""
    folder = small_videos(tmp_path, frames=2)
    (annotations,) = load_dataset(folder, "valid").files
    other = tmp_path / annotations.name
    other.write_text("{}")

    def ledger(dataset, calibration):
        options = job.QuantizeOptions(), False
        return job.QuantizeJob(small_graph(), dataset, calibration, tmp_path / "o.onnx", tmp_path / "work", *options)

    data = load_dataset(folder, "valid")
    ledger(data, data)
    ledger(load_dataset(folder, "valid"), data)
    train = dataclasses.replace(data, files=(other,))
    for changed, what in (((train, data), "data set"), ((data, train), "calibration data")):
        with pytest.raises(ExportError, match=f"holds a run with {what} .*; give another --work"):
            ledger(*changed)
    annotations.write_text(annotations.read_text() + " ")
    with pytest.raises(ExportError, match="holds a run with calibration data"):
        ledger(load_dataset(folder, "valid"), load_dataset(folder, "valid"))
    bare = dataclasses.replace(data, files=())
    assert job._identity(bare) != job._identity(dataclasses.replace(bare, videos=data.videos[::-1][:1] * 2))


def test_bad_input_is_one_line(command, tmp_path, capsys):
    def refused(text, *options, ckpt=None, output=tmp_path / "x.onnx"):
        assert command(output, *options, ckpt=ckpt) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert text in error
        assert not (tmp_path / "x.onnx").exists()

    refused("detections found, but AP needs all", ckpt=small_graph(5))
    refused("give the checkpoint to change them", "--outputs", "detections")
    refused("add --layout tensorrt", "--scales", "fp16")
    refused("opset 17 found, 19 expected", "--scales", "fp16", "--layout", "tensorrt")
    refused("'lots' found, a number", "--ap-budget", "lots")
    refused("a number of percent points from 0 up", "--ap-budget", "-1")
    refused("max_trials -1 found", "--max-trials", "-1")
    refused("percentile 5.0 found", "--percentile", "5")
    refused("an .onnx file in a folder that exists", output=tmp_path / "nowhere" / "x.onnx")
    refused("no such file", ckpt=tmp_path / "absent.onnx")
    foreign = edited(small_graph(), set_contract(None), tmp_path / "foreign.onnx")
    refused("an ONNX file without 'l2g.contract'", ckpt=foreign)
    contract = read_contract(read_model(small_graph()), small_graph())
    eight = dataclasses.replace(contract, build=dataclasses.replace(contract.build, precision="int8")).to_json()
    refused("a graph in int8 found", ckpt=edited(small_graph(), set_contract(eight), tmp_path / "eight.onnx"))


def test_classes_are_matched_by_name_before_anything_is_recorded(videos, tmp_path):
    data = load_dataset(str(videos), "valid")
    names = data.class_names
    other = dataclasses.replace(
        data,
        categories=tuple(dataclasses.replace(c, name=n) for c, n in zip(data.categories, names[::-1], strict=True)),
    )
    renamed = dataclasses.replace(
        data, categories=tuple(dataclasses.replace(c, name=f"thing {c.id}") for c in data.categories)
    )
    mapped = dataclasses.replace(renamed, class_map={f"thing {c.id}": c.name for c in data.categories})

    def job_of(*datasets, work="work"):
        first, *others = datasets
        options = job.QuantizeOptions()
        folder = tmp_path / work
        return job.QuantizeJob(
            small_graph(), first, data, tmp_path / "o.onnx", folder, options, False, None, tuple(others)
        )

    assert job_of(data).notes == ()
    (note,) = job_of(data, other).notes
    assert "another order" in note
    for datasets in ((renamed,), (data, renamed)):
        with pytest.raises(DataError, match="names differ"):
            job_of(*datasets, work="refused")
    assert not (tmp_path / "refused").exists()
    assert "8 classes of the mapping" in job_of(mapped, work="mapped").notes[0]
    job_of(mapped, work="mapped").ledger.record("ap:fp32", 1.0)
    with pytest.raises(ExportError, match="classes"):  # another map is another run
        job_of(dataclasses.replace(mapped, class_map={"thing 1": names[0]}), work="mapped")
