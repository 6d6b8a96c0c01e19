"""What is here: devices, libraries, and what can run a model."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from l2g.errors import L2GError
from l2g.files import write_json
from l2g.gpucheck.notebook import FACTS_FILE, Context
from l2g.gpucheck.report import Facts


def run(context: Context) -> None:
    details = doctor()
    gpus = tuple(_gpu_text(gpu) for gpu in details["gpus"]) or context.hardware.names()
    facts = Facts(
        device=context.hardware.kind,
        gpus=gpus,
        libraries=details["libraries"],
        why_not=context.hardware.why_not(),
        details=details,
    )
    write_json(context.folder / FACTS_FILE, facts.to_json())


def doctor() -> dict[str, Any]:
    """What `l2g doctor` says of the machine; a process of its own, since it loads every library there is."""
    done = subprocess.run(
        [sys.executable, "-m", "l2g", "doctor", "--json"], capture_output=True, text=True, timeout=100
    )
    if done.returncode != 0:
        raise L2GError(f"l2g doctor failed ({done.returncode}): {done.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _gpu_text(gpu: dict[str, Any]) -> str:
    driver = f", driver {gpu['driver']}" if gpu["driver"] else ""
    return f"{gpu['name']}, compute capability {gpu['compute_capability']}{driver}"
