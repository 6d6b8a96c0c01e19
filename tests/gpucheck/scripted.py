"""In the place of `l2g.gpucheck.child`, for tests of what calls it: python scripted.py STEP FOLDER DEVICE.

Writes the figures and does the deeds that FOLDER/script.json has for the step; loads no library.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

name, folder, device = sys.argv[1:]
folder = Path(folder)
script = json.loads((folder / "script.json").read_text())
if name == "machine":
    facts = {
        "why_not": script["why_not"],
        "details": {},
        "device": device,
        "gpus": script["gpus"],
        "libraries": script["libraries"],
    }
    (folder / "facts.json").write_text(json.dumps(facts))
    sys.exit(0)
with (folder / "ran.txt").open("a") as ran:
    ran.write(f"{name}\n")
figures = []
for deed in script["steps"].get(name, [1.0]):
    if isinstance(deed, (int, float)):
        figures.append({"subject": name, "runs_on": "x", "quantity": f"q{len(figures)}", "unit": "ms", "value": deed})
        part = folder / "steps" / f"{name}.figures.json.new"
        part.write_text(json.dumps(figures))
        part.replace(folder / "steps" / f"{name}.figures.json")
    elif deed == "hang":
        time.sleep(60)
    elif deed == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (folder / "helper.pid").write_text(str(helper.pid))
        time.sleep(60)
    elif deed == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif deed == "fail":
        print("error: no such thing; give another", file=sys.stderr)
        sys.exit(2)
command = script.get("makes", {}).get(name)
if command:
    (folder / command).parent.mkdir(parents=True, exist_ok=True)
    (folder / command).write_text("made")
