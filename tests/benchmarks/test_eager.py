"""What an eager frame takes is told as measured here, and beside nothing that was measured elsewhere."""

import re

import torch

from benchmarks import eager


def test_only_what_is_measured_here_is_printed(capsys):
    small = ["--height", "64", "--width", "96", "--queries", "10", "--repeats", "1"]
    assert eager.main(["--preset", "l2g_r50", *small, "--threads", str(torch.get_num_threads())]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^total +\d+\.\d+ s +100\.0 %$", out, re.MULTILINE)
    assert re.findall("(.*) times as fast", out) == re.findall("(gather_rows .*) times as fast", out) != []
    assert "public" not in out
