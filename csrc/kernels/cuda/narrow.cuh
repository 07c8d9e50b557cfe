// Narrow keys and values as float16, exactly; see kv_storage.h.
#pragma once

#include "kernels/cuda/ptx.cuh"
#include "kernels/kv_storage.h"

namespace streamchar::cuda {

// Bytes 0 and 1 (`pair` 0) or 2 and 3 of a word.
__device__ __forceinline__ uint32_t float8_to_f16(uint32_t word, int pair) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  return convert_float8(word >> 16 * pair);
#else
  return multiply_halves(spread_float8(word, pair), 0x5C005C00u);  // 256
#endif
}

__device__ __forceinline__ uint32_t int8_to_f16(uint32_t word, int pair) {
  // As spread_int8() has it, of which the compiler does not see that it is one permutation of bytes.
  return subtract_halves(pick_bytes(word ^ 0x80808080u, 0x64646464u, pair ? 0x4342u : 0x4140u), 0x64806480u);  // 1152
}

// Eight elements.
template <bool kFloat8>
__device__ __forceinline__ uint4 narrow_to_f16(uint32_t low, uint32_t high) {
  if constexpr (kFloat8) {
    return make_uint4(float8_to_f16(low, 0), float8_to_f16(low, 1), float8_to_f16(high, 0), float8_to_f16(high, 1));
  } else {
    return make_uint4(int8_to_f16(low, 0), int8_to_f16(low, 1), int8_to_f16(high, 0), int8_to_f16(high, 1));
  }
}

}  // namespace streamchar::cuda
