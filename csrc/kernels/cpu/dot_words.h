// Sixteen 32-bit sums of products of bytes, to which VPDPBUSD adds four at a time: in one register of AVX-512, or in
// two of AVX-VNNI.
#pragma once

#include "kernels/cpu/simd.h"

namespace streamchar::SC_ISA {

#if defined(__AVX512F__)

struct Words {
  __m512i v;
};
SC_INLINE Words load_words(const void* p) { return {_mm512_loadu_si512(p)}; }
SC_INLINE Words broadcast_word(int32_t x) { return {_mm512_set1_epi32(x)}; }
SC_INLINE Words multiply_words(Words a, Words b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
// The instruction itself: with the intrinsic GCC 12 copies every sum around it.
SC_INLINE void add_products(Words& sum, Words unsigned_bytes, Words signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum.v) : "v"(unsigned_bytes.v), "v"(signed_bytes.v));
}
// totals[0..15] += sum * scale
SC_INLINE void add_scaled(float* totals, Words sum, Vec scale) {
  store(totals, fma({_mm512_cvtepi32_ps(sum.v)}, scale, load(totals)));
}

#else

struct Words {
  __m256i low, high;
};
SC_INLINE Words load_words(const void* p) {
  const auto* from = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
}
SC_INLINE Words broadcast_word(int32_t x) {
  const __m256i v = _mm256_set1_epi32(x);
  return {v, v};
}
SC_INLINE Words multiply_words(Words a, Words b) {
  return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)};
}
SC_INLINE void add_products(Words& sum, Words unsigned_bytes, Words signed_bytes) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.low) : "x"(unsigned_bytes.low), "x"(signed_bytes.low));
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.high) : "x"(unsigned_bytes.high), "x"(signed_bytes.high));
}
SC_INLINE void add_scaled(float* totals, Words sum, Vec scale) {
  store(totals, fma({_mm256_cvtepi32_ps(sum.low)}, scale, load(totals)));
  store(totals + kLanes, fma({_mm256_cvtepi32_ps(sum.high)}, scale, load(totals + kLanes)));
}

#endif

SC_INLINE Words broadcast_bytes(const void* four) {
  int32_t word;
  __builtin_memcpy(&word, four, sizeof word);
  return broadcast_word(word);
}

}  // namespace streamchar::SC_ISA
