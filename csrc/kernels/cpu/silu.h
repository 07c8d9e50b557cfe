// SiLU of a vector, for the instruction set of this translation unit.
#pragma once

#include "kernels/cpu/simd.h"

namespace streamchar::SC_ISA {

// a / b to about the last place, for b in [1, 2^126].
SC_INLINE Vec quotient(Vec a, Vec b) {
#if defined(__AVX512F__)
  const __m512 guess = _mm512_rcp14_ps(b.v);
  const __m512 q = _mm512_mul_ps(a.v, guess);
  return {_mm512_fmadd_ps(_mm512_fnmadd_ps(q, b.v, a.v), guess, q)};
#else
  return div(a, b);
#endif
}

// x / (1 + 2^(-x log2 e))
SC_INLINE Vec silu(Vec x) {
  constexpr float kSlope = -1.44269504f;
  return quotient(x, add(exp2(min(mul(x, broadcast(kSlope)), broadcast(125.0f))), broadcast(1.0f)));
}

}  // namespace streamchar::SC_ISA
