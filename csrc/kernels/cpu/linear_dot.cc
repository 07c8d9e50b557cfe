// packed_linear with AVX-512 dot products of 32-bit groups: VPDPBUSD of four int8, VDPBF16PS of two bf16. Compiled
// once for each, with -DSC_ISA=avx512_vnni or avx512_bf16.
#include "kernels/cpu/narrow_rows.h"
#include "kernels/cpu/row_tiles.h"

namespace streamchar::SC_ISA {
namespace {

#if defined(__AVX512BF16__)

using Sums = __m512;
SC_INLINE Sums zero() { return _mm512_setzero_ps(); }
SC_INLINE Sums add_products(Sums sums, __m512i x, __m512i w) {
  return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(w));
}
SC_INLINE __m512 finished(Sums sums, const int32_t*) { return sums; }
SC_INLINE float narrow_row(const float* x, const PackedWeights& w, char* out) {
  bf16_row(x, w.inputs, w.padded_inputs, out, 64);
  return 1.0f;
}

#else

using Sums = __m512i;
SC_INLINE Sums zero() { return _mm512_setzero_si512(); }
// The instruction takes one unsigned operand: inputs are 128 too large, which `finished` takes back.
SC_INLINE Sums add_products(Sums sums, __m512i x, __m512i w) { return _mm512_dpbusd_epi32(sums, x, w); }
SC_INLINE __m512 finished(Sums sums, const int32_t* sum128) {
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_loadu_si512(sum128)));
}
SC_INLINE float narrow_row(const float* x, const PackedWeights& w, char* out) {
  return int8_row<true>(x, w.inputs, w.padded_inputs, out, 64);
}

#endif

// Outputs of kTiles tiles for kRows rows; x: narrow rows, `words` words of 32 bits each.
template <int kRows, int kTiles>
SC_INLINE void multiply_tiles(const PackedWeights& weights, const LinearCall& call, const int32_t* x, int words,
                              int row, int tile, const float* scales) {
  Sums sums[kRows][kTiles];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kTiles; ++c) sums[r][c] = zero();
  }
  const char* data = static_cast<const char*>(weights.data) + tile * weights.tile_bytes();
  for (int k = 0; k < words; ++k, data += 64) {
    __m512i w[kTiles];
    for (int c = 0; c < kTiles; ++c) w[c] = _mm512_load_si512(data + c * weights.tile_bytes());
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512i value = _mm512_set1_epi32(x[int64_t{r} * words + k]);
#pragma GCC unroll 4
      for (int c = 0; c < kTiles; ++c) sums[r][c] = add_products(sums[r][c], value, w[c]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kTiles; ++c) {
      alignas(64) float out[kTileOutputs];
      const int first = (tile + c) * kTileOutputs;
      _mm512_store_ps(out, finished(sums[r][c], weights.sum128 + first));
      finish_outputs(weights, call, row + r, first, kTileOutputs, out, scales[r]);
    }
  }
}

}  // namespace

void linear_block(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                  void* scratch) noexcept {
  const int words = weights.padded_inputs / weights.group();
  auto* x = static_cast<int32_t*>(scratch);
  float scales[kLinearRows];
  const InputRows given = input_rows(weights, call, block, scratch);
  for (int r = 0; r < block.rows; ++r) {
    scales[r] = narrow_row(given.row(r), weights, reinterpret_cast<char*>(x + int64_t{r} * words));
  }
  const int end = block.first_tile + block.tiles;
  for (int tile = block.first_tile; tile < end; tile += kLinearTiles) {
    for_each_tile(block.rows, [&]<int kRows>(int row) __attribute__((always_inline)) {
      const int32_t* from = x + int64_t{row} * words;
      if (end - tile >= kLinearTiles) {
        multiply_tiles<kRows, kLinearTiles>(weights, call, from, words, block.first_row + row, tile, scales + row);
      } else {
        multiply_tiles<kRows, 2>(weights, call, from, words, block.first_row + row, tile, scales + row);
      }
    });
  }
}

}  // namespace streamchar::SC_ISA
