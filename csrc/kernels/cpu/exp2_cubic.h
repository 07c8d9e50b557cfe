// 2^x for weights that are rounded to a few digits afterwards. For objects of AVX-512 and AVX2.
#pragma once

#include "kernels/cpu/simd.h"

namespace streamchar::SC_ISA {

// Relative error 8e-5. Stays at 2^-100 below: negligible, and far from denormals, which are slow.
static constexpr float kExp2Cubic[] = {5.5171584e-2f, 2.4261112e-1f, 6.9326098e-1f, 9.9992807e-1f};
static constexpr float kExp2CubicMin = -100.0f;

SC_INLINE Vec exp2_cubic(Vec a) {
  const Vec x = max(a, broadcast(kExp2CubicMin));
  const Vec n = nearest(x), f = sub(x, n);
  Vec p = broadcast(kExp2Cubic[0]);
  for (int i = 1; i < 4; ++i) p = fma(p, f, broadcast(kExp2Cubic[i]));
#if defined(__AVX512F__)
  return {_mm512_scalef_ps(p.v, n.v)};
#else
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p.v), exponent))};
#endif
}

SC_INLINE float exp2_cubic(float x) {
  alignas(64) float all[kLanes];
  store(all, exp2_cubic(broadcast(x)));
  return all[0];
}

}  // namespace streamchar::SC_ISA
