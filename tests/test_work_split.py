"""How the GPU's attention divides its work, and its narrow number types, against plain Python and torch."""
from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict

import numpy as np
import pytest
import torch

from streamchar_rt.ops import reference

from .native_support import native

layout = native.layout
LEAD = 7    # of a tile, in units


def check_split(work: list[tuple[int, int, int]], blocks: int) -> dict[tuple, list[dict]]:
    """Every promise of work_split.h; the parts of each tile in the order of thread blocks."""
    split = layout.work_split(work, blocks)
    tiles = [(s, h, q) for s, (heads, queries, _) in enumerate(work) for h in range(heads) for q in range(queries)]
    units = sum(work[tile[0]][2] for tile in tiles)
    grid = len(split)
    if not units:
        assert grid == 0
        return {}
    assert 1 <= grid <= min(blocks, units)
    assert grid == min(blocks, max(len(tiles), units // 2))
    rounds, rest = [], []      # of each thread block, the tiles that it has whole; and the tiles on the line
    for s in range(len(work)):
        own = [tile for tile in tiles if tile[0] == s]
        count = len(own) // grid
        count -= count > 0 and len(own) % grid * 2 < grid
        rounds += [own[r * grid : (r + 1) * grid] for r in range(count)]
        rest += own[count * grid :]
    share = sum(work[tile[0]][2] for tile in rest) // grid
    lead = min(LEAD, share) if max(len(tiles), units // 2) > blocks else 0
    line = [(tile, unit) for tile in rest for unit in [None] * lead + list(range(work[tile[0]][2]))]

    found: dict[tuple, list[dict]] = defaultdict(list)
    slots, counters, loads = set(), {}, []
    for block, parts in enumerate(split):
        share = line[len(line) * block // grid : len(line) * (block + 1) // grid]
        own = [(r[block], unit) for r in rounds for unit in range(work[r[block][0]][2])]
        own += [(tile, unit) for tile, unit in share if unit is not None]
        assert [(p["tile"], unit) for p in parts for unit in range(*p["units"])] == own
        loads.append(len(share))
        assert sum(p["split"] for p in parts) <= 2
        time = 0               # on the line
        for i, p in enumerate(parts):
            first, last = p["units"]
            assert p["of"] == work[p["tile"][0]][2] and len(p["keys"]) == last - first
            assert p["split"] == (last - first < p["of"])
            assert p["blocks"][0] <= block <= p["blocks"][1]
            if p["split"]:
                assert 0 <= p["slot"] < 2 * grid and p["slot"] not in slots
                slots.add(p["slot"])
                assert counters.setdefault(p["blocks"][1], p["tile"]) == p["tile"]
            else:
                assert p["blocks"] == (block, block)
            if first == 0:
                assert p["keys"][0] == time % p["of"]    # tiles that begin together read the same keys
            time += last - first if i >= len(rounds) else 0
            found[p["tile"]].append(p | {"block": block})
    assert max(loads) - min(loads) <= 1

    assert sorted(found) == tiles
    for tile, parts in found.items():
        keys = [key for p in parts for key in p["keys"]]
        assert sorted(keys) == list(range(work[tile[0]][2]))                     # each key block once
        assert all((b - a) % len(keys) == 1 for a, b in itertools.pairwise(keys))   # and going round
        order = [p["block"] for p in parts]
        assert order == list(range(parts[0]["blocks"][0], parts[0]["blocks"][1] + 1))
        if len(parts) > 1:
            assert all(p["split"] and p["merged"] == [q["slot"] for q in parts] for p in parts)
    return found


def test_every_small_list_is_divided_evenly_and_once():
    shapes = [(h, q, k) for h in (1, 2) for q in (0, 1, 3) for k in (1, 2, 5)]
    for first, second in itertools.combinations_with_replacement(shapes, 2):
        for blocks in (1, 2, 3, 7, 40):
            check_split([first, second], blocks)
    for work in itertools.product([1], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7]):
        for blocks in range(1, 37):
            check_split([work], blocks)


def test_no_room_for_a_thread_block_is_no_grid():
    for work in ([], [(0, 1, 1)], [(1, 1, 1)], [(3, 2, 5), (1, 1, 9)]):
        assert layout.work_split(work, 0) == []


def test_long_lists_of_video_and_audio_are_divided_down_to_every_key(seeded):
    rng = random.Random(seeded)
    for _ in range(12):
        tile = rng.choice([64, 128])
        streams = []
        for _ in range(rng.randint(1, 8)):
            rows = [rng.choice([0, 1, 127, 128, 129, rng.randrange(900)]) for _ in range(rng.randint(1, 5))]
            streams.append((rng.choice([1, 3, 24]), rng.choice([0, 1, 2, 7]), rows))
        counts = [sum(-(-n // tile) for n in rows) for _, _, rows in streams]
        work = [(heads, queries, max(1, count)) for (heads, queries, _), count in zip(streams, counts)]
        found = check_split(work, rng.choice([1, 20, 132, 264]))
        for (s, head, query), parts in found.items():
            if head or query or not counts[s]:
                continue
            rows = streams[s][2]
            keys = [
                (segment, key)
                for p in parts
                for segment, first, n in layout.tiles_from(rows, tile, p["keys"][0], len(p["keys"]))
                for key in range(first, first + n)
            ]
            assert sorted(keys) == [(i, key) for i, n in enumerate(rows) for key in range(n)]


#: (heads, query blocks, key blocks) of each stream: video and audio of a large session, of four, and one alone.
LISTS = [[(24, 7, 42), (24, 1, 4)], [(24, 1, 4), (24, 19, 40)], [(24, 5, 19), (24, 1, 5)] * 4, [(24, 7, 42)],
         [(24, 7, 63)], [(24, 32, 64)]]


@pytest.mark.parametrize("work", LISTS, ids=str)
@pytest.mark.parametrize("blocks", [108, 132])
def test_no_thread_block_takes_much_longer_than_the_others(work, blocks):
    """By its key blocks, and by the tiles that it begins or goes on with, as each takes the time of some more."""
    split = layout.work_split(work, blocks)
    times = [sum(LEAD + p["units"][1] - p["units"][0] for p in parts) for parts in split]
    assert len(split) == blocks and max(times) <= 1.05 * sum(times) / blocks
    shortest = LEAD + min(keys for _, _, keys in work)
    assert max(map(len, split)) <= max(times) / shortest + 2     # the first and the last may be of split tiles


def test_tiles_that_meet_at_the_end_of_the_line_go_round():
    rows = [0, 130, 0, 64, 1, 0]
    tiles = layout.tiles(rows, 64)
    assert [t[0] for t in tiles] == [1, 1, 1, 3, 4]
    for first in range(len(tiles)):
        assert layout.tiles_from(rows, 64, first, 11) == [tiles[(first + i) % len(tiles)] for i in range(11)]


def test_a_list_too_long_to_count_is_refused_and_a_long_one_served():
    assert layout.work_grid([(1000, 1000, 3000)], 132) == 0
    assert layout.work_grid([(24, 128, 235)] * 8, 132) == 132
    assert layout.work_grid([(100, 1000, 20000)], 132) == 132      # two thousand million units, most in whole rounds
    assert 1 <= layout.work_grid([(100, 1, 20_000_000)], 132) < 132   # all on the line: with less grid, products fit
    assert layout.work_grid([(24, 0, 60), (4, 0, 1)], 132) == 0 and layout.work_grid([], 132) == 0


@pytest.mark.parametrize("warps,head_dim", [(8, 128), (12, 64), (8, 64)])
def test_partial_results_fit_the_workspace(warps, head_dim):
    rows = 16 * warps
    for grid in (1, 66, 132, 264):
        size = layout.partial_bytes(warps, head_dim, grid)
        ends = {layout.partial_offset(warps, head_dim, slot, warp)
                for slot in (0, 1, 2 * grid - 1) for warp in range(warps)}
        step = layout.partial_offset(warps, head_dim, 0, 1)
        assert step % 4 == 0 and step == 16 * (head_dim + 8)          # sums, and two numbers for each of four threads
        assert all(offset % step == 0 for offset in ends)
        counters = size - 2 * grid * rows * (head_dim + 8) * 4
        assert counters >= grid * warps * 4 and counters % 16 == 0
        assert (max(ends) + step) * 4 + counters == size
        assert layout.partial_grid(warps, head_dim, size) == grid
        assert layout.partial_grid(warps, head_dim, size - 1) == grid - 1
    assert layout.partial_grid(warps, head_dim, 0) == 0
    assert layout.partial_grid(warps, head_dim, 1 << 40) * warps <= 8192


def test_merging_the_parts_of_a_tile_gives_the_softmax_over_all_keys(seeded):
    """The formula of attention_rows.cuh on the parts that the split makes, in float64."""
    rng = np.random.default_rng(seeded)
    for parts in check_split([(1, 1, 13)], 5).values():
        logits, values = rng.normal(0, 4, (13, 8)), rng.normal(size=(13, 8))
        state = []
        for p in parts:
            x, v = logits[p["keys"]].ravel(), values[p["keys"]].ravel()
            weights = np.exp2(x - x.max())
            state.append((x.max(), weights.sum(), weights @ v))
        top = max(m for m, _, _ in state)
        merged = sum(np.exp2(m - top) * v for m, _, v in state) / sum(np.exp2(m - top) * d for m, d, _ in state)
        weights = np.exp2(logits - logits.max()).ravel()
        wanted = weights @ values.ravel() / weights.sum()
        assert len(parts) == 5 and math.isclose(merged, wanted, rel_tol=1e-9, abs_tol=1e-12)


def float8_of(values: torch.Tensor) -> list[int]:
    return values.to(torch.float8_e4m3fn).view(torch.uint8).tolist()


def test_float8_rounds_as_torch_does_and_saturates(seeded):
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    finite = every[every.isfinite()].unique()
    between = (finite[1:] + finite[:-1]) / 2                           # ties
    spread = torch.randn(4000) * torch.exp2(torch.randint(-14, 10, (4000,)).float())
    nudged = torch.cat([torch.nextafter(between, between + s) for s in (1.0, -1.0)])
    values = torch.cat([finite, between, nudged, spread, -spread]).clamp(-448, 448)
    assert [layout.to_float8(x) for x in values.tolist()] == float8_of(values)
    for big in (448.1, 464.0, 480.0, 1e30, math.inf):
        assert layout.to_float8(big) == 0x7E and layout.to_float8(-big) == 0xFE
    assert layout.to_float8(math.nan) & 0x7F == 0x7F


def test_int8_rounds_to_nearest_even_and_saturates(seeded):
    values = torch.cat([torch.arange(-260, 261) / 2, torch.randn(2000) * 60])
    wanted = values.clamp(-127, 127).round().to(torch.int8).view(torch.uint8)
    assert [layout.to_int8(x) for x in values.tolist()] == wanted.tolist()
    assert layout.to_int8(math.inf) == 127 and layout.to_int8(-math.inf) == 129 and layout.to_int8(math.nan) == 0


def halves(bits: int) -> np.ndarray:
    return np.array([bits & 0xFFFF, bits >> 16], np.uint16).view(np.float16).astype(np.float64)


def test_narrow_elements_become_float16_exactly():
    """All bytes, in all four places: what the kernels multiply by 256, or subtract 1152 from."""
    for low in range(256):
        bytes_ = np.array([low, 255 - low, low ^ 0x55, (low * 7 + 3) % 256], np.uint8)
        word = int(bytes_.view(np.uint32)[0])
        got8 = np.concatenate([halves(layout.spread_int8(word, pair)) - 1152 for pair in (0, 1)])
        assert got8.tolist() == bytes_.view(np.int8).tolist()
        wanted = torch.from_numpy(bytes_).view(torch.float8_e4m3fn).double().numpy()
        got = np.concatenate([halves(layout.spread_float8(word, pair)) * 256 for pair in (0, 1)])
        real = np.isfinite(wanted)
        assert (got[real] == wanted[real]).all()
        assert (np.abs(wanted[real]) <= 448).all()                     # far within float16


@pytest.mark.parametrize("dtype,limit", [(torch.float8_e4m3fn, 2**-4), (torch.int8, 1 / 254)])
def test_storage_comes_back_within_half_a_step(seeded, dtype, limit):
    x = torch.randn(50, 3, 64) * torch.tensor([1e-3, 1.0, 300.0])[:, None]
    stored, magnitude = reference.to_storage(x, dtype)
    assert stored.dtype is dtype and torch.equal(magnitude, x.abs().amax((0, 2)))
    error = (reference.from_storage(stored, magnitude) - x).abs() / magnitude[:, None]
    relative = error if dtype is torch.int8 else error / (x.abs() / magnitude[:, None]).clamp(min=2**-6 / 448)
    assert float(relative.max()) <= limit * (1 + 1e-4)
    zeros, magnitude = reference.to_storage(torch.zeros(4, 2, 64), dtype)
    assert not magnitude.any() and not reference.from_storage(zeros, magnitude).any()
    clipped, _ = reference.to_storage(x, dtype, torch.full((3,), 1e-3))
    assert float(clipped.float().abs().max()) == reference.STORAGE_LIMIT[dtype]


def test_the_norm_over_all_heads_is_one_norm_of_the_row(seeded):
    x, weight = torch.randn(9, 3, 64, dtype=torch.float64), torch.rand(2, 192, dtype=torch.float64) + 0.5
    got = reference.all_head_rms_norm(x, weight, (0, 4, 9))
    row = x.flatten(1)
    wanted = row / (row.square().mean(1, keepdim=True) + 1e-6).sqrt()
    wanted = torch.cat([wanted[:4] * weight[0], wanted[4:] * weight[1]]).unflatten(1, (3, 64))
    assert float((got - wanted).abs().max()) < 1e-12
