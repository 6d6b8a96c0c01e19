"""The kernel against float64, in Triton's interpreter, or on a GPU where there is one.

L2G_KERNEL_SHAPES=200 tries so many random shapes instead of the first 8 of them.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from l2g.errors import L2GError
from l2g.runtime.backends.compiled import attention

pytest.importorskip("triton")

from l2g.runtime.backends.compiled.kernel import fused_deformable_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = int(os.environ.get("L2G_KERNEL_SHAPES", "8"))


def truth(value, shapes, reference, offsets, logits):
    """The operator's contract in float64: every sample is the sum of four pixels, those outside of the map being 0."""
    value, reference, offsets, logits = (np.asarray(x.double()) for x in (value, reference, offsets, logits))
    b, q, m, levels, p, _ = offsets.shape
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    weights = (exponentials / exponentials.sum(-1, keepdims=True)).reshape(b, q, m, levels, p)
    out, start = np.zeros((b, q, m, value.shape[3])), 0
    images, heads = np.arange(b)[:, None, None, None], np.arange(m)[None, None, :, None]
    for level, (h, w) in enumerate(shapes):
        here, moved = reference[:, :, None, None], offsets[:, :, :, level]
        if reference.shape[-1] == 2:
            position = here + moved / (w, h)
        else:
            position = here[..., :2] + moved * here[..., 2:] * 0.5 / p
        x, y = position[..., 0] * w - 0.5, position[..., 1] * h - 0.5
        near = np.isfinite(x) & np.isfinite(y) & (np.abs(x) < 1e6) & (np.abs(y) < 1e6)
        x, y = np.where(near, x, -9), np.where(near, y, -9)
        for right in (0, 1):
            for below in (0, 1):
                column, line = np.floor(x).astype(int) + right, np.floor(y).astype(int) + below
                share = (1 - np.abs(x - column)) * (1 - np.abs(y - line))
                there = (column >= 0) & (column < w) & (line >= 0) & (line < h)
                row = start + np.where(there, line * w + column, 0)
                pixel = np.where(there[..., None], value[images, row, heads], 0)
                out += (pixel * (share * weights[:, :, :, level])[..., None]).sum(3)
        start += h * w
    return out.reshape(b, q, -1)


def inputs(seed, batch=1, queries=5, heads=2, width=32, points=2, shapes=((5, 7), (3, 4)), sides=2, spread=2.0):
    """value, shapes, reference, offsets, logits; offsets in pixels around points, in sides around boxes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    tokens = sum(h * w for h, w in shapes)
    return (
        normal(batch, tokens, heads, width),
        shapes,
        torch.rand(batch, queries, sides, generator=generator),
        spread * normal(batch, queries, heads, len(shapes), points, 2),
        2 * normal(batch, queries, heads, len(shapes) * points),
    )


def computed(value, shapes, reference, offsets, logits, block=64):
    """Few programs: what the interpreter takes is by program."""
    given = (x.to(DEVICE) for x in (value, reference, offsets, logits))
    value, reference, offsets, logits = given
    return fused_deformable_attention(value, shapes, reference, offsets, logits, block).cpu()


def drawn(number):
    """The random shape of a number: odd and even sides, 1 to 6 levels, head widths 32 and 64 and others."""
    draw = np.random.default_rng(number)
    shapes = tuple((int(h), int(w)) for h, w in draw.integers(1, 24, (draw.integers(1, 7), 2)))
    return inputs(
        number,
        batch=int(draw.integers(1, 3)),
        queries=int(draw.integers(1, 70)),
        heads=int(draw.integers(1, 4)),
        width=int(draw.choice([32, 32, 64, 64, 8, 20])),
        points=int(draw.integers(1, 5)),
        shapes=shapes,
        sides=int(draw.choice([2, 4])),
        spread=float(draw.choice([0.0, 0.5, 2.0, 50.0])),
    )


def test_random_shapes_to_1e_5():
    for number in range(SHAPES):
        given = drawn(number)
        np.testing.assert_allclose(computed(*given), truth(*given), atol=1e-5, rtol=0, err_msg=str(number))


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_sixteen_bits_are_summed_in_float32(width, dtype, bits):
    """Of inputs that are rounded already the result differs by its own rounding alone, half a step of the type: sums in
    that type would differ by many. (Triton's interpreter cuts BF16 off where a GPU rounds it: a whole step there.)"""
    value, shapes, reference, offsets, logits = inputs(3, queries=20, points=4, width=width)
    given = value.to(dtype), shapes, reference, offsets.to(dtype), logits.to(dtype)
    found, expected = computed(*given), truth(*given)
    assert found.dtype == dtype
    cut = DEVICE == "cpu" and dtype == torch.bfloat16
    np.testing.assert_allclose(found.double(), expected, rtol=2.0 ** (cut - bits), atol=1e-5)


def test_blocks_meet_without_a_seam():
    given = inputs(4, queries=33, batch=2)
    whole = computed(*given)
    for block in (16, 32):
        torch.testing.assert_close(computed(*given, block=block), whole, atol=1e-6, rtol=0)


def test_reference_points_are_shared_by_all_images():
    value, shapes, reference, offsets, logits = inputs(5, batch=2)
    one = reference[:1]
    found = computed(value, shapes, one, offsets, logits)
    np.testing.assert_allclose(found, truth(value, shapes, one.expand(2, -1, -1), offsets, logits), atol=1e-5)


@pytest.mark.parametrize("sides", [2, 4])
@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -1e30])
def test_a_sample_that_is_nowhere_reads_nothing(sides, strange):
    """As on the plain path. Its weight still counts in the softmax, and its neighbours are as they were."""
    value, shapes, reference, offsets, logits = inputs(6, sides=sides)
    clean = computed(value, shapes, reference, offsets, logits)
    offsets[:, 2, :, 0, 1] = strange
    found = computed(value, shapes, reference, offsets, logits)
    np.testing.assert_allclose(found, truth(value, shapes, reference, offsets, logits), atol=1e-5)
    torch.testing.assert_close(found, attention.plain(value, shapes, reference, offsets, logits), atol=1e-5, rtol=0)
    assert torch.equal(found[:, [0, 1, 3, 4]], clean[:, [0, 1, 3, 4]])


def test_weights_of_zero_and_weights_that_are_no_number():
    value, shapes, reference, offsets, logits = inputs(7)
    logits[:, 0, :, 1:] = -float("inf")  # one sample has all the weight
    logits[:, 1] = -float("inf")  # none has: 0 / 0
    logits[:, 2, 0, 3] = float("nan")
    logits[:, 3] = -1e4
    found = computed(value, shapes, reference, offsets, logits)
    plain = attention.plain(value, shapes, reference, offsets, logits)
    assert found[:, 1].isnan().all()
    assert found[:, 2, :32].isnan().all()  # this head alone
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=0, equal_nan=True)
    sure = [0, 3, 4]
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found[:, sure], truth(value, shapes, reference, offsets, logits)[:, sure], atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_on_pixel_centres_and_at_the_border(axis):
    """At -1 and at the size a sample has left the map; between there and the outermost centres it fades. axis: along
    x or y, on a map of 6 pixels that way and 4 the other. A second level lies behind the first, and is never read."""
    shape = (4, 6) if axis == 0 else (6, 4)
    value, *_ = inputs(8, shapes=(shape, (3, 3)))
    positions = torch.tensor([-1.0, -0.75, -0.5, 0.0, 0.25, 2.0, 5.0, 5.25, 5.75, 6.0])
    offsets = torch.zeros(1, len(positions), 2, 2, 1, 2)
    offsets[..., 0, :, axis] = positions.view(1, -1, 1, 1)
    reference = torch.full((2,), 1.5 / 4)
    reference[axis] = 0.5 / 6
    reference = reference.expand(1, len(positions), 2)
    logits = torch.tensor([0.0, -float("inf")]).expand(1, len(positions), 2, 2)
    given = value, (shape, (3, 3)), reference, offsets, logits
    found = computed(*given)
    np.testing.assert_allclose(found, truth(*given), atol=2e-6)
    picture = value[0, :24].flatten(1).unflatten(0, shape)
    line = picture[1] if axis == 0 else picture[:, 1]
    torch.testing.assert_close(found[0, 3], line[0], atol=2e-6, rtol=0)
    torch.testing.assert_close(found[0, 6], line[5], atol=2e-6, rtol=0)
    torch.testing.assert_close(found[0, 1], 0.25 * line[0], atol=2e-6, rtol=0)
    assert not found[0, [0, 9]].any()


def test_the_operator_keeps_the_rules_of_operators():
    value, shapes, reference, offsets, logits = inputs(9)
    flat = [side for shape in shapes for side in shape]
    operator = torch.ops.l2g.fused_deformable_attention.default
    given = value, flat, reference, offsets, logits
    torch.library.opcheck(operator, given, test_utils=("test_schema", "test_faketensor"))
    np.testing.assert_allclose(operator(*given), truth(value, shapes, reference, offsets, logits), atol=1e-5)


def test_a_kernel_is_held_to_the_plain_path_before_it_is_used():
    device = torch.device(DEVICE)
    attention.check(fused_deformable_attention, device)
    for wrong in (
        lambda value, shapes, reference, offsets, logits: fused_deformable_attention(
            value, shapes[::-1], reference, offsets, logits
        ),
        lambda *given: attention.plain(*given) * float("nan"),
    ):
        with pytest.raises(L2GError, match="away from those of PyTorch's operators"):
            attention.check(wrong, device)


COMPILE = """
import re, subprocess, sys
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from l2g.runtime.backends.compiled.kernel import BLOCK, _kernel, _warps

TYPES = {"fp16": 2, "bf16": 2, "fp32": 4}


def kernel(capability, dtype, width, sides):
    pointers = {"value": dtype, "reference": "fp32", "offsets": dtype, "logits": dtype, "levels": "i32", "out": dtype}
    constants = dict(HEADS=8, WIDTH=width, COLUMNS=width, LEVELS=4, POINTS=4, SIDES=sides, BLOCK=BLOCK)
    signature = {name: f"*{kind}" for name, kind in pointers.items()}
    signature |= dict.fromkeys(("tokens", "queries", "reference_stride"), "i32") | dict.fromkeys(constants, "constexpr")
    aligned = {(index,): [["tt.divisibility", 16]] for index in range(len(pointers))}  # as PyTorch's memory is
    return triton.compile(
        ASTSource(_kernel, signature, constants, attrs=aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": _warps(BLOCK * width * TYPES[dtype])},
    )


tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
for how in ((80, "fp16", 32, 2), (89, "fp32", 32, 2), (90, "fp16", 32, 4), (90, "bf16", 64, 4)):
    made = kernel(*how)
    Path(sys.argv[1]).write_bytes(made.asm["cubin"])
    usage = subprocess.run([tool, "-res-usage", sys.argv[1]], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\\d+) STACK:(\\d+)", usage).groups()
    print(f"sm_{how[0]}" in made.asm["ptx"], made.asm["ptx"].count("ld.global.v4"), registers, stack)
"""


def test_it_is_compiled_for_real_gpus(tmp_path):
    """To machine code, which takes no GPU; in a process without the interpreter, which lets pass what the compiler does
    not. Each corner of a sample is one load of 16 bytes a lane, and nothing is spilled to memory."""
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, str(tmp_path / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=170)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) == 4
    for target, wide_loads, registers, stack in found:
        assert (target, wide_loads, stack) == ("True", "4", "0")
        assert int(registers) <= 96
