"""Two launchers that find each other as two nodes would, and one alone, each losing a process: the same weights."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from l2g import load_checkpoint
from tests.training.small import SMALL

RUN = {
    "model": "l2g_tiny",
    "overrides": {**SMALL, "backbone": {**SMALL["backbone"], "blocks": [1, 1, 1, 1]}, "input_size": [64, 96]},
    "data": {"augment": {"canvas": [64, 96], "flip": 0.5}},
    "loss": {"num_points": 64},
    "save_every": 2,
    "phases": [{"kind": "image", "iterations": 8, "batch_size": 2, "lr": 1e-3, "denoising": 10}],
}


def launch(folder, output, *words):
    """A launcher on the loopback device alone: gloo would take the machine's first address."""
    command = [sys.executable, "-m", "torch.distributed.run", *words, "--monitor-interval", "0.1"]
    command += ["-m", "l2g.training.train", "--config", str(folder / "run.yaml"), "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def told_by(*launchers):
    """What they say until they end; none is left behind."""
    try:
        return [launcher.communicate(timeout=120)[0] for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.kill()


def lose_one(launcher, output):
    """Kill a process of `launcher` as soon as there is something to go on from."""
    limit = time.monotonic() + 120
    while not (output / "resume.pt").exists() and launcher.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.02)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)


def test_two_nodes_and_a_restart_end_with_the_same_weights(tmp_path, monkeypatch):
    """One machine that loses a process, and two nodes of which one does: to the bit what an undisturbed run gives."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    whole, lost = tmp_path / "whole", tmp_path / "lost"
    undisturbed = launch(tmp_path, whole, "--standalone", "--nproc-per-node", "2")
    launcher = launch(tmp_path, lost, "--standalone", "--nproc-per-node", "2", "--max-restarts", "3")
    lose_one(launcher, lost)
    text, _ = told = told_by(launcher, undisturbed)
    assert (launcher.returncode, undisturbed.returncode) == (0, 0), told
    assert "exitcode: -9" in text, "the launcher saw the loss"

    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free.getsockname()[1]}"]
    two = tmp_path / "two"
    node = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--local-addr", "127.0.0.1", *meet]
    nodes = [launch(tmp_path, two, *node) for _ in range(2)]
    lose_one(nodes[1], two)
    told = told_by(*nodes)
    assert [each.returncode for each in nodes] == [0, 0], told
    assert "exitcode: -9" in told[1], "the launcher saw the loss"
    assert sum(text.count(f"wrote {two / 'model.safetensors'}") for text in told) == 1, told

    expected, *found = (load_checkpoint(path / "model.safetensors").state_dict() for path in (whole, lost, two))
    for weights in found:
        assert all(torch.equal(value, weights[name]) for name, value in expected.items())
