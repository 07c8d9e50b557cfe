// 2^x for weights that are rounded to a few digits afterwards. For AVX-512 objects.
#pragma once

#include "kernels/cpu/simd.h"

namespace streamchar::SC_ISA {

// Relative error 8e-5. Stays at 2^-100 below: negligible, and far from denormals, which are slow.
SC_INLINE __m512 exp2_cubic(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-100.0f));
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(5.5171584e-2f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4261112e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9326098e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9992807e-1f));
  return _mm512_scalef_ps(p, n);
}

}  // namespace streamchar::SC_ISA
