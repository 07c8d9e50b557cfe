// Rows of inputs as bytes, for objects of AVX2 and AVX-VNNI.
#pragma once

#include "kernels/cpu/linear_finish.h"

namespace streamchar::SC_ISA {

// Four vectors of whole numbers as 32 bytes, which are signed or not.
template <bool kSigned>
SC_INLINE __m256i narrow_to_bytes(const __m256i (&whole)[4]) {
  // Packing goes by lanes of 128 bits: words of four bytes come out as 0, 2, 4, 6, 1, ...
  const __m256i pairs = _mm256_packs_epi32(whole[0], whole[1]), others = _mm256_packs_epi32(whole[2], whole[3]);
  const __m256i bytes = kSigned ? _mm256_packs_epi16(pairs, others) : _mm256_packus_epi16(pairs, others);
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// bytes = x in steps of the scale, which is returned, plus 128; zeros (128) from `count` to `padded`, a multiple of 32.
SC_INLINE float int8_row(const float* x, int count, int padded, uint8_t* bytes) {
  const RowScale scale = row_scale(x, count);
  const __m256 inverse = _mm256_set1_ps(scale.inverse);
  for (int k = 0; k < padded; k += 32) {
    alignas(32) float rest[32] = {};
    const float* from = x + k;
    if (k + 32 > count) {
      if (k < count) __builtin_memcpy(rest, from, sizeof(float) * (count - k));
      from = rest;
    }
    __m256i whole[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      whole[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from + kLanes * i), inverse));
    }
    const __m256i unsigned_bytes = _mm256_xor_si256(narrow_to_bytes<true>(whole), _mm256_set1_epi8(-128));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes + k), unsigned_bytes);
  }
  return scale.scale;
}

}  // namespace streamchar::SC_ISA
