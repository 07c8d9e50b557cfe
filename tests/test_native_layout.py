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
        tiles = layout.tiles(rows)
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
