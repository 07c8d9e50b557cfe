// The first numbers of a vector, at the end of a row.
#pragma once

#include "kernels/cpu/simd.h"

namespace streamchar::SC_ISA {

// 1 <= count <= kLanes; lanes from `count` on are zero, or left where they are.
SC_INLINE void store_first(float* target, Vec x, int count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(target, static_cast<__mmask16>((1u << count) - 1), x.v);
#else
  if (count == kLanes) return store(target, x);
  alignas(64) float all[kLanes];
  store(all, x);
  __builtin_memcpy(target, all, sizeof(float) * count);
#endif
}

SC_INLINE Vec load_first(const float* source, int count) {
#if defined(__AVX512F__)
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), source)};
#else
  if (count == kLanes) return load(source);
  alignas(64) float all[kLanes] = {};
  __builtin_memcpy(all, source, sizeof(float) * count);
  return load(all);
#endif
}

}  // namespace streamchar::SC_ISA
