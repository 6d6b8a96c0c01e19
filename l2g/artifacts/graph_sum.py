"""The sum of the graph in an ONNX file, by which a changed one is told; without the library that parses it."""

from __future__ import annotations

import hashlib
import os

from l2g.contract import GraphContract
from l2g.errors import ContractError

_BLOCK = 1 << 20


def intact(path: str | os.PathLike[str], contract: GraphContract) -> bool:
    """Whether the graph in the file is, byte for byte, the one that was exported; memory: 1 MiB."""
    digest, left = hashlib.sha256(), contract.build.graph_bytes or 0
    with open(path, "rb") as file:
        # What a contract claims is not asked of the memory.
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    return left == 0 and digest.hexdigest() == contract.build.graph_sha256


def check_graph(path: str | os.PathLike[str], contract: GraphContract, command: str) -> None:
    """ContractError where the contract has a sum and the graph is not, byte for byte, the one that was exported.

    command: what makes the file again.
    """
    if contract.build.graph_sha256 is not None and not intact(path, contract):
        raise ContractError(
            f"{path}: the graph was changed after its export (its bytes have not the sum "
            f"{contract.build.graph_sha256[:12]}... that its contract carries), so nothing that was verified of it "
            f"holds; copy it again, or make it again with: {command}"
        )
