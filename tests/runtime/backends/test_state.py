"""A state of any names and shapes: on the host, in a session, and in a graph whose inputs are called otherwise."""

import dataclasses

import numpy as np
import pytest

from l2g.contract import StateSpec, TensorSpec, make_contract
from l2g.errors import ContractError
from l2g.runtime.backends.base import HostState
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.session import VideoSession

LARGEST = TensorSpec("largest", "int32", ("B",))
CONTRACT = dataclasses.replace(
    base := make_contract(
        height=32, width=32, num_queries=2, hidden_dim=4, class_names=("a",), association="propagate"
    ),
    inputs=(base.inputs[0], TensorSpec("before", "float32", ("B", 3, 2, 5)), LARGEST, base.inputs[3]),
    outputs=(TensorSpec("after", "float32", ("B", 3, 2, 5)), TensorSpec("largest_now", "int32", ("B",)), *base.outputs),
    states=(StateSpec("before", "after"), StateSpec("largest", "largest_now")),
)


class Summing:
    """Carries the sum of the frames' first pixels, and the largest of them; its queries tell both."""

    def __init__(self):
        self.contract, self.state = CONTRACT, None

    def step(self, frames, reset):
        state = HostState.empty(CONTRACT, len(frames)) if self.state is None else self.state
        going = state.valid & ~reset
        pixel = frames[:, 0, 0, 0].astype(np.float32)
        before = np.where(going[:, None, None, None], state.tensors["before"], 0)
        largest = np.where(going, state.tensors["largest"], 0)
        tensors = {
            "before": (before + pixel[:, None, None, None]).astype(np.float32),
            "largest": np.maximum(largest, pixel).astype(np.int32),
        }
        self.state = HostState(tensors, np.ones(len(frames), bool))
        queries = np.zeros((len(frames), 2, 4), np.float32)
        queries[:, 0, 0], queries[:, 1, 0] = tensors["before"][:, 2, 1, 4], tensors["largest"]
        blank = np.zeros((len(frames), 2, 4), np.float32)
        return RawOutputs(queries, blank, blank[..., :1], np.zeros((len(frames), 2, 8, 8), np.float32))

    def read_state(self):
        return None if self.state is None else self.state.copy()

    def write_state(self, state):
        state.check(self.contract)
        self.state = state.copy()

    def close(self): ...


def test_a_session_carries_it_while_streams_come_and_go():
    pixels = {"a": [5, 9, 2, 4, 1, 7], "b": [30, 20, 10, 40, 60, 50]}
    session = VideoSession(Summing())
    found = {name: [] for name in pixels}
    for now in range(9):
        frames = {}
        for name, start in (("a", 0), ("b", 3)):
            if now == start:
                session.join(name)
            if start <= now < start + 6 and (name, now) != ("a", 4):  # "a" skips a turn, so it takes one more
                frames[name] = np.full((32, 32, 3), pixels[name][len(found[name])], np.uint8)
        for name, outputs in session.step(frames).items():
            found[name].append((outputs.queries[0, 0, 0], outputs.queries[0, 1, 0]))
        for name in frames:
            assert session.states()[name].tensors["before"][0, 0, 0, 0] == found[name][-1][0]
    for name, told in found.items():
        given = pixels[name][: len(told)]
        assert [total for total, _ in told] == np.cumsum(given).tolist()
        assert [most for _, most in told] == np.maximum.accumulate(given).tolist()
    assert [len(told) for told in found.values()] == [5, 6]
    session.reset("b")
    assert not session.states()["b"].valid.any()
    assert session.states()["b"].tensors["before"].max() == 0


def test_rows_are_taken_apart_and_put_together():
    state = HostState(
        {"before": np.arange(90, dtype=np.float32).reshape(3, 3, 2, 5), "largest": np.array([7, 8, 9], np.int32)},
        np.array([True, False, True]),
    )
    state.check(CONTRACT)
    assert len(state) == 3
    empty = HostState.empty(CONTRACT, 1)
    empty.check(CONTRACT)
    again = HostState.stacked([state.rows([2, 0]), empty])
    assert again.tensors["largest"].tolist() == [9, 7, 0]
    assert again.tensors["before"][:, 0, 0, 0].tolist() == [60, 0, 0]
    assert again.valid.tolist() == [True, True, False]
    copied = state.copy()
    copied.tensors["largest"][0], copied.valid[0] = 1, False
    assert (state.tensors["largest"][0], state.valid[0]) == (7, True)
    doubled = state.changed(lambda tensor: 2 * tensor)
    assert doubled.tensors["largest"].tolist() == [14, 16, 18]
    assert doubled.valid.tolist() == state.valid.tolist()


def test_another_models_state_is_refused():
    other = HostState.empty(base, 2)
    with pytest.raises(ContractError, match=r"holds \['prior_boxes', 'prior_queries'\], .* carries \['before', 'la"):
        other.check(CONTRACT)
    wrong = HostState.empty(CONTRACT, 2).changed(lambda tensor: tensor.astype(np.float64))
    with pytest.raises(ContractError, match="'before': found float64"):
        wrong.check(CONTRACT)


def test_a_graph_with_other_names_is_driven_alike(tmp_path):
    pytest.importorskip("torch")
    onnx, backends = pytest.importorskip("onnx"), pytest.importorskip("l2g.runtime.backends.onnxruntime")
    from l2g.contract import METADATA_KEY
    from tests.exported import edited, set_contract, small_graph
    from tests.modeling.small import frames

    def rename(model):
        text = {prop.key: prop.value for prop in model.metadata_props}[METADATA_KEY]
        set_contract(text.replace('"prior_boxes"', '"anchors"').replace('"prior_queries"', '"memory"'))(model)
        new = {"prior_boxes": "anchors", "prior_queries": "memory"}
        for node in model.graph.node:
            node.input[:] = [new.get(name, name) for name in node.input]
        for value in model.graph.input:
            value.name = new.get(value.name, value.name)
        onnx.checker.check_model(model)

    path = edited(small_graph(), rename, tmp_path / "renamed.onnx")
    one, other = (backends.OnnxRuntimeBackend(file, threads=1) for file in (small_graph(), path))
    for time in range(4):
        given = frames(2, seed=time).numpy()
        expected, found = (backend.step(given, np.full(2, time == 0)) for backend in (one, other))
        for name, array in vars(expected).items():
            np.testing.assert_array_equal(getattr(found, name), array, err_msg=name)
        other.write_state(other.read_state())
    assert sorted(other.read_state().tensors) == ["anchors", "memory"]
    np.testing.assert_array_equal(other.read_state().tensors["memory"], one.read_state().tensors["prior_queries"])
