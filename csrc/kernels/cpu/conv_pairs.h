// packed_conv with AVX2's products of 16 bits: VPMADDWD sums two of them exactly in 32 bits, so that an instruction does
// twice the work of one in float32. Weights are widened a tile at a time; rows are 16-bit whole numbers less their zero.
#pragma once

#include "kernels/cpu/conv_block.h"

namespace streamchar::SC_ISA {

// Words of 16 channels of four inputs each, as two blocks of [16 channels][2 inputs].
SC_INLINE void widen_word(const int8_t* word, int16_t* out) {
  for (int half = 0; half < 2; ++half) {
    const auto four = [&](int n) __attribute__((always_inline)) {  // channels of four inputs
      return _mm256_castsi256_ps(
          _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(word + 32 * half + 16 * n))));
    };
    const __m256 low = four(0), high = four(1);
    const auto put = [&](int pair, __m256 mixed) __attribute__((always_inline)) {
      const __m256i in_order = _mm256_permute4x64_epi64(_mm256_castps_si256(mixed), 0xD8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * pair + 16 * half), in_order);
    };
    put(0, _mm256_shuffle_ps(low, high, 0x88));
    put(1, _mm256_shuffle_ps(low, high, 0xDD));
  }
}

struct PairProducts {
  using Element = int16_t;
  // 4 x 2 accumulators, 2 operands, a broadcast and a product are 12 of 16 registers.
  static constexpr int kPixels = 4;
  static constexpr int kTiles = 1;

  const PackedFilters& filters;
  int16_t* wide;  // [filter row][pair of its inputs][16][2]

  __attribute__((always_inline)) void prepare(int tile, int) {
    const int8_t* data = filters.data + tile * filters.tile_bytes();
    const int words = filters.shape.size * filters.row_words();
    for (int k = 0; k < words; ++k) widen_word(data + int64_t{k} * 64, wide + int64_t{k} * 64);
  }

  template <int kPixels, int kTiles>
  __attribute__((always_inline)) void multiply(const NarrowRows<int16_t>& rows, int y, int x, int, float* sums) const {
    const int pairs = 2 * filters.row_words(), pixel = filters.padded_inputs;
    for (int i = 0; i < 2 * kPixels; ++i) store(sums + i * kLanes, broadcast(0.0f));
    for (int dy = 0; dy < filters.shape.size; ++dy) {
      const NarrowRow& row = rows.row[y + dy];
      if (!row.inside) continue;
      const int16_t* in = rows.elements(y + dy) + (x + (filters.shape.size == 1)) * pixel;
      const auto* weights = reinterpret_cast<const __m256i*>(wide) + int64_t{dy} * pairs * 2;
      __m256i sum[kPixels][2];
      for (int p = 0; p < kPixels; ++p) sum[p][0] = sum[p][1] = _mm256_setzero_si256();
      for (int k = 0; k < pairs; ++k, weights += 2, in += 2) {
        const __m256i w[2] = {_mm256_loadu_si256(weights), _mm256_loadu_si256(weights + 1)};
#pragma GCC unroll 4
        for (int p = 0; p < kPixels; ++p) {
          int32_t word;
          __builtin_memcpy(&word, in + p * pixel, sizeof word);
          const __m256i value = _mm256_set1_epi32(word);
          for (int c = 0; c < 2; ++c) sum[p][c] = _mm256_add_epi32(sum[p][c], _mm256_madd_epi16(value, w[c]));
        }
      }
      for (int p = 0; p < kPixels; ++p) {
        for (int c = 0; c < 2; ++c) {
          float* total = sums + (p * 2 + c) * kLanes;
          store(total, fma({_mm256_cvtepi32_ps(sum[p][c])}, broadcast(row.scale), load(total)));
        }
      }
    }
  }
};

}  // namespace streamchar::SC_ISA
