"""What is traced once for the same model, precision and streams is not traced again: that is most of these tests."""

import pytest

from l2g.runtime.backends.compiled import program, trace

_traced: dict = {}


@pytest.fixture(autouse=True)
def _trace_once(monkeypatch):
    def once(step, inputs):
        content = sum(float(parameter.double().abs().sum()) for parameter in step.parameters())
        types = [parameter.dtype for parameter in step.parameters()]
        key = str((content, step.model.config, step.top_k, types, [tuple(each.shape) for each in inputs]))
        if key not in _traced:
            _traced[key] = trace.trace(step, inputs)
        return _traced[key]

    monkeypatch.setattr(program, "trace", once)
