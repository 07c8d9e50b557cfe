// packed_linear with AVX-512 dot products of 32-bit groups: VPDPBUSD of four int8, VDPBF16PS of two bf16. Compiled
// once for each, with -DSC_ISA=avx512_vnni or avx512_bf16.
#include "kernels/cpu/narrow_rows.h"
#include "kernels/cpu/row_tiles.h"

namespace streamchar::SC_ISA {
namespace {

#if defined(__AVX512BF16__)

using Sums = __m512;
constexpr bool kScaled = false;
SC_INLINE Sums zero() { return _mm512_setzero_ps(); }
SC_INLINE void add_products(Sums& sums, __m512i x, __m512i w) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(x), "v"(w));
}
SC_INLINE __m512 finished(Sums sums, const int32_t*) { return sums; }
SC_INLINE float narrow_row(const float* x, const PackedWeights& w, char* out) {
  bf16_row(x, w.inputs, w.padded_inputs, out, 64);
  return 1.0f;
}

#else

using Sums = __m512i;
constexpr bool kScaled = true;
SC_INLINE Sums zero() { return _mm512_setzero_si512(); }
// The instruction takes one unsigned operand: inputs are 128 too large, which `finished` takes back.
SC_INLINE void add_products(Sums& sums, __m512i x, __m512i w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(x), "v"(w));
}
SC_INLINE __m512 finished(Sums sums, const int32_t* sum128) {
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_loadu_si512(sum128)));
}
SC_INLINE float narrow_row(const float* x, const PackedWeights& w, char* out) {
  return int8_row<true>(x, w.inputs, w.padded_inputs, out, 64);
}

#endif

// Words of inputs whose weights, of kLinearTiles tiles, stay in the first-level cache while rows pass by.
constexpr int kBlockWords = 128;

// Adds to sums[r][...] the products of `words` words of kRows rows with kTiles tiles; sets them where `first`.
// Every loop over registers is unrolled by name: GCC else keeps a copy of them in memory.
template <int kRows, int kTiles>
SC_INLINE void multiply_tiles(const int32_t* x, int64_t x_stride, const char* data, int64_t tile_bytes, int words,
                              bool first, Sums (*sums)[kLinearTiles]) {
  Sums sum[kRows][kTiles];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kTiles; ++c) sum[r][c] = first ? zero() : sums[r][c];
  }
  for (int k = 0; k < words; ++k, data += 64) {
    __m512i w[kTiles];
#pragma GCC unroll 4
    for (int c = 0; c < kTiles; ++c) w[c] = _mm512_load_si512(data + c * tile_bytes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512i value = _mm512_set1_epi32(x[r * x_stride + k]);
#pragma GCC unroll 4
      for (int c = 0; c < kTiles; ++c) add_products(sum[r][c], value, w[c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kTiles; ++c) sums[r][c] = sum[r][c];
  }
}

// Like gelu_tanh, with an approximate reciprocal put right by one step of Newton's method instead of a division.
SC_INLINE __m512 gelu_tanh512(__m512 x) {
  constexpr float kSlope = -2.3022082f;  // -2 sqrt(2 / pi) log2(e)
  const __m512 inner = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f * kSlope), _mm512_set1_ps(kSlope));
  const __m512 e = _mm512_min_ps(_mm512_mul_ps(x, inner), _mm512_set1_ps(100.0f));
  const __m512 below = _mm512_add_ps(exp2({e}).v, _mm512_set1_ps(1.0f));
  const __m512 near = _mm512_rcp14_ps(below);
  return _mm512_mul_ps(x, _mm512_mul_ps(near, _mm512_fnmadd_ps(near, below, _mm512_set1_ps(2.0f))));
}

// Turns the sums of one row into outputs of kTiles tiles from `tile` on.
template <int kTiles>
SC_INLINE void finish_row(const PackedWeights& weights, const LinearCall& call, int row, int tile, float row_scale,
                          const Sums* sums) {
  const int first = tile * kTileOutputs;
  float* y = call.y + row * call.y_stride + first;
  const float* gate = nullptr;
  const float* residual = nullptr;
  if (call.gate.data) {
    gate = call.gate.of(row, call.rows_per_batch) + first;
    residual = call.residual + row * call.residual_stride + first;
  }
  __m512 out[kTiles];
#pragma GCC unroll 4
  for (int c = 0; c < kTiles; ++c) {
    const int n = first + c * kTileOutputs;
    out[c] = finished(sums[c], weights.sum128 + n);
    if constexpr (kScaled) {
      out[c] = _mm512_mul_ps(out[c], _mm512_mul_ps(_mm512_loadu_ps(weights.scale + n), _mm512_set1_ps(row_scale)));
    }
    out[c] = _mm512_add_ps(out[c], _mm512_loadu_ps(weights.bias + n));
  }
  if (call.activation == Activation::kGeluTanh) {
#pragma GCC unroll 4
    for (int c = 0; c < kTiles; ++c) out[c] = gelu_tanh512(out[c]);
  }
  if (call.activation == Activation::kGelu) {
#pragma GCC unroll 4
    for (int c = 0; c < kTiles; ++c) out[c] = gelu({out[c]}).v;
  }
  const int whole = weights.outputs - first;
  if (whole >= kTiles * kTileOutputs) {
#pragma GCC unroll 4
    for (int c = 0; c < kTiles; ++c) {
      const int at = c * kTileOutputs;
      if (gate) out[c] = _mm512_fmadd_ps(_mm512_loadu_ps(gate + at), out[c], _mm512_loadu_ps(residual + at));
      _mm512_storeu_ps(y + at, out[c]);
    }
    return;
  }
#pragma GCC unroll 4
  for (int c = 0; c < kTiles; ++c) {
    const int at = c * kTileOutputs, left = whole - at;
    const auto keep = static_cast<__mmask16>(left >= kTileOutputs ? 0xFFFF : left > 0 ? (1u << left) - 1 : 0);
    if (gate) {
      out[c] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(keep, gate + at), out[c],
                               _mm512_maskz_loadu_ps(keep, residual + at));
    }
    _mm512_mask_storeu_ps(y + at, keep, out[c]);
  }
}

// All rows of a block, outputs of kTiles tiles. x: narrow rows, `words` words of 32 bits each.
template <int kTiles>
SC_INLINE void multiply_group(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                              const int32_t* x, int words, int tile, const float* scales) {
  Sums sums[kLinearRows][kLinearTiles];
  const char* data = static_cast<const char*>(weights.data) + tile * weights.tile_bytes();
  for (int k = 0; k < words; k += kBlockWords) {
    const int count = min(kBlockWords, words - k);
    for_each_tile(block.rows, [&]<int kRows>(int row) __attribute__((always_inline)) {
      multiply_tiles<kRows, kTiles>(x + int64_t{row} * words + k, words, data + int64_t{k} * 64, weights.tile_bytes(),
                                    count, k == 0, sums + row);
      if (k + count < words) return;
      for (int r = row; r < row + kRows; ++r) {
        finish_row<kTiles>(weights, call, block.first_row + r, tile, scales[r], sums[r]);
      }
    });
  }
}

}  // namespace

void linear_block(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                  void* scratch) noexcept {
  const int words = weights.padded_inputs / weights.group();
  float scales[kLinearRows];
  const int32_t* x = narrow_inputs(weights, call, block, scratch, scales, [&](const float* row, char* bytes)
                                       __attribute__((always_inline)) { return narrow_row(row, weights, bytes); });
  const int end = block.first_tile + block.tiles;
  for (int tile = block.first_tile; tile < end; tile += kLinearTiles) {
    if (end - tile >= kLinearTiles) {
      multiply_group<kLinearTiles>(weights, call, block, x, words, tile, scales);
    } else {
      multiply_group<2>(weights, call, block, x, words, tile, scales);
    }
  }
}

}  // namespace streamchar::SC_ISA
