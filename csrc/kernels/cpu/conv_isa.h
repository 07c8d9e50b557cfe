// packed_conv without products of bytes, for the instruction set of this translation unit: with AVX2 in 16 bits. Else
// weights are widened to float32 some tiles at a time, and rows are whole numbers in float32, whose sums are exact up to
// 518 of a filter's row.
#pragma once

#include "kernels/cpu/conv_block.h"
#if defined(__AVX2__) && !defined(__AVX512F__)
#include "kernels/cpu/conv_pairs.h"
#endif

namespace streamchar::SC_ISA {

struct WideProducts {
  using Element = float;
  static constexpr int kPixels = kLanes == 16 ? 8 : kLanes == 8 ? 4 : 2;
  static constexpr int kTiles = kLanes == 16 ? 3 : 1;

  const PackedFilters& filters;
  float* wide;  // [filter row][input of it][tiles][16]

  SC_INLINE int row_inputs(const PackedFilters& filters) { return 4 * filters.row_words(); }

  __attribute__((always_inline)) void prepare(int tile, int tiles) {
    const int words = filters.shape.size * filters.row_words();
    for (int t = 0; t < tiles; ++t) {
      const int8_t* data = filters.data + (tile + t) * filters.tile_bytes();
      for (int k = 0; k < words; ++k) {
        for (int n = 0; n < kConvTile; n += kLanes) {
          Vec quad[4];
          widen_quads(data + (int64_t{k} * kConvTile + n) * 4, quad);
          for (int i = 0; i < 4; ++i) store(wide + ((int64_t{k} * 4 + i) * tiles + t) * kConvTile + n, quad[i]);
        }
      }
    }
  }

  template <int kPixels, int kTiles>
  __attribute__((always_inline)) void multiply(const NarrowRows<float>& rows, int y, int x, int, float* sums) const {
    constexpr int kVectors = kTiles * kConvTile / kLanes;
    const int inputs = row_inputs(filters), pixel = filters.padded_inputs;
    for (int i = 0; i < kPixels * kVectors; ++i) store(sums + i * kLanes, broadcast(0.0f));
    for (int dy = 0; dy < filters.shape.size; ++dy) {
      const NarrowRow& row = rows.row[y + dy];
      if (!row.inside) continue;
      const float* in = rows.elements(y + dy) + (x + (filters.shape.size == 1)) * pixel;
      const float* weights = wide + int64_t{dy} * inputs * kTiles * kConvTile;
      Vec sum[kPixels][kVectors];
      for (int p = 0; p < kPixels; ++p) {
        for (int c = 0; c < kVectors; ++c) sum[p][c] = broadcast(0.0f);
      }
      for (int k = 0; k < inputs; ++k, weights += kTiles * kConvTile) {
        Vec w[kVectors];
        for (int c = 0; c < kVectors; ++c) w[c] = load(weights + c * kLanes);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) {
          const Vec value = broadcast(in[p * pixel + k]);
#pragma GCC unroll 4
          for (int c = 0; c < kVectors; ++c) sum[p][c] = fma(value, w[c], sum[p][c]);
        }
      }
      for (int p = 0; p < kPixels; ++p) {
        for (int c = 0; c < kVectors; ++c) {
          float* total = sums + (p * kVectors + c) * kLanes;
          store(total, fma(sum[p][c], broadcast(row.scale), load(total)));
        }
      }
    }
  }
};

SC_INLINE void conv_block_any(const PackedFilters& filters, const ConvCall& call, const ConvBlock& block,
                              void* scratch) {
  auto* wide = static_cast<float*>(scratch);
#if defined(__AVX2__) && !defined(__AVX512F__)
  PairProducts products{filters, reinterpret_cast<int16_t*>(wide)};
#else
  WideProducts products{filters, wide};
#endif
  conv_block_with(filters, call, block, products, wide + conv_wide_floats(filters));
}

}  // namespace streamchar::SC_ISA
