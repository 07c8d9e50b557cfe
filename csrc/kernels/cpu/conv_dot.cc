// packed_conv with VPDPBUSD: bytes of pixels as they lie in memory, times weights, four at a time.
#include "kernels/cpu/conv_block.h"

namespace streamchar::SC_ISA {
namespace {

// The instruction itself: with the intrinsic GCC 12 copies every sum around it.
SC_INLINE void add_products(__m512i& sum, __m512i bytes, __m512i weights) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(weights));
}

struct DotProducts {
  using Element = uint8_t;
  // 8 x 3 accumulators, 3 operands and a broadcast are 28 of 32 registers.
  static constexpr int kPixels = 8;
  static constexpr int kTiles = 3;

  const PackedFilters& filters;

  __attribute__((always_inline)) void prepare(int, int) {}

  template <int kPixels, int kTiles>
  __attribute__((always_inline)) void multiply(const NarrowRows<uint8_t>& rows, int y, int x, int tile,
                                               float* sums) const {
    const int words = filters.row_words(), pixel = filters.padded_inputs, size = filters.shape.size;
    const int64_t tile_bytes = filters.tile_bytes();
    for (int i = 0; i < kPixels * kTiles; ++i) _mm512_store_ps(sums + i * 16, _mm512_setzero_ps());
    for (int dy = 0; dy < size; ++dy) {
      const NarrowRow& row = rows.row[y + dy];
      if (!row.inside) continue;
      const uint8_t* in = rows.elements(y + dy) + (x + (size == 1)) * pixel;
      const int8_t* weights = filters.data + tile * tile_bytes + int64_t{dy} * words * 64;
      // The zero that every byte holds too much.
      __m512i sum[kPixels][kTiles];
      for (int t = 0; t < kTiles; ++t) {
        const int32_t* own = filters.sum + (dy * filters.tiles + tile + t) * kConvTile;
        const __m512i begin = _mm512_mullo_epi32(_mm512_loadu_si512(own), _mm512_set1_epi32(-row.zero));
        for (int p = 0; p < kPixels; ++p) sum[p][t] = begin;
      }
      for (int k = 0; k < words; ++k, weights += 64, in += 4) {
        __m512i w[kTiles];
        for (int t = 0; t < kTiles; ++t) w[t] = _mm512_load_si512(weights + t * tile_bytes);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) {
          int32_t word;
          __builtin_memcpy(&word, in + p * pixel, sizeof word);
          const __m512i value = _mm512_set1_epi32(word);
#pragma GCC unroll 4
          for (int t = 0; t < kTiles; ++t) add_products(sum[p][t], value, w[t]);
        }
      }
      const __m512 scale = _mm512_set1_ps(row.scale);
      for (int p = 0; p < kPixels; ++p) {
        for (int t = 0; t < kTiles; ++t) {
          float* total = sums + (p * kTiles + t) * 16;
          _mm512_store_ps(total, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[p][t]), scale, _mm512_load_ps(total)));
        }
      }
    }
  }
};

}  // namespace

void conv_block(const PackedFilters& filters, const ConvCall& call, const ConvBlock& block, void* scratch) noexcept {
  DotProducts products{filters};
  conv_block_with(filters, call, block, products, scratch);
}

}  // namespace streamchar::SC_ISA
