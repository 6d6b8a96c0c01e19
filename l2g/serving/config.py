"""`config.pbtxt`, made of a contract: tensors, sequences, state, instances, versions, warm-up."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from l2g.contract import GraphContract, TensorSpec
from l2g.errors import ConfigError
from l2g.serving import wire
from l2g.serving.options import Batching, ServingOptions
from l2g.serving.prototext import Message, Word, prototext

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
# Of the server, by the platform.
FILE_NAMES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
TRUE_FILE = "true"
_MICROSECONDS = 1_000_000


def tracks_config(
    name: str, model: Mapping[str, str], contract: GraphContract, options: ServingOptions, batching: Batching
) -> str:
    """Of the model that takes frames and returns tracks, in the Python backend.

    model: what it runs, as parameters: {"model": file} or {"graph": name of a model of the server}.
    """
    cuts = options.cuts if isinstance(options.cuts, str) else ",".join(f"{time!r}" for time in options.cuts)
    parameters = {
        **model,
        "class_names": json.dumps(contract.class_names),
        "score_threshold": repr(options.score_threshold),
        "top_k": str(options.top_k),
        "max_age": str(options.max_age),
        "cuts": cuts,
        **{key: value for key in ("library", "device", "precision") if (value := getattr(options, key)) is not None},
    }
    flags = {
        wire.START: "CONTROL_SEQUENCE_START",
        wire.END: "CONTROL_SEQUENCE_END",
        wire.READY: "CONTROL_SEQUENCE_READY",
    }
    controls: list[Message] = [
        {"name": control, "control": {"kind": Word(kind), "bool_false_true": [False, True]}}
        for control, kind in flags.items()
    ]
    controls.append(
        {
            "name": wire.CORRELATION,
            "control": {"kind": Word("CONTROL_SEQUENCE_CORRID"), "data_type": Word("TYPE_UINT64")},
        }
    )
    return prototext(
        {
            "name": name,
            "backend": "python",
            "max_batch_size": batching.batch,
            # Frames of several sizes share a batch: the backend is given them one by one.
            "input": [{**_wired(spec), "allow_ragged_batch": True, "optional": True} for spec in wire.INPUTS],
            "output": [_wired(spec) for spec in wire.OUTPUTS],
            "sequence_batching": {**_sequences(options, batching), "control_input": controls},
            **_placing(options, gpu=options.gpu and options.in_process),
            "parameters": [{"key": key, "value": {"string_value": value}} for key, value in parameters.items()],
            "model_warmup": _warm_up(contract) if options.warms_up else [],
        }
    )


def graph_config(name: str, contract: GraphContract, options: ServingOptions, batching: Batching) -> str:
    """Of the graph itself in a backend of the server, which holds its state: one sequence a stream.

    The contract's validity input is the server's START turned round: 0 with a sequence's first frame, else 1.
    """
    carried = {state.input for state in contract.states}
    valid = contract.input(contract.valid_input)
    inputs = [spec for spec in contract.inputs if spec.name not in carried and spec is not valid]
    return prototext(
        {
            "name": name,
            "platform": PLATFORMS[options.backend],
            "max_batch_size": batching.batch,
            "input": [_graphs(spec) for spec in inputs],
            "output": [_graphs(spec) for spec in contract.outputs],
            "sequence_batching": {
                **_sequences(options, batching),
                "control_input": {"name": valid.name, "control": _start_control(contract)},
                "state": [_state(contract, place) for place in range(len(contract.states))],
            },
            **_placing(options, gpu=options.gpu),
        }
    )


# What a configuration says of the file itself, in the lines of `prototext`; by what a user would call it.
_OF_THE_FILE = {
    "backend": re.compile(r"^(?:backend|platform): .*", re.MULTILINE),
    "class names": re.compile(r'key: "class_names"\n +value \{\n +string_value: .*'),
    "file or graph": re.compile(r'key: "(?:model|graph)"\n +value \{\n +string_value: .*'),
    "tensors": re.compile(r"^(?:input|output) \{\n(?: .*\n)*", re.MULTILINE),
    "association": re.compile(r"\w+_false_true: .*"),
}


def differences(config: str, other: str) -> list[str]:
    """In what two models differ that cannot be versions of one, which have one configuration."""
    return [name for name, part in _OF_THE_FILE.items() if part.findall(config) != part.findall(other)]


def _start_control(contract: GraphContract) -> Message:
    dtype = contract.input(contract.valid_input).dtype
    # (where START is false, where it is true); every frame of an image model is a first frame.
    values = (contract.association != "embedding", False)
    fields = {
        "float32": ("fp32_false_true", float),
        "int32": ("int32_false_true", int),
        "bool": ("bool_false_true", bool),
    }
    if dtype not in fields:
        raise ConfigError(
            f"input '{contract.valid_input}' is {dtype}, and a control of Triton is float32, int32 or bool; take "
            "--backend python"
        )
    field, kind = fields[dtype]
    return {"kind": Word("CONTROL_SEQUENCE_START"), field: [kind(value) for value in values]}


def _state(contract: GraphContract, place: int) -> Message:
    state = contract.states[place]
    spec = contract.input(state.input)
    shape = {"data_type": _type(spec.dtype), "dims": _dims(spec)}
    return {
        "input_name": state.input,
        "output_name": state.output,
        **shape,
        "initial_state": {"name": f"{state.input}: {state.initial}", **shape, "zero_data": True},
        # The backends copy the outputs when the step is over, so that nothing reads what is overwritten.
        "use_same_buffer_for_input_output": True,
    }


def _sequences(options: ServingOptions, batching: Batching) -> Message:
    delay = round(options.delay * _MICROSECONDS) or None
    if batching.strategy == "direct":
        # Without a share that is waited for the delay counts for nothing.
        strategy: Message = {"max_queue_delay_microseconds": delay, "minimum_slot_utilization": 1.0 if delay else None}
    else:
        strategy = {
            "max_candidate_sequences": batching.candidates,
            "preferred_batch_size": batching.preferred,
            "max_queue_delay_microseconds": delay,
        }
    return {"max_sequence_idle_microseconds": round(options.idle * _MICROSECONDS), batching.strategy: strategy}


def _placing(options: ServingOptions, gpu: bool) -> Message:
    policy: Message = {"all": {}}
    if options.loaded is not None:
        policy = {"latest": {"num_versions": options.loaded}}
    return {
        "instance_group": {"count": options.instances, "kind": Word("KIND_GPU" if gpu else "KIND_CPU")},
        "version_policy": policy,
    }


def _warm_up(contract: GraphContract) -> list[Message]:
    """A first frame and a later one, which ends its sequence again; the server runs them before it takes requests."""

    def flag(on: bool) -> Message:
        data: Message = {"input_data_file": TRUE_FILE} if on else {"zero_data": True}
        return {"data_type": Word("TYPE_BOOL"), "dims": 1, **data}

    frame = {"data_type": Word("TYPE_UINT8"), "dims": [contract.height, contract.width, 3], "zero_data": True}
    correlation = {"data_type": Word("TYPE_UINT64"), "dims": 1, "zero_data": True}
    samples: list[Message] = []
    for name, start in (("first frame", True), ("later frame", False)):
        inputs = {
            wire.FRAME.name: frame,
            wire.START: flag(start),
            wire.END: flag(not start),
            wire.READY: flag(True),
            wire.CORRELATION: correlation,
        }
        pairs = [{"key": key, "value": value} for key, value in inputs.items()]
        samples.append({"name": name, "batch_size": 1, "inputs": pairs})
    return samples


def _wired(spec: wire.WireTensor) -> Message:
    # Of text the configuration has another name than the wire.
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": Word(f"TYPE_{kind}"), "dims": spec.shape}


def _graphs(spec: TensorSpec) -> Message:
    return {"name": spec.name, "data_type": _type(spec.dtype), "dims": _dims(spec)}


def _type(dtype: str) -> Word:
    if dtype not in wire.TYPE_OF:
        raise ConfigError(f"a tensor of {dtype} found, one of {', '.join(wire.TYPE_OF)} expected")
    return Word(f"TYPE_{wire.TYPE_OF[dtype]}")


def _dims(spec: TensorSpec) -> list[int]:
    """Without the streams' axis, which the server adds."""
    first, *rest = spec.shape
    fixed = [side for side in rest if isinstance(side, int)]
    if not isinstance(first, str) or len(fixed) < len(rest):
        shape = ", ".join(map(str, spec.shape))
        raise ConfigError(f"tensor '{spec.name}' is [{shape}], a free first axis and fixed others expected")
    return fixed
