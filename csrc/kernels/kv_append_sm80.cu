// kv_append for any GPU from sm_80 on: one warp per token and head. See cuda_calls.h for its state.
#include <cuda_runtime.h>

#include "kernels/cuda/token_row.cuh"

namespace streamchar::cuda {
namespace {

constexpr int kWarps = 8;

template <int kDim>
__global__ void __launch_bounds__(kWarps * 32) kv_append_kernel(const __grid_constant__ KvAppend call) {
  const int lane = threadIdx.x & 31;
  const int item = blockIdx.x * kWarps + threadIdx.x / 32;
  if (item >= call.tokens * call.heads) return;
  const int token = item / call.heads, head = item % call.heads;
  uint32_t key[kDim / 64];
  ready_row<kDim>(call.k, call.norm, call.rope, nullptr, token, head, lane, key);
  const uint32_t* value = head_row(call.v, token, head);
  const int64_t target = int64_t{item} * (kDim / 2) + lane;
#pragma unroll
  for (int i = 0; i < kDim / 64; ++i) {
    static_cast<uint32_t*>(call.key)[target + 32 * i] = key[i];
    static_cast<uint32_t*>(call.value)[target + 32 * i] = value[lane + 32 * i];
  }
}

}  // namespace

int kv_append(const KvAppend& call, void* stream) {
  const int blocks = (call.tokens * call.heads + kWarps - 1) / kWarps;
  const auto on = static_cast<cudaStream_t>(stream);
  if (blocks == 0) return cudaSuccess;
  if (call.head_dim == 64) {
    kv_append_kernel<64><<<blocks, kWarps * 32, 0, on>>>(call);
  } else if (call.head_dim == 128) {
    kv_append_kernel<128><<<blocks, kWarps * 32, 0, on>>>(call);
  } else {
    return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

const char* error_text(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

}  // namespace streamchar::cuda
