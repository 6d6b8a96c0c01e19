"""What every backend of an exported artifact has in common: which contracts it drives, and the shapes that follow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from l2g.contract import RESIZES, SCORINGS, GraphContract
from l2g.errors import ContractError
from l2g.runtime.outputs import OUTPUT_KINDS, outputs_class


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


def describe(dtype: str, shape: Sequence[int | str | None]) -> str:
    """ "float32 [*, 300, 4]", to be compared and shown."""
    # A free dimension has whatever name, or none.
    return f"{dtype} [{', '.join(str(dim) if isinstance(dim, int) else '*' for dim in shape)}]"
