// Sixteen bytes of a row as floats, whatever its element type.
#pragma once

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda_calls.h"

namespace streamchar::cuda {

template <Element kType>
struct RowGroup {
  static constexpr int kSize = element_group(kType);
  float x[kSize];

  __device__ __forceinline__ static RowGroup load(const void* row, int group) {
    const uint4 bits = static_cast<const uint4*>(row)[group];
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
    RowGroup g;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kType == Element::kFloat32) {
        g.x[i] = __uint_as_float(words[i]);
      } else {
        g.x[2 * i] = __uint_as_float(words[i] << 16);
        g.x[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
      }
    }
    return g;
  }

  __device__ __forceinline__ void store(void* row, int group) const {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kType == Element::kFloat32) {
        words[i] = __float_as_uint(x[i]);
      } else {
        words[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
      }
    }
    static_cast<uint4*>(row)[group] = make_uint4(words[0], words[1], words[2], words[3]);
  }
};

template <Element kType>
inline constexpr int kElementBytes = kType == Element::kFloat32 ? 4 : 2;

template <Element kType>
__device__ __forceinline__ const void* row_of(const RowView& view, int batch, int token) {
  return static_cast<const char*>(view.data) +
         (batch * view.batch_stride + token * view.token_stride) * kElementBytes<kType>;
}

}  // namespace streamchar::cuda
