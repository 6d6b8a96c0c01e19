"""A graph that is not the model is found out, and one that only decides ties otherwise is not blamed."""

import copy
import dataclasses
import weakref
from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch

from l2g import build_model
from l2g.artifacts.onnx_file import read_contract, read_model
from l2g.errors import ExportError
from l2g.export.exporter import ExportOptions, contract_of, export
from l2g.export.verification import verify as verification
from l2g.export.verification.comparison import TOLERANCES, box_error, largest_differences
from l2g.export.verification.decisions import compare_decisions
from l2g.export.verification.rollouts import rollouts
from l2g.export.verification.verify import verify
from tests import exported
from tests.exported import exported_model, small_graph
from tests.modeling.small import small_model


def changed(change) -> bytes:
    model = onnx.load(small_graph())
    change(model)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def contract():
    return read_contract(read_model(small_graph()), small_graph())


@pytest.fixture(scope="module")
def steps():
    return list(rollouts(exported_model(), contract_of(exported_model(), ExportOptions())))


def test_the_rollouts(steps):
    assert [(step.streams, step.frame) for step in steps] == [(1, 0), (1, 1), (1, 2), (3, 0), (3, 1)]
    frames = [step.inputs[0] for step in steps]
    assert all(np.abs(a.astype(int) - b).mean() > 1 for a, b in pairwise(frames[:3]))
    for step in steps:
        valid = step.inputs[3][:, 0]
        expected = [0.0] * step.streams if step.frame == 0 else [1.0, 0.0, 1.0][: step.streams]
        assert valid.tolist() == expected
        for prior in step.inputs[1:3]:
            assert np.isnan(prior[valid == 0]).all()
            assert np.isfinite(prior[valid == 1]).all()
    np.testing.assert_array_equal(steps[2].inputs[1], steps[1].state.queries.numpy())
    np.testing.assert_array_equal(steps[2].inputs[2], steps[1].state.boxes.numpy())


def test_the_stream_that_goes_alone_has_what_the_model_says_of_it_alone(steps):
    model = exported_model()
    for step in steps[:3]:
        frame, queries, boxes, valid = (torch.from_numpy(array) for array in step.inputs)
        output, state, _ = model.explained_step(frame, model.State(queries, boxes, valid))
        assert step.output.logits.shape == output.logits.shape
        torch.testing.assert_close(step.output.logits, output.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(step.state.queries, state.queries, rtol=0, atol=1e-4)


def test_the_right_graph_passes(contract, steps):
    done = verify(small_graph().read_bytes(), contract, steps)
    assert set(done.differences) == {"queries", "boxes", "logits", "mask_logits"}
    assert 0 < done.differences["queries"] < 2e-5
    assert done.ties == 0
    assert contract.build.verification.tolerances == {name: TOLERANCES[name] for name in done.differences}


WRONG = {
    "one weight": (lambda model: exported.scale_one_weight(model), "frame 0 of the rollout with 1 streams"),
    "priors of another stream": (exported.swap_streams, "frame 1 of the rollout with 3 streams"),
    "no validity": (exported.ignore_prior_valid, "frame 0 of the rollout with 1 streams"),
}


@pytest.mark.parametrize(("change", "where"), WRONG.values(), ids=WRONG)
def test_a_wrong_graph_fails_and_says_where(change, where, contract, steps):
    with pytest.raises(ExportError, match=where):
        verify(changed(change), contract, steps)


def test_a_constant_number_of_streams_fails(contract, steps):
    def one_stream(model):
        for node in model.graph.node:
            if node.op_type == "TopK":
                weights = {weight.name: weight for weight in model.graph.initializer}
                shape = onnx.numpy_helper.from_array(np.array([1, -1], np.int64), "fixed")
                assert "fixed" not in weights
                model.graph.initializer.append(shape)
                reshape = onnx.helper.make_node("Reshape", [node.input[0], "fixed"], ["one_stream"])
                node.input[0] = "one_stream"
                model.graph.node.insert(list(model.graph.node).index(node), reshape)
                return

    with pytest.raises(ExportError, match="with 3 streams"):
        verify(changed(one_stream), contract, steps)


def test_a_graph_that_chooses_other_tokens_fails(contract, steps):
    """Not a tie: the worst tokens in place of the best."""

    def worst(model):
        node = next(node for node in model.graph.node if node.op_type == "TopK")
        kept = [attribute for attribute in node.attribute if attribute.name != "largest"]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("largest", 0)])

    with pytest.raises(ExportError, match="differs from the model"):
        verify(changed(worst), contract, steps)


def test_a_large_graph_is_verified_without_an_arena(contract, steps, monkeypatch):
    whole, arenas = verification.open_session, []
    monkeypatch.setattr(verification, "open_session", lambda graph, arena: arenas.append(arena) or whole(graph, arena))
    expected = verify(small_graph().read_bytes(), contract, steps)
    monkeypatch.setattr(verification, "_LARGE", small_graph().stat().st_size)
    found = verify(small_graph().read_bytes(), contract, steps)
    assert arenas == [True, False]
    assert found.differences == pytest.approx(expected.differences, abs=1e-5)


def test_ties_are_not_errors(contract):
    """Where all tokens score the same, any choice is right, and the rest of the graph is still held to the model."""
    model = copy.deepcopy(exported_model())
    model.heads.class_embed.weight.data.mul_(1e-7)

    def flat(graph):
        node = next(node for node in graph.graph.node if node.name.endswith("class_embed/MatMul"))
        weight = next(weight for weight in graph.graph.initializer if weight.name == node.input[1])
        array = onnx.numpy_helper.to_array(weight) * np.float32(1e-7)
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))

    steps = list(rollouts(model, contract))
    done = verify(changed(flat), contract, steps)
    assert done.ties > 0
    assert done.differences["queries"] < TOLERANCES["queries"]

    def flat_and_wrong(graph):
        flat(graph)
        exported.scale_one_weight(graph, 2.0)

    with pytest.raises(ExportError, match="No tie explains it"):
        verify(changed(flat_and_wrong), contract, steps)


def test_only_streams_that_differ_run_again(contract, steps, monkeypatch):
    """With the model's decisions, in a graph that is opened once the first is closed; the others have passed with
    their own."""
    run, again = verification.run, []

    def second_of_three_is_wrong(session, arrays):
        found = run(session, arrays)
        if len(arrays) > len(contract.inputs):
            again.append({len(array) for array in arrays})
        elif len(arrays[0]) == 3:
            found[0][1] += 1
        return found

    monkeypatch.setattr(verification, "run", second_of_three_is_wrong)
    open_session, opened = verification.open_session, []

    def alone(*arguments):
        assert [session() for session in opened] == [None] * len(opened)
        session = open_session(*arguments)
        opened.append(weakref.ref(session))
        return session

    monkeypatch.setattr(verification, "open_session", alone)
    with pytest.raises(ExportError, match=r"at \[1, .*No tie explains it"):
        verify(small_graph().read_bytes(), contract, steps)
    assert again == [{1}]
    assert len(opened) == 2


def test_local_boxes_of_the_box_head_are_held_to_it():
    """`box_init: no`: no mask says where the first boxes lie, so a tie among tokens does not make them wrong."""
    model = small_model(box_init="no")
    decisions = next(rollouts(model, contract_of(model, ExportOptions()))).decisions
    indices, boxes = decisions.local.indices.numpy(), decisions.local.boxes.numpy()
    verdict = compare_decisions(decisions, indices, boxes)
    assert (verdict.tied, verdict.changed) == (True, 0)
    moved = boxes.copy()
    moved[0, 2, 1] += 0.01
    verdict = compare_decisions(decisions, indices, moved)
    assert (verdict.tied, verdict.changed) == (False, 1)


def outputs(step, **changes):
    found = {
        "queries": step.state.queries,
        "boxes": step.state.boxes,
        "logits": step.output.logits,
        "mask_logits": step.output.mask_logits,
    }
    return [changes.get(name, tensor.numpy().copy()) for name, tensor in found.items()]


def test_nan_is_a_difference(steps, contract):
    queries = steps[0].state.queries.numpy().copy()
    queries[0, 3, 7] = np.nan
    (difference, *_) = largest_differences(contract, steps[0], outputs(steps[0], queries=queries))
    assert difference.excess == np.inf
    assert difference.position == (0, 3, 7)
    boxes = steps[0].state.boxes.numpy().copy()
    boxes[0, 2] = np.nan
    assert largest_differences(contract, steps[0], outputs(steps[0], boxes=boxes))[1].excess == np.inf


def test_a_box_may_lie_where_its_mask_is_undecided(steps):
    """A mask of columns 2..5 of 24, and column 6 within the tolerance of zero: the right edge may be at 5 or 6."""
    step = steps[0]
    logits = torch.full_like(step.output.mask_logits, -9.0)
    logits[..., 2:6] = 9.0
    logits[..., 6] = -0.5 * TOLERANCES["mask_logits"]
    height, width = logits.shape[-2:]

    def boxes(right):
        x1, x2, y2 = 2 / width, right / width, (height - 1) / height
        box = [(x1 + x2) / 2, y2 / 2, x2 - x1, y2]
        return np.broadcast_to(np.float32(box), step.state.boxes.shape).copy()

    step = dataclasses.replace(
        step,
        output=dataclasses.replace(step.output, mask_logits=logits),
        state=dataclasses.replace(step.state, boxes=torch.from_numpy(boxes(5))),
    )
    for right, error in ((5, 0), (6, 0), (7, 1 / width), (4, 1 / width)):
        assert box_error(boxes(right), step, "mask2box").max() == pytest.approx(error, abs=1e-6), right


def test_an_empty_masks_box_is_the_box_heads(steps):
    step = steps[0]
    empty = dataclasses.replace(step.output, mask_logits=torch.full_like(step.output.mask_logits, -1.0))
    step = dataclasses.replace(step, output=empty)
    boxes = step.state.boxes.numpy().copy()
    assert box_error(boxes, step, "mask2box").max() == 0
    boxes[0, 4, 1] += 0.01
    assert box_error(boxes, step, "mask2box").max() == pytest.approx(0.01, rel=1e-4)


def test_a_state_of_the_heads_boxes_is_held_to_those(contract, tmp_path):
    """`state_box: head`: the graph is verified against the head's boxes, and boxes of masks are found out."""
    model = build_model(exported_model().config.replace(state_box="head"))
    model.load_state_dict(exported_model().state_dict())
    done = export(model, tmp_path / "head.onnx", ExportOptions()).verification.differences
    assert 0 < done["boxes"] < TOLERANCES["boxes"]
    with pytest.raises(ExportError, match="output 'boxes' by"):
        verify(small_graph().read_bytes(), contract, list(rollouts(model, contract)))


def test_detections_are_held_to_the_slots_they_name(steps):
    step, model = steps[3], exported_model()
    contract = contract_of(model, ExportOptions(top_k=4))
    probabilities = step.output.logits.sigmoid().numpy()
    best, labels = probabilities.max(-1), probabilities.argmax(-1)
    slots = np.argsort(-best, axis=1)[:, :4]

    def detections(slots, labels=labels, shift=0):
        rows = np.arange(len(slots))[:, None]
        masks = (step.output.mask_logits.sigmoid().numpy()[rows, slots] * 255 + 0.5).astype(np.uint8)
        found = [best[rows, slots] + np.float32(shift), labels[rows, slots].astype(np.int32), slots.astype(np.int32)]
        arrays = [step.state.queries.numpy(), step.state.boxes.numpy(), *found, masks]
        return {d.output: d.value for d in largest_differences(contract, step, arrays)}

    right = detections(slots)
    assert all(right[name] <= TOLERANCES[name] * 0.1 for name in ("scores", "labels", "slots", "masks"))
    assert detections(slots, shift=0.01)["scores"] == pytest.approx(0.01, rel=1e-3)
    assert detections(slots[:, ::-1])["slots"] > TOLERANCES["slots"]
    assert detections(np.repeat(slots[:, :1], 4, axis=1))["slots"] == np.inf
    assert detections(slots, labels=(labels + 1) % 8)["labels"] > TOLERANCES["labels"]


def test_detection_masks_are_of_their_slots(steps):
    step, contract = steps[0], contract_of(exported_model(), ExportOptions(top_k=2))
    best = step.output.logits.sigmoid().amax(-1).numpy()
    slots = np.argsort(-best, axis=1)[:, :2].astype(np.int32)
    labels = step.output.logits.argmax(-1).numpy()[0, slots].astype(np.int32)
    masks = (step.output.mask_logits.sigmoid().numpy()[0, slots[0, ::-1]] * 255 + 0.5).astype(np.uint8)[None]
    arrays = [step.state.queries.numpy(), step.state.boxes.numpy(), best[0, slots], labels, slots, masks]
    assert largest_differences(contract, step, arrays)[-1].excess > 1
