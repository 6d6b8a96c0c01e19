import json
from dataclasses import replace

import numpy as np
import pytest

from l2g.data.registry import load_dataset
from l2g.data.synthetic.dataset import write_synthetic
from l2g.errors import ExportError
from l2g.evaluation.precision import Measured, measure
from l2g.export.precision.fp32_blocks import BlockSearch, Budget, _Log, find_kept, search_fp32_blocks
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend
from tests.evaluation.swapping import BlankAndSwappingUnseen, Elsewhere
from tests.export.precision.half_models import PLANTED, contract, single
from tests.exported import small_graph
from tests.modeling.small import HEIGHT, WIDTH
from tests.runtime.blob_dataset import write_blob_dataset
from tests.runtime.blobs import BlobBackend

BLOCKS = tuple("abcdefgh")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = write_synthetic(tmp_path_factory.mktemp("data") / "val", "val", videos=1, frames=3, size=(HEIGHT, WIDTH))
    return load_dataset(str(folder), "valid")


class Model:
    """Blocks that fail alone, and blocks whose costs add up; counts its trials."""

    def __init__(self, guilty=(), costs=None, limit=1.0):
        self.guilty, self.cost, self.limit, self.trials = set(guilty), costs or {}, limit, []

    def holds(self, fp16):
        self.trials.append(fp16)
        return not self.guilty & fp16 and sum(self.cost.get(block, 0) for block in fp16) <= self.limit

    def costs(self, blocks):
        return {block: self.cost.get(block, 0.0) for block in blocks}


@pytest.mark.parametrize("guilty", ["", "a", "h", "d", "ad", "deg", "abcdefgh"])
def test_the_guilty_and_only_they_are_found(guilty):
    model = Model(guilty)
    assert find_kept(BLOCKS, model.holds, model.costs) == tuple(guilty)


def test_one_guilty_block_takes_few_trials():
    model = Model("f")
    find_kept(BLOCKS, model.holds, model.costs)
    assert len(model.trials) <= 9


def test_costs_that_add_up_take_the_fewest_of_the_costliest():
    model = Model("b", {"a": 0.1, "c": 0.5, "e": 0.7, "f": 0.6, "g": 0.2}, limit=1.0)
    # Without b, e and f are the two costliest; e alone leaves 1.4, both leave 0.8.
    assert find_kept(BLOCKS, model.holds, model.costs) == ("b", "e", "f")


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (Measured(49.8, 0.0, (1.0, 0.95), (100.0, 96.0)), True),
        (Measured(49.7, 0.0, (1.0, 0.95), (100.0, 96.0)), False),
        (Measured(55.0, 0.0, (1.0, 0.95), (100.0, 94.0)), False),
        (Measured(55.0, 0.0, (1.0, 0.85), (100.0, 96.0)), False),
        (Measured(55.0, 0.0, (1.0, None), (100.0, None)), True),
        (Measured(55.0, 0.0, (1.0, 1.0), (100.0, 100.0), finite=False), False),
    ],
)
def test_the_budget(found, holds):
    assert Budget(ap=0.2, identity=95.0, mask_iou=0.9).holds(Measured(50.0, 0.0), found) == holds


@pytest.mark.parametrize("metric", ["AP", "VPQ"])
def test_the_table_names_what_was_measured(metric):
    found = BlockSearch((), (), Measured(50.0, 0.0), (), metric)
    assert found.table().splitlines()[0].split()[:3] == ["FP16", metric, "loss"]


def test_a_block_that_overflows_is_found_in_the_graph(dataset, tmp_path):
    """The planted block computes beyond FP16; every other one may stay in FP16."""
    log, wide = tmp_path / "log.jsonl", Budget(ap=100, identity=0, mask_iou=0)
    how = {"budget": wide, "granularity": "layer", "confidence": 0.0, "log": log, "progress": False}
    found = search_fp32_blocks(single(planted=True), contract(), dataset, **how)
    assert found.kept == (f"layer:{PLANTED}",)
    assert not found.trials[0].measured.finite
    assert not found.alone[PLANTED].holds
    assert found.trials[-1].holds
    assert PLANTED not in found.trials[-1].fp16
    assert f"blocks that stay float32: layer:{PLANTED}" in found.table()
    # The log serves the next search, whatever happened to its last line; nothing is measured again.
    lines = log.read_text().splitlines()
    assert len(lines) == 1 + len(found.trials)
    log.write_text("\n".join(lines) + '\n{"half": ["enc')
    again = search_fp32_blocks(single(planted=True), contract(), replace(dataset), **how)
    assert again.kept == found.kept
    assert [json.loads(line)["half"] for line in log.read_text().splitlines()[1:]] == [
        json.loads(line)["half"] for line in lines[1:]
    ]
    with pytest.raises(ExportError, match="another graph"):
        search_fp32_blocks(single(), contract(), dataset, **how)


TRIAL = {"half": ["b"], "reference": {"ap": 1, "switches": None}, "measured": {"ap": 0.5, "switches": 0.0}}


@pytest.mark.parametrize(
    "line",
    [
        "", "null", "[1]", "{}", '{"half": ["b"', "[" * 100_000, json.dumps(TRIAL | {"half": 3}),
        json.dumps(TRIAL | {"half": [[1]]}), json.dumps(TRIAL | {"measured": {"ap": "x", "switches": None}}),
        json.dumps(TRIAL | {"measured": {"ap": 1, "switches": None, "3": 4}}), json.dumps(TRIAL | {"reference": None}),
    ],
    ids=range(11),
)  # fmt: skip
def test_a_damaged_line_of_the_log_ends_it(tmp_path, line):
    path, header = tmp_path / "log", {"graph": "g"}
    good = [json.dumps(TRIAL | {"half": [name]}) for name in "ac"]
    path.write_text("\n".join([json.dumps(header), good[0], line, good[1], ""]))
    for _ in range(2):
        assert list(_Log(path, header).entries) == [("a",)]
        assert path.read_text() == f"{json.dumps(header)}\n{good[0]}\n"
    path.write_text("\n".join([json.dumps(header), *good, ""]))
    assert list(_Log(path, header).entries) == [("a",), ("c",)]


def test_a_log_of_a_search_with_one_more_condition_is_not_taken(tmp_path):
    path = tmp_path / "log"
    path.write_text(json.dumps({"graph": "g", "classes": "c"}) + "\n")
    for header, more in (({"graph": "g"}, "classes"), ({"graph": "g", "classes": "c", "split": "s"}, "split")):
        with pytest.raises(ExportError, match=rf"another search \(another {more}\)"):
            _Log(path, header)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\n", b"null\n", b"[" * 100_000, b'{"graph": "another"}\n'])
def test_what_is_no_log_is_refused(tmp_path, content):
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(ExportError, match=r"the log of another search \(another (contents|graph)\); delete it"):
        _Log(tmp_path / "log", {"graph": "g"})
    assert (tmp_path / "log").read_bytes() == content


def test_a_model_beside_itself(dataset):
    """Equal graphs: no loss, every object the same; and the reference's numbers are the evaluation's own."""
    one, other = OnnxRuntimeBackend(small_graph()), OnnxRuntimeBackend(small_graph())
    reference, found = measure(one, {"same": other}, dataset, streams=2, confidence=0.0, progress=False)
    assert found["same"].ap == reference.ap
    assert found["same"].identity == (100.0, 100.0, 100.0)  # three frames, three quarters
    assert found["same"].mask_iou == (1.0, 1.0, 1.0)
    assert found["same"].finite


def test_identities_are_those_of_parity(tmp_path):
    """An object that comes in later may take another slot; one that leaves its slot unseen, and its look, is lost."""
    blobs = load_dataset(write_blob_dataset(tmp_path, (8,)), "valid")
    candidates = {"elsewhere": Elsewhere(), "swapping": BlankAndSwappingUnseen()}
    reference, found = measure(BlobBackend(), candidates, blobs, streams=1, progress=False)
    assert found["elsewhere"].identity == (100.0, 100.0, 100.0, 100.0)
    assert found["elsewhere"].ap == reference.ap
    assert found["swapping"].identity[3] == pytest.approx(100 / 3)


def test_nan_is_seen(dataset):
    class Broken(OnnxRuntimeBackend):
        def step(self, frames, reset):
            outputs = super().step(frames, reset)
            outputs.logits[:, 0] = np.nan
            return outputs

    one, other = OnnxRuntimeBackend(small_graph()), Broken(small_graph())
    _, found = measure(one, {"broken": other}, dataset, confidence=0.0, progress=False)
    assert not found["broken"].finite
