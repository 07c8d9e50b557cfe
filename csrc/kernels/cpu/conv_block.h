// A block of packed_conv, whatever multiplies, for the instruction set of this translation unit.
#pragma once

#include "kernels/cpu/conv_rows.h"
#include "kernels/cpu/part_vectors.h"

namespace streamchar::SC_ISA {

// Where a tile's channels of a row's first pixel go, and how far it is to the next ones.
struct TileTarget {
  float* out;
  const float* added;  // null where there is nothing to add
  int64_t row, column;
  int count;           // channels, at most 16

  SC_HOST_DEVICE void next_row() {
    out += row;
    if (added) added += row;
  }
};

SC_INLINE TileTarget tile_target(const PackedFilters& filters, const ConvCall& call, const ConvBlock& block, int tile) {
  const ConvShape& shape = filters.shape;
  const int part = tile / filters.part_tiles, channel = tile % filters.part_tiles * kConvTile;
  const int s = shape.shuffle, frame = part / (s * s), dy = part / s % s, dx = part % s;
  const int64_t line = int64_t{call.width} * s * shape.channels, row = s * line;
  const int64_t picture = int64_t{block.picture} * shape.frames + frame;
  const int64_t at = dy * line + dx * shape.channels + channel + block.first_row * row;
  return {.out = call.out + picture * call.height * row + at,
          .added = call.added ? call.added + picture * call.added_stride + at : nullptr,
          .row = row,
          .column = int64_t{s} * shape.channels,
          .count = min(kConvTile, shape.channels - channel)};
}

// Turns sums of kPixels pixels from x on into what stands in `out`.
template <int kPixels>
SC_INLINE void finish_tile(const PackedFilters& filters, const TileTarget& target, int tile, int x,
                           const float* sums, int sums_stride) {
  for (int n = 0; n < target.count; n += kLanes) {
    const int count = min(kLanes, target.count - n);
    const Vec scale = load(filters.scale + tile * kConvTile + n), bias = load(filters.bias + tile * kConvTile + n);
    for (int p = 0; p < kPixels; ++p) {
      const int64_t at = (x + p) * target.column + n;
      Vec value = fma(load(sums + p * sums_stride + n), scale, bias);
      if (target.added) value = add(value, load_first(target.added + at, count));
      store_first(target.out + at, value, count);
    }
  }
}

// Products: what multiplies, with
//   Element                           of narrow rows
//   kPixels, kTiles                   at most at once; kPixels is 8, 4 or 2, kTiles 3 or 1
//   prepare(tile, tiles)              before those tiles are multiplied
//   multiply<pixels, tiles>(rows, y, x, tile, sums): (pixels, tiles * 16) sums of the block's row y, times the rows'
//                                     scales
template <int kPixels, int kTiles, typename Products>
SC_INLINE void multiply_and_finish(const PackedFilters& filters, const TileTarget* targets,
                                   Products& products, const NarrowRows<typename Products::Element>& rows, int y, int x,
                                   int tile) {
  alignas(64) float sums[kPixels * kTiles * kConvTile];
  products.template multiply<kPixels, kTiles>(rows, y, x, tile, sums);
  for (int t = 0; t < kTiles; ++t) {
    finish_tile<kPixels>(filters, targets[t], tile + t, x, sums + t * kConvTile, kTiles * kConvTile);
  }
}

template <int kTiles, typename Products>
SC_INLINE void multiply_tiles(const PackedFilters& filters, const ConvCall& call, const ConvBlock& block,
                              Products& products, const NarrowRows<typename Products::Element>& rows, int tile) {
  products.prepare(tile, kTiles);
  TileTarget targets[kTiles];
  for (int t = 0; t < kTiles; ++t) targets[t] = tile_target(filters, call, block, tile + t);
  constexpr int kPixels = Products::kPixels;
  for (int y = 0; y < block.rows; ++y) {
    int x = 0;
    for (; x + kPixels <= call.width; x += kPixels) {
      multiply_and_finish<kPixels, kTiles>(filters, targets, products, rows, y, x, tile);
    }
    if constexpr (kPixels > 4) {
      if (x + 4 <= call.width) {
        multiply_and_finish<4, kTiles>(filters, targets, products, rows, y, x, tile);
        x += 4;
      }
    }
    if constexpr (kPixels > 2) {
      if (x + 2 <= call.width) {
        multiply_and_finish<2, kTiles>(filters, targets, products, rows, y, x, tile);
        x += 2;
      }
    }
    if (x < call.width) multiply_and_finish<1, kTiles>(filters, targets, products, rows, y, x, tile);
    for (TileTarget& target : targets) target.next_row();
  }
}

template <typename Products>
SC_INLINE void conv_block_with(const PackedFilters& filters, const ConvCall& call, const ConvBlock& block,
                               Products& products, void* scratch) {
  using Element = typename Products::Element;
  NarrowRows<Element> rows{static_cast<Element*>(scratch), conv_narrow_row_elements(filters, call.width), {}};
  const int rim = filters.shape.size / 2, seen = block.rows + 2 * rim;
  auto* values = reinterpret_cast<float*>(rows.elements(kConvRows + 2));
  for (int r = 0; r < seen; ++r) {
    rows.row[r] = narrow_row(filters, call, block.picture, block.first_row + r - rim, values, rows.elements(r));
  }
  // Four tiles are two and two, five three and two.
  for (int tile = 0, left = filters.tiles; left > 0;) {
    if constexpr (Products::kTiles == 3) {
      if (left == 3 || left >= 5) {
        multiply_tiles<3>(filters, call, block, products, rows, tile);
        tile += 3, left -= 3;
        continue;
      }
      if (left >= 2) {
        multiply_tiles<2>(filters, call, block, products, rows, tile);
        tile += 2, left -= 2;
        continue;
      }
    }
    multiply_tiles<1>(filters, call, block, products, rows, tile);
    ++tile, --left;
  }
}

}  // namespace streamchar::SC_ISA
