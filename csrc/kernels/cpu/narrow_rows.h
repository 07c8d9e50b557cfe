// Rows of inputs in narrow types, for AVX-512 objects. A row becomes pieces of 64 bytes, the last one padded with
// zeros; consecutive pieces lie `piece_stride` bytes apart.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/linear_finish.h"

namespace streamchar::SC_ISA {

// 16 floats from x + first, zeros beyond `count`.
SC_INLINE __m512 load_within(const float* x, int first, int count) {
  const int left = count - first;
  if (left >= 16) return _mm512_loadu_ps(x + first);
  return left > 0 ? _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << left) - 1), x + first) : _mm512_setzero_ps();
}

#if defined(__AVX512BF16__)
SC_INLINE void bf16_row(const float* x, int count, int padded, char* pieces, int64_t piece_stride) {
  for (int k = 0; k < padded; k += 32, pieces += piece_stride) {
    const __m512bh pair = _mm512_cvtne2ps_pbh(load_within(x, k + 16, count), load_within(x, k, count));
    _mm512_store_si512(pieces, reinterpret_cast<__m512i>(pair));
  }
}
#endif

// Returns the scale back. kOffset: 128 is added to every number, which makes it unsigned.
template <bool kOffset>
SC_INLINE float int8_row(const float* x, int count, int padded, char* pieces, int64_t piece_stride) {
  const RowScale scale = row_scale(x, count);
  const __m512 inverse = _mm512_set1_ps(scale.inverse);
  for (int k = 0; k < padded; k += 64, pieces += piece_stride) {
    for (int i = 0; i < 4; ++i) {
      const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(load_within(x, k + 16 * i, count), inverse));
      __m128i narrow = _mm512_cvtepi32_epi8(whole);
      if constexpr (kOffset) narrow = _mm_xor_si128(narrow, _mm_set1_epi8(static_cast<char>(0x80)));
      _mm_store_si128(reinterpret_cast<__m128i*>(pieces + 16 * i), narrow);
    }
  }
  return scale.scale;
}

}  // namespace streamchar::SC_ISA
