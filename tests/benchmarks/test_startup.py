"""The measure of start-up: CPU seconds of a process, and of it up to its first frame."""

import sys

import pytest

from benchmarks.startup import main, measure, split_command

BURN = "import time\nwhile time.process_time() < {}: pass\n"
SESSION = BURN.format(0.3) + "import onnxruntime as ort\nsession = ort.InferenceSession({!r})\n"
FRAMES = """import numpy as np
types = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
feeds = {node.name: np.zeros([1, *node.shape[1:]], types[node.type]) for node in session.get_inputs()}
"""


def test_a_process_without_a_model_has_no_first_frame():
    command, environment = split_command(f"MARK=7 python -c '{BURN.format(0.5)}import os; assert os.environ[\"MARK\"]'")
    assert command[0] == sys.executable
    start = measure(command, environment)
    assert start.first is None
    assert 0.5 <= start.whole < 2


def test_the_first_frame_is_noted_when_it_begins():
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from tests.exported import small_graph

    code = SESSION.format(str(small_graph())) + FRAMES
    code += "print(time.process_time())\nfor _ in range(3): session.run(None, feeds)\n" + BURN.format(2)[12:]
    start = measure([sys.executable, "-c", code], split_command("")[1])
    assert 0.3 < start.first < 1.9 < start.whole


def test_two_commands_and_their_ratio(capsys):
    quick, slow = (f"python -c '{BURN.format(seconds)}'" for seconds in (0.2, 0.8))
    assert main(["--command", quick, "--baseline", slow, "--runs", "2"]) == 0
    ratio = float(capsys.readouterr().out.splitlines()[-1].split()[-1])
    assert 0.2 < ratio < 0.45
    with pytest.raises(RuntimeError, match="ended with 3"):
        measure([sys.executable, "-c", "import sys; sys.exit(3)"], {})
