// adaln_modulate for any GPU from sm_80 on: one block per row, the row in registers. See cuda_calls.h for its state.
#include <cuda_runtime.h>

#include "kernels/cuda/rows.cuh"

namespace streamchar::cuda {
namespace {

constexpr int kMaxThreads = 256;

// The same sum in every thread of the block.
__device__ __forceinline__ float block_sum(float x, float* shared) {
#pragma unroll
  for (int distance = 16; distance; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
  const int warps = blockDim.x / 32;
  __syncthreads();  // the previous sum has been read
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.0f;
  for (int i = 0; i < warps; ++i) sum += shared[i];
  return sum;
}

template <Element kType, int kGroups>
__global__ void __launch_bounds__(kMaxThreads) adaln_modulate_kernel(const __grid_constant__ AdalnModulate call) {
  using Group = RowGroup<kType>;
  __shared__ float shared[kMaxThreads / 32];
  const int token = blockIdx.x % call.tokens, batch = blockIdx.x / call.tokens;
  const int groups = call.width / Group::kSize;
  const void* row = row_of<kType>(call.x, batch, token);
  Group x[kGroups];
  float sum = 0.0f;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int group = threadIdx.x + g * blockDim.x;
    x[g] = {};
    if (group < groups) x[g] = Group::load(row, group);
#pragma unroll
    for (int i = 0; i < Group::kSize; ++i) sum += x[g].x[i];
  }
  const float mean = block_sum(sum, shared) / call.width;
  float squares = 0.0f;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    if (threadIdx.x + g * blockDim.x >= groups) continue;
#pragma unroll
    for (int i = 0; i < Group::kSize; ++i) squares += (x[g].x[i] - mean) * (x[g].x[i] - mean);
  }
  const float factor = 1.0f / sqrtf(block_sum(squares, shared) / call.width + call.eps);
  const void* shift_row = row_of<kType>(call.shift, batch, token);
  const void* scale_row = row_of<kType>(call.scale, batch, token);
  char* out = static_cast<char*>(call.out) + int64_t{blockIdx.x} * call.width * kElementBytes<kType>;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int group = threadIdx.x + g * blockDim.x;
    if (group >= groups) continue;
    const Group shift = Group::load(shift_row, group), scale = Group::load(scale_row, group);
#pragma unroll
    for (int i = 0; i < Group::kSize; ++i) {
      x[g].x[i] = (x[g].x[i] - mean) * factor * (1.0f + scale.x[i]) + shift.x[i];
    }
    x[g].store(out, group);
  }
}

template <Element kType>
int launch(const AdalnModulate& call, cudaStream_t stream) {
  const int groups = call.width / element_group(kType);
  if (call.width % element_group(kType) != 0 || groups > kMaxGroupsPerRow) return cudaErrorInvalidValue;
  const int rows = call.batch * call.tokens;
  if (rows == 0 || groups == 0) return cudaSuccess;
  const int threads = groups < kMaxThreads ? (groups + 31) / 32 * 32 : kMaxThreads;
  switch ((groups + threads - 1) / threads) {
    case 1: adaln_modulate_kernel<kType, 1><<<rows, threads, 0, stream>>>(call); break;
    case 2: adaln_modulate_kernel<kType, 2><<<rows, threads, 0, stream>>>(call); break;
    case 3: adaln_modulate_kernel<kType, 3><<<rows, threads, 0, stream>>>(call); break;
    default: adaln_modulate_kernel<kType, 4><<<rows, threads, 0, stream>>>(call); break;
  }
  return cudaGetLastError();
}

}  // namespace

int adaln_modulate(const AdalnModulate& call, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  return call.type == Element::kFloat32 ? launch<Element::kFloat32>(call, on) : launch<Element::kBFloat16>(call, on);
}

}  // namespace streamchar::cuda
