// Divides the work of a list of attention streams evenly among the blocks of a persistent grid. Host and device;
// tested on the CPU.
//
// A tile is one block of queries, of one head of one stream. Its work is counted in units: the key blocks that it
// attends to, or one where it has no key. A stream with more tiles than the grid has thread blocks is first dealt out in
// rounds: tile r * grid + b is thread block b's in round r, whole, so that all are at the same few heads at a time, whose
// keys stay in L2. What is left, half a tile to one and a half a thread block, or all of a smaller stream, lies on a
// line: unit by unit, stream by stream, head by head, query block by query block. To begin a tile takes time, too: as
// much as `lead` units, which lie before its own without being any; none where there are too few units to keep all
// thread blocks busy. Thread block b of `grid` does what lies from length * b / grid to length * (b + 1) / grid.
//
// Invariants:
//   1. Every unit belongs to exactly one thread block, and loads differ by at most one unit, leads included.
//   2. At most two of a thread block's parts are parts of split tiles: its first on the line, which may have begun in a
//      block before it, and its last, which may end in a later one. So two slots per thread block hold all partial
//      results.
//   3. A split tile lies across consecutive thread blocks, and each of them but the first starts within it; the last
//      one's number therefore names the tile among the split ones, and its counter.
//   4. Partial results are merged in rising order of thread blocks, whoever does it: for a list of shapes and a grid
//      results repeat to the bit.
//
// Unit i of a tile is key block (i + rotation) % key_blocks. The rotation is the time on the line at which the tile's
// first thread block comes to it, so that tiles of one head that are under way together read the same keys together.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace streamchar {

struct StreamWork {
  int heads;
  int query_blocks;
  int key_blocks;  // at least 1

  SC_HOST_DEVICE int64_t tiles() const { return int64_t{heads} * query_blocks; }
};

// What one thread block does of one tile: units `begin` to `end` of it.
struct WorkPart {
  int stream;
  int head;
  int query_block;
  int key_blocks;      // the tile's units
  int begin;
  int end;
  int rotation;
  int first_slot;      // of the first of the thread blocks that share the tile, see slot_of()
  int last_block;      // of these

  SC_HOST_DEVICE bool split() const { return end - begin < key_blocks; }
  SC_HOST_DEVICE int first_block() const { return first_slot / 2; }
  SC_HOST_DEVICE int sharers() const { return last_block - first_block() + 1; }
  // Where thread block `block`, one of the sharers, puts its result: in its first slot if it starts within the tile or
  // with it.
  SC_HOST_DEVICE int slot_of(int block) const { return block == first_block() ? first_slot : 2 * block; }
  SC_HOST_DEVICE int key_block(int unit) const {
    const int block = unit + rotation;
    return block < key_blocks ? block : block - key_blocks;
  }
};

template <int kMaxStreams>
struct WorkSplit {
  static constexpr int kLeastUnits = 2;  // worth a thread block, beside whole tiles
  // What it takes to begin a tile, in units. By the times of lists with few tiles a thread block, on an H200: less makes
  // them slower.
  static constexpr int kLead = 7;

  StreamWork work[kMaxStreams];
  int rounds[kMaxStreams];               // of each stream
  uint32_t first_unit[kMaxStreams + 1];  // of each stream on the line; then the total
  uint32_t first_tile[kMaxStreams + 1];
  int streams;
  int grid;
  uint32_t all_rounds;
  uint32_t lead;

  // For at most `blocks` thread blocks. The grid is 0 where there is nothing to do, no block, or too much to count.
  static WorkSplit make(const StreamWork* work, int streams, int blocks) {
    WorkSplit split{};
    split.streams = streams;
    int64_t total = 0, tiles = 0;
    for (int s = 0; s < streams; ++s) {
      split.work[s] = work[s];
      const int64_t of = work[s].tiles();
      tiles += of;
      total += of * work[s].key_blocks;
      if (total > INT32_MAX) {
        split.first_unit[streams] = UINT32_MAX;
        return split;
      }
    }
    if (total == 0 || blocks <= 0) {
      split.first_unit[streams] = static_cast<uint32_t>(total);
      return split;
    }
    int64_t grid = total / kLeastUnits > tiles ? total / kLeastUnits : tiles;
    const bool busy = grid > blocks;
    if (busy) grid = blocks;
    for (int s = 0; s < streams; ++s) {
      const int64_t of = work[s].tiles();
      const int64_t rounds = of / grid - (of >= grid && of % grid * 2 < grid);
      split.rounds[s] = static_cast<int>(rounds);
      split.all_rounds += static_cast<uint32_t>(rounds);
      const auto rest = static_cast<uint32_t>(of - rounds * grid);
      split.first_tile[s + 1] = split.first_tile[s] + rest;
      split.first_unit[s + 1] = split.first_unit[s] + rest * static_cast<uint32_t>(work[s].key_blocks);
    }
    if (busy) {
      // A lead that is longer than a thread block's units would keep some from having any.
      const int64_t share = split.total() / grid, lead = share < kLead ? share : kLead;
      if (split.total() + lead * split.first_tile[streams] <= INT32_MAX) split.lead = static_cast<uint32_t>(lead);
    }
    const int64_t countable = int64_t{UINT32_MAX} / split.length() - 1;  // products below stay within 32 bits
    if (grid > countable) return make(work, streams, static_cast<int>(countable));
    split.grid = static_cast<int>(grid);
    return split;
  }

  SC_HOST_DEVICE uint32_t total() const { return first_unit[streams]; }

  // A thread block goes through its steps: a tile each while there are rounds, then a unit each.
  SC_HOST_DEVICE uint32_t steps(int block) const { return all_rounds + start(block + 1) - start(block); }
  SC_HOST_DEVICE uint32_t after(uint32_t step, const WorkPart& part) const {
    return step + (step < all_rounds ? 1 : static_cast<uint32_t>(part.end - part.begin));
  }

  // The part that begins with a step.
  SC_HOST_DEVICE WorkPart part(int block, uint32_t step) const {
    return step < all_rounds ? whole(block, step) : on_line(block, start(block) + step - all_rounds);
  }

 private:
  // First unit of a thread block on the line, which may have none; of block `grid`: the end of the line.
  SC_HOST_DEVICE uint32_t start(int block) const {
    const uint32_t place = length() * static_cast<uint32_t>(block) / grid_u();
    int s = 0;
    while (s + 1 < streams && place >= first_place(s + 1)) ++s;
    const uint32_t keys = static_cast<uint32_t>(work[s].key_blocks), inside = place - first_place(s);
    const uint32_t tile = inside / (lead + keys), within = inside % (lead + keys);
    return first_unit[s] + tile * keys + (within > lead ? within - lead : 0);
  }

  SC_HOST_DEVICE WorkPart whole(int block, uint32_t round) const {
    WorkPart p;
    p.stream = 0;
    while (round >= static_cast<uint32_t>(rounds[p.stream])) round -= static_cast<uint32_t>(rounds[p.stream++]);
    locate(p, round * grid_u() + static_cast<uint32_t>(block));
    p.begin = p.rotation = 0;
    p.end = p.key_blocks;
    p.first_slot = 2 * block;
    p.last_block = block;
    return p;
  }

  SC_HOST_DEVICE WorkPart on_line(int block, uint32_t unit) const {
    WorkPart p;
    p.stream = 0;
    while (unit >= first_unit[p.stream + 1]) ++p.stream;  // streams without tiles here are passed over
    const uint32_t inside = unit - first_unit[p.stream], keys = static_cast<uint32_t>(work[p.stream].key_blocks);
    const uint32_t tile = inside / keys, before = inside % keys;
    locate(p, static_cast<uint32_t>(rounds[p.stream]) * grid_u() + tile);
    const uint32_t own_start = start(block), left = start(block + 1) - unit;
    p.begin = static_cast<int>(before);
    p.end = static_cast<int>(keys - before < left ? keys : before + left);
    const uint32_t tile_unit = unit - before, tile_place = first_place(p.stream) + tile * (lead + keys) + lead;
    const int first_block = tile_unit >= own_start ? block : owner(tile_place);
    const uint32_t first_start = start(first_block);
    p.first_slot = 2 * first_block + (first_start < tile_unit);
    p.last_block = p.end == p.key_blocks ? block : owner(tile_place + keys - 1);
    p.rotation = static_cast<int>((tile_unit - first_start) % keys);
    return p;
  }

  SC_HOST_DEVICE void locate(WorkPart& p, uint32_t tile) const {
    const StreamWork& of = work[p.stream];
    p.head = static_cast<int>(tile / static_cast<uint32_t>(of.query_blocks));
    p.query_block = static_cast<int>(tile % static_cast<uint32_t>(of.query_blocks));
    p.key_blocks = of.key_blocks;
  }

  SC_HOST_DEVICE uint32_t grid_u() const { return static_cast<uint32_t>(grid); }
  // Of a stream on the line with its leads; of stream `streams`: the line's length.
  SC_HOST_DEVICE uint32_t first_place(int stream) const { return first_unit[stream] + lead * first_tile[stream]; }
  SC_HOST_DEVICE uint32_t length() const { return first_place(streams); }

  // The thread block that has the unit at a place: the last one to start at or before it.
  SC_HOST_DEVICE int owner(uint32_t place) const {
    return static_cast<int>(((place + 1) * grid_u() - 1) / length());
  }
};

// Partial results in memory: counters of arrivals, zero between calls, then two slots per thread block. A warp has
// 16 rows of a tile, and its own counter; rows are float sums, with a running maximum and denominator.
struct PartialLayout {
  static constexpr int kCounters = 8192;

  int warps;     // per thread block
  int head_dim;

  // A thread holds two rows' sums of a quarter of the channels, two maxima and two denominators.
  SC_HOST_DEVICE int thread_floats() const { return head_dim / 2 + 4; }
  SC_HOST_DEVICE int64_t warp_floats() const { return 32 * int64_t{thread_floats()}; }
  SC_HOST_DEVICE int64_t slot_floats() const { return warps * warp_floats(); }
  SC_HOST_DEVICE int64_t partial(int slot, int warp) const { return slot * slot_floats() + warp * warp_floats(); }
  SC_HOST_DEVICE int counter(int last_block, int warp) const { return last_block * warps + warp; }
  SC_HOST_DEVICE int64_t bytes(int grid) const {
    return int64_t{kCounters} * 4 + 2 * int64_t{grid} * slot_floats() * 4;
  }
  // The largest grid whose counters and slots fit; 0 if none does.
  int grid_within(int64_t space) const {
    const int64_t slots = (space - int64_t{kCounters} * 4) / (2 * slot_floats() * 4);
    const int64_t counted = kCounters / warps;
    const int64_t grid = slots < counted ? slots : counted;
    return grid > 0 ? static_cast<int>(grid) : 0;
  }
};

}  // namespace streamchar
