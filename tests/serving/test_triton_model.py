"""What the model inside the server asks of it; the server's own module is not here, and a stand-in takes requests."""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from l2g.serving.graph_session import GraphCall


@pytest.fixture
def asked(monkeypatch):
    """(the module of the model, what its requests are made of)."""
    requests = []

    def request(**given):
        requests.append(given)
        response = SimpleNamespace(has_error=lambda: False, output_tensors=list)
        return SimpleNamespace(exec=lambda: response)

    server = SimpleNamespace(
        InferenceRequest=request, Tensor=lambda *given: given, PreferredMemory=lambda *given: given,
        TRITONSERVER_MEMORY_CPU=0, TRITONSERVER_REQUEST_FLAG_SEQUENCE_START=1, TRITONSERVER_REQUEST_FLAG_SEQUENCE_END=2,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server)
    monkeypatch.delitem(sys.modules, "l2g.serving.triton_model", raising=False)
    yield importlib.import_module("l2g.serving.triton_model"), requests
    sys.modules.pop("l2g.serving.triton_model", None)


@pytest.mark.parametrize("version", [1, 12])
def test_tracks_of_a_version_come_from_its_own_graph(asked, version, tmp_path, monkeypatch):
    """Without a version the server would take the latest graph for all of them."""
    module, requests = asked
    monkeypatch.setattr(module, "GraphContract", SimpleNamespace(from_json=lambda _: None))
    monkeypatch.setattr(module, "GraphSession", lambda _, run: SimpleNamespace(run=run, outputs=["queries"]))
    folder = tmp_path / str(version)
    folder.mkdir()
    (folder / module.CONTRACT_FILE).write_text("{}")
    session = module._session(folder, {"graph": "street_graph"})
    session.run([GraphCall(np.zeros((1, 32, 32, 3), np.uint8), 7, start=True)])
    assert (requests[0]["model_name"], requests[0]["model_version"]) == ("street_graph", version)
    assert (requests[0]["correlation_id"], requests[0]["flags"]) == (7, 1)
