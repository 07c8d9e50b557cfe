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

// The scale of a row, like row_scale.
SC_INLINE RowScale row_scale512(const float* x, int count) {
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
  __m512i largest[4] = {};
  int k = 0;
  for (; k + 64 <= count; k += 64) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      largest[i] = _mm512_max_epu32(largest[i], _mm512_and_si512(_mm512_loadu_si512(x + k + 16 * i), magnitude));
    }
  }
  for (; k < count; k += 16) {
    const __m512i rest = _mm512_castps_si512(load_within(x, k, count));
    largest[0] = _mm512_max_epu32(largest[0], _mm512_and_si512(rest, magnitude));
  }
  return row_scale_of(_mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_max_epu32(largest[0], largest[1]),
                                                               _mm512_max_epu32(largest[2], largest[3]))));
}

// Four vectors of whole numbers as 64 bytes, which are signed or not.
template <bool kSigned>
SC_INLINE __m512i narrow_to_bytes(const __m512i (&whole)[4]) {
  // Packing goes by lanes of 128 bits: words of four bytes come out as 0, 4, 8, 12, 1, ...
  const __m512i pairs = _mm512_packs_epi32(whole[0], whole[1]), others = _mm512_packs_epi32(whole[2], whole[3]);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(
      order, kSigned ? _mm512_packs_epi16(pairs, others) : _mm512_packus_epi16(pairs, others));
}

// Returns the scale back. kOffset: 128 is added to every number, which makes it unsigned.
template <bool kOffset>
SC_INLINE float int8_row(const float* x, int count, int padded, char* pieces, int64_t piece_stride) {
  const RowScale scale = row_scale512(x, count);
  const __m512 inverse = _mm512_set1_ps(scale.inverse);
  for (int k = 0; k < padded; k += 64, pieces += piece_stride) {
    const bool inside = k + 64 <= count;
    __m512i whole[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int at = k + 16 * i;
      const __m512 value = inside ? _mm512_loadu_ps(x + at) : load_within(x, at, count);
      whole[i] = _mm512_cvtps_epi32(_mm512_mul_ps(value, inverse));
    }
    __m512i narrow = narrow_to_bytes<true>(whole);
    if constexpr (kOffset) narrow = _mm512_xor_si512(narrow, _mm512_set1_epi8(static_cast<char>(0x80)));
    _mm512_store_si512(pieces, narrow);
  }
  return scale.scale;
}

}  // namespace streamchar::SC_ISA
