"""What every backend of an exported artifact has in common: which contracts it drives, and the shapes that follow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from l2g.contract import METADATA_KEY, RESIZES, SCORINGS, GraphContract
from l2g.errors import ContractError, L2GError
from l2g.runtime.outputs import OUTPUT_KINDS, outputs_class

# How TensorRT's plugins are called.
PLUGINS = re.compile(r"_TRT\b|Plugin")
# Where OpenVINO, then ONNX Runtime name operators that they do not know.
_UNKNOWN = re.compile(r"No conversion rule found for operations: (.*\S)|(\S+)\(-?\d+\) is not a registered function/op")


def export_command(path: Path) -> str:
    """What makes a graph again."""
    return f"l2g export --ckpt CKPT --output {path}"


def parse_contract(path: Path, text: str | None, command: str) -> GraphContract:
    """The contract of a graph; ContractError where there is none (None) or where it is not one that is known.

    command: what makes the artifact again.
    """
    if text is None:
        raise ContractError(
            f"{path}: carries no '{METADATA_KEY}', so nothing says how it is to be driven; export it with: {command}"
        )
    try:
        return GraphContract.from_json(text)
    except ContractError as error:
        raise ContractError(f"{path}: {error}: {command}") from None


def check_boundary(path: Path, contract: GraphContract, found: Mapping[str, Mapping[str, str]], command: str) -> None:
    """ContractError unless the graph's inputs and outputs are those that its contract names.

    found: what `describe` says of each tensor by name, of "input" and of "output".
    """
    for kind, specs in (("input", contract.inputs), ("output", contract.outputs)):
        expected = {spec.name: describe(spec.dtype, spec.shape) for spec in specs}
        for name in [*expected, *found[kind]]:
            if found[kind].get(name) != expected.get(name):
                raise ContractError(
                    f"{path}: {kind} '{name}': the graph has {found[kind].get(name, 'none of that name')}, its "
                    f"contract says {expected.get(name, 'none of that name')}; export it again with: {command}"
                )


def check_drivable(path: Path, contract: GraphContract, command: str) -> None:
    """ContractError unless a backend can drive what the contract describes: its results, its state, its frames.

    command: what makes the artifact again.
    """

    def expect(holds: bool, found: str) -> None:
        if not holds:
            raise ContractError(f"{path}: {found}; make it again with: {command}")

    kind = contract.output_kind
    expect(kind in OUTPUT_KINDS, f"output kind '{kind}' found, {' or '.join(OUTPUT_KINDS)} expected")
    for name, asked, known in (("scoring", contract.scoring, SCORINGS), ("resize mode", contract.resize, RESIZES)):
        expect(asked in known, f"{name} '{asked}' found, {' or '.join(known)} expected")
    needed = {"frames", contract.valid_input, *outputs_class(contract).required()}
    needed |= {name for state in contract.states for name in (state.input, state.output)}
    absent = needed - {spec.name for spec in (*contract.inputs, *contract.outputs)}
    expect(not absent, f"the contract names no tensor '{min(absent, default='')}'")
    canvas = ("B", contract.height, contract.width, 3)
    for spec, dtype, shape in (
        (contract.input("frames"), "uint8", canvas),
        (contract.input(contract.valid_input), "float32", ("B", 1)),
    ):
        found, expected = describe(spec.dtype, spec.shape), describe(dtype, shape)
        expect(found == expected, f"input '{spec.name}': the contract has {found}, expected {expected}")
    fed = {"frames", contract.valid_input, *(state.input for state in contract.states)}
    unfed = sorted({spec.name for spec in contract.inputs} - fed)
    expect(not unfed, f"no state feeds the inputs {unfed}, one for each expected")
    for state in contract.states:
        one, other = contract.input(state.input), contract.output(state.output)
        found, expected = (describe(spec.dtype, spec.shape) for spec in (one, other))
        expect(
            found == expected and state.initial == "zeros",
            f"state '{state.input}' ({found}, initial '{state.initial}') cannot be fed with '{state.output}' "
            f"({expected}) from zeros",
        )


def cannot_open(path: Path, library: str, error: Exception, reason: str, command: str) -> L2GError:
    """The error for a file that a library refuses. error: the library's own; reason: what it says in one line, told
    where it names no operator. command: what makes another file."""
    found = _UNKNOWN.search(str(error))
    if found is None:
        return L2GError(f"{path}: {library} cannot open it: {reason}; export it for {library} with: {command}")
    operator, plugin = found[1] or found[2], ""
    if PLUGINS.search(operator):
        plugin = "only TensorRT with that plugin runs this file; "
    return L2GError(f"{path}: {library} has no operator {operator}; {plugin}export it for {library} with: {command}")


def describe(dtype: str, shape: Sequence[int | str | None]) -> str:
    """ "float32 [*, 300, 4]", to be compared and shown."""
    # A free dimension has whatever name, or none.
    return f"{dtype} [{', '.join(str(dim) if isinstance(dim, int) else '*' for dim in shape)}]"


def first_line(error: Exception) -> str:
    """What a library's error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
