// What the kernels' sources need of CUDA C++, for machine.h.
#pragma once

#include "machine.h"

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n)
#define __CUDA_ARCH_FEAT_SM90_ALL

#define threadIdx (emulated::Dim{static_cast<unsigned>(emulated::machine().current)})
#define blockIdx (emulated::machine().block)
#define blockDim (emulated::machine().block_dim)

using std::max;
using std::min;

struct uint4 {
  uint32_t x, y, z, w;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <typename T>
T __ldg(const T* p) { return *p; }
template <typename T>
T __ldcg(const T* p) { return *p; }
template <typename T>
void __stcg(T* p, T x) { *p = x; }

inline float __uint_as_float(uint32_t x) { return emulated::float_of(x); }
inline uint32_t __float_as_uint(float x) { return emulated::bits_of(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

inline void __threadfence() {}
inline void __syncwarp() {
  emulated::Machine& m = emulated::machine();
  m.meet(emulated::kSyncWarps + m.warp(), 32, true);
}
inline void __syncthreads() {
  emulated::machine().meet(0, static_cast<int>(emulated::machine().block_dim.x), true);
}
template <typename T>
T __shfl_sync(unsigned, T x, int from) { return emulated::machine().exchanged(x, from); }
template <typename T>
T __shfl_xor_sync(unsigned, T x, int distance) {
  return emulated::machine().exchanged(x, emulated::machine().lane() ^ distance);
}
inline bool __any_sync(unsigned, bool x) {
  uint32_t any = x;
  for (int distance = 16; distance; distance /= 2) any |= __shfl_xor_sync(~0u, any, distance);
  return any;
}
inline unsigned __reduce_max_sync(unsigned, unsigned x) {
  for (int distance = 16; distance; distance /= 2) x = std::max(x, __shfl_xor_sync(~0u, x, distance));
  return x;
}
inline unsigned atomicAdd(unsigned* p, unsigned x) {
  const unsigned before = *p;
  *p += x;
  return before;
}
inline unsigned atomicMax(unsigned* p, unsigned x) {
  const unsigned before = *p;
  *p = std::max(*p, x);
  return before;
}

using cudaError_t = int;
using cudaStream_t = void*;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorNotSupported = 801 };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, int, int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline cudaError_t cudaMemsetAsync(void* p, int x, size_t bytes, cudaStream_t) {
  std::memset(p, x, bytes);
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  *blocks = 1;
  return cudaSuccess;
}
