"""Two places that commands are run from: the clone, and a wheel that is installed somewhere else."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# The old commands, which only a clone has.
DOORS = {
    "export": "export/to_onnx.py",
    "build": "export/build_engine.py",
    "doctor": "export/doctor.py",
    "inspect": "export/inspect_graph.py",
    "run": "runtime/run_video.py",
    "evaluate": "runtime/evaluate.py",
    "parity": "runtime/parity.py",
    "verify": "runtime/verify_engine.py",
    "quantize": "calibration/quantize.py",
    "demo": "examples/demo.py",
}


@dataclass(frozen=True)
class Place:
    """Where l2g is imported from, and the folder that commands are run in."""

    name: str
    path: Path
    folder: Path

    def python(self, *words, code=0, **environment):
        """Run this Python with `words` there; its exit code has to be `code`."""
        command = [sys.executable, *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(self.path), "OMP_NUM_THREADS": "1", **environment}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def command(self, *words, **how):
        """`l2g` with these words; in the clone through the old command where there is one."""
        if self.name == "clone" and words[0] in DOORS:
            return self.python(DOORS[words[0]], *words[1:], **how)
        return self.l2g(*words, **how)

    def l2g(self, *words, **how):
        """`l2g` as pip installs it from a wheel; `python -m l2g` in the clone."""
        script = self.path / "bin" / "l2g"
        return self.python(*([script] if script.exists() else ["-m", "l2g"]), *words, **how)
