"""Index arithmetic that host and GPU share, against plain Python."""
from __future__ import annotations

import math
import random

import pytest
import torch

from streamchar_rt import ops

from .native_support import native

layout = native.layout


def test_tiles_cover_every_key_once_and_never_cross_segments():
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        rows = [rng.choice([0, 1, 63, 64, 65, rng.randrange(500)]) for _ in range(rng.randrange(7))]
        tiles = layout.tiles(rows, 64)
        covered = [(s, key) for s, first, keys in tiles for key in range(first, first + keys)]
        assert covered == [(s, key) for s, count in enumerate(rows) for key in range(count)]
        assert all(1 <= keys <= 64 and first % 64 == 0 for _, first, keys in tiles)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_swizzle_fills_the_tile_and_spreads_banks(head_dim):
    pieces = head_dim // 8
    offsets = [layout.swizzled_offset(head_dim, row, piece) for row in range(64) for piece in range(pieces)]
    assert sorted(offsets) == list(range(0, 64 * head_dim * 2, 16))
    for first in range(0, 64, 8):
        for piece in range(pieces):
            eight = {layout.swizzled_offset(head_dim, first + r, piece) % 128 for r in range(8)}
            assert len(eight) == 8   # 8 rows x 16 bytes over all 32 banks: one conflict-free ldmatrix


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_panel_offsets_are_a_bijection(head_dim, bf16):
    heads, capacity = 3, 70
    seen = {
        layout.panel_offset(value, bf16, heads, head_dim, capacity, token, head, channel)
        for value in (False, True) for token in range(128) for head in range(heads) for channel in range(head_dim)
    }
    assert seen == set(range(2 * 128 * heads * head_dim))


def test_row_offsets_are_a_bijection():
    heads, head_dim, capacity = 3, 64, 10
    starts = {layout.row_offset(v, heads, head_dim, capacity, t, h)
              for v in (False, True) for t in range(capacity) for h in range(heads)}
    assert starts == set(range(0, 2 * heads * head_dim * capacity, head_dim))


def test_rotations_turn_and_compose():
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(100):
        x, y, a, b = rng.uniform(-2, 2), rng.uniform(-2, 2), rng.uniform(-9, 9), rng.uniform(-9, 9)
        both = layout.rotate_pair(math.cos(a), math.sin(a), math.cos(b), math.sin(b))
        turned = layout.rotate_pair(x, y, *both)
        wanted = complex(x, y) * complex(math.cos(a + b), math.sin(a + b))
        assert abs(complex(*turned) - wanted) < 2e-6


def test_stored_rows_come_back_through_the_layout():
    rows, heads = 130, 2
    for dtype in (torch.float32, torch.bfloat16):
        cache = ops.ContextCache(layers=1, heads=heads, head_dim=64, capacity={"sink": 200}, ring=None, dtype=dtype)
        key, value = torch.randn(2, 1, rows, heads, 64).to(dtype)
        cache.load_state_dict({"sink": [{"chunk": 4, "key": key, "value": value}]})
        (back,) = cache.state_dict()["sink"]
        assert back["chunk"] == 4 and torch.equal(back["key"], key) and torch.equal(back["value"], value)


@pytest.mark.parametrize("tile", [64, 128])
def test_tiles_of_every_size_cover_every_key_once(tile):
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(100):
        rows = [rng.choice([0, 1, 127, 128, 129, rng.randrange(700)]) for _ in range(rng.randrange(7))]
        tiles = layout.tiles(rows, tile)
        covered = [(s, key) for s, first, keys in tiles for key in range(first, first + keys)]
        assert covered == [(s, key) for s, count in enumerate(rows) for key in range(count)]


def described(descriptor: int) -> tuple[int, int, int]:
    """Start, leading and stride byte offset of a wgmma matrix descriptor with the 128-byte swizzle."""
    assert descriptor >> 62 == 1 and (descriptor >> 49) & 7 == 0
    return (descriptor & 0x3FFF) << 4, (descriptor >> 16 & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4


def swizzle_128(address: int) -> int:
    """Bits 7 to 9 flip bits 4 to 6, as copies and wgmma do it."""
    return address ^ (address >> 7 & 7) << 4


@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_tile_offsets_are_where_bulk_copies_put_rows(rows, head_dim):
    """A box of 64 columns is written row by row, 128 bytes each, and swizzled; boxes follow one another."""
    seen = set()
    for row in range(rows):
        for column in range(head_dim):
            linear = column // 64 * rows * 128 + row * 128 + column % 64 * 2
            assert layout.tile_offset(rows, row, column) == swizzle_128(linear)
            seen.add(swizzle_128(linear))
    assert seen == set(range(0, rows * head_dim * 2, 2))
    for row in range(0, rows, 5):      # rows that lie a multiple of eight apart are swizzled alike
        for step in range(8, rows - row, 8):
            assert layout.tile_offset(rows, row + step, 40) == layout.tile_offset(rows, row, 40) + 128 * step


@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_row_operands_read_what_lies_in_the_tile(rows, head_dim):
    """PTX ISA, K-major with 128-byte swizzle: 8 rows of 128 bytes make a group, groups are `stride` apart."""
    start = 3 * 1024
    for k in range(head_dim // 16):
        address, _, stride = described(layout.row_operand(start + layout.row_operand_step(rows, k)))
        for row in range(rows):
            for column in range(16):
                linear = address + row // 8 * stride + row % 8 * 128 + column * 2
                assert swizzle_128(linear) - start == layout.tile_offset(rows, row, 16 * k + column)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_column_operands_read_what_lies_in_the_tile(head_dim):
    """PTX ISA, MN-major with 128-byte swizzle: 64 columns by 8 rows make a group; the next 8 rows are `stride`
    apart, the next 64 columns `leading`."""
    keys, start = 128, 5 * 1024
    for k in range(keys // 16):
        address, leading, stride = described(layout.column_operand(start + layout.column_operand_step(k), keys))
        for row in range(16):
            for column in range(head_dim):
                linear = address + column // 64 * leading + column % 64 * 2 + row // 8 * stride + row % 8 * 128
                assert swizzle_128(linear) - start == layout.tile_offset(keys, 16 * k + row, column)


@pytest.mark.parametrize("columns", [64, 128])
def test_threads_of_a_warpgroup_hold_every_result_once(columns):
    held = [(layout.result_row(t, i), layout.result_column(t, i)) for t in range(128) for i in range(columns // 2)]
    assert sorted(held) == [(r, c) for r in range(64) for c in range(columns)]
    # As PTX ISA draws it: thread 0 starts with (0, 0), (0, 1), (8, 0), (8, 1), (0, 8).
    assert held[:5] == [(0, 0), (0, 1), (8, 0), (8, 1), (0, 8)]
    assert layout.result_row(37, 0) == 17 and layout.result_column(37, 0) == 2


@pytest.mark.parametrize("size", [16, 64, 1024])
def test_the_inverse_transform_s_arithmetic(size):
    generator = torch.Generator().manual_seed(random.SystemRandom().getrandbits(32))
    spectrum = torch.randn(size // 2 + 1, dtype=torch.complex64, generator=generator)
    spectrum.imag[[0, -1]] = 0.0
    points = size // 2
    turn = [complex(math.cos(2 * math.pi * k / size), math.sin(2 * math.pi * k / size)) for k in range(points)]
    pair = lambda z: (z.real, z.imag)
    bins = [complex(z) for z in spectrum.tolist()]
    now = [complex(*layout.fold_spectrum(pair(bins[k]), pair(bins[points - k]), pair(turn[k]))) for k in range(points)]
    span = 1
    while span < points:
        after = [0j] * points
        for i in range(points // 2):
            first, k = layout.butterfly(i, span)
            a, b = now[i], now[i + points // 2]
            after[first], after[first + span] = a + b, (a - b) * turn[2 * k]
        now, span = after, 2 * span
    samples = torch.tensor([part for z in now for part in pair(z)], dtype=torch.float64) / size
    wanted = torch.fft.irfft(spectrum.to(torch.complex128), size)
    assert float((samples - wanted).norm() / wanted.norm()) < 1e-6


def test_weights_are_already_where_wgmma_wants_its_first_operand():
    """PTX ISA, register fragment of a 64 x 16 operand: register i of a thread holds two columns of row
    lane / 4 + 8 (i % 2) of its warp, from column 8 (i / 2) + 2 (lane % 4) on. The kernel packs results 8 k + 2 i and
    the next one into register i of step k."""
    for thread in range(128):
        warp, lane = thread // 32, thread % 32
        for k in range(8):
            for i in range(4):
                row, column = warp * 16 + lane // 4 + 8 * (i % 2), 16 * k + 8 * (i // 2) + 2 * (lane % 4)
                for element in range(2):
                    index = 8 * k + 2 * i + element
                    assert layout.result_row(thread, index) == row
                    assert layout.result_column(thread, index) == column + element
