// How the GPU kernels walk over segments and lay tiles out in shared memory. Host and device; tested on the CPU.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace streamchar {

// Walks over the keys of several segments in tiles of at most kTile keys; a tile never crosses a segment, and
// empty segments have none. `Rows` maps a segment's index to its number of keys.
template <int kTile>
struct TileCursor {
  int segment = -1;
  int first = 0;  // the tile's first key within the segment
  int keys = 0;   // 0 at the end

  template <typename Rows>
  SC_HOST_DEVICE static TileCursor begin(const Rows& rows, int segments) {
    TileCursor cursor;
    cursor.enter_next(rows, segments);
    return cursor;
  }

  // At tile `index`, which exists.
  template <typename Rows>
  SC_HOST_DEVICE static TileCursor seek(const Rows& rows, int segments, int index) {
    TileCursor cursor = begin(rows, segments);
    for (int count; index >= (count = tiles_of(rows(cursor.segment))); index -= count) {
      cursor.enter_next(rows, segments);
    }
    cursor.first = index * kTile;
    cursor.keys = clip(rows(cursor.segment) - cursor.first);
    return cursor;
  }

  template <typename Rows>
  static int count(const Rows& rows, int segments) {
    int tiles = 0;
    for (int s = 0; s < segments; ++s) tiles += tiles_of(rows(s));
    return tiles;
  }

  SC_HOST_DEVICE bool at_end() const { return keys == 0; }
  SC_HOST_DEVICE bool starts_segment() const { return first == 0; }

  template <typename Rows>
  SC_HOST_DEVICE void advance(const Rows& rows, int segments) {
    first += kTile;
    if (first < rows(segment)) {
      keys = clip(rows(segment) - first);
    } else {
      enter_next(rows, segments);
    }
  }

  // The same, and from the last tile to the first.
  template <typename Rows>
  SC_HOST_DEVICE void advance_around(const Rows& rows, int segments) {
    advance(rows, segments);
    if (at_end()) *this = begin(rows, segments);
  }

 private:
  SC_HOST_DEVICE static int tiles_of(int rows) { return (rows + kTile - 1) / kTile; }
  SC_HOST_DEVICE static int clip(int n) { return n < kTile ? n : kTile; }

  template <typename Rows>
  SC_HOST_DEVICE void enter_next(const Rows& rows, int segments) {
    first = 0;
    do {
      ++segment;
    } while (segment < segments && rows(segment) == 0);
    keys = segment < segments ? clip(rows(segment)) : 0;
  }
};

// Byte offset of 16-byte piece `piece` of row `row` in a tile of 2-byte elements, kDim to a row. The exclusive
// or spreads eight consecutive rows of one piece over all banks, which is what ldmatrix reads at once.
template <int kDim>
SC_HOST_DEVICE uint32_t swizzled_offset(int row, int piece) {
  return static_cast<uint32_t>(row * kDim * 2 + ((piece ^ (row & 7)) << 4));
}

}  // namespace streamchar
