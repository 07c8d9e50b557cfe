// gated_residual for any GPU from sm_80 on: a thread does 16 bytes. See cuda_calls.h for its state.
#include <cuda_runtime.h>

#include "kernels/cuda/rows.cuh"

namespace streamchar::cuda {
namespace {

constexpr int kThreads = 256;

template <Element kType>
__global__ void __launch_bounds__(kThreads) gated_residual_kernel(const __grid_constant__ GatedResidual call) {
  using Group = RowGroup<kType>;
  const int groups = call.width / Group::kSize;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= int64_t{call.batch} * call.tokens * groups) return;
  const int row = static_cast<int>(index / groups), group = static_cast<int>(index % groups);
  const int batch = row / call.tokens, token = row % call.tokens;
  Group x = Group::load(row_of<kType>(call.x, batch, token), group);
  const Group gate = Group::load(row_of<kType>(call.gate, batch, token), group);
  const Group update = Group::load(row_of<kType>(call.update, batch, token), group);
#pragma unroll
  for (int i = 0; i < Group::kSize; ++i) x.x[i] += gate.x[i] * update.x[i];
  x.store(static_cast<char*>(call.out) + int64_t{row} * call.width * kElementBytes<kType>, group);
}

template <Element kType>
int launch(const GatedResidual& call, cudaStream_t stream) {
  if (call.width % element_group(kType) != 0) return cudaErrorInvalidValue;
  const int64_t groups = int64_t{call.batch} * call.tokens * (call.width / element_group(kType));
  if (groups == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>((groups + kThreads - 1) / kThreads);
  gated_residual_kernel<kType><<<blocks, kThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace

int gated_residual(const GatedResidual& call, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  return call.type == Element::kFloat32 ? launch<Element::kFloat32>(call, on) : launch<Element::kBFloat16>(call, on);
}

}  // namespace streamchar::cuda
