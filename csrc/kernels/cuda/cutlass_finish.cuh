// What the CUTLASS kernels of fused_linear share.
#pragma once

#include <cuda_runtime.h>
#include <cutlass/array.h>
#include <cutlass/bfloat16.h>
#include <cutlass/cutlass.h>

#include "kernels/gelu.h"

namespace streamchar::cuda {

using Bf16 = cutlass::bfloat16_t;

// As CUTLASS's epilogues take an activation.
template <class T>
struct GeluTanh {
  CUTLASS_DEVICE T operator()(T x) const { return gelu_tanh(x); }
};
template <class T, int kCount>
struct GeluTanh<cutlass::Array<T, kCount>> {
  CUTLASS_DEVICE cutlass::Array<T, kCount> operator()(cutlass::Array<T, kCount> x) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] = gelu_tanh(x[i]);
    return x;
  }
};

// A CUDA runtime error code.
template <class Gemm>
int launch_gemm(const typename Gemm::Arguments& arguments, cudaStream_t stream) {
  Gemm gemm;
  cutlass::Status status = gemm.initialize(arguments, nullptr, stream);
  if (status == cutlass::Status::kSuccess) status = gemm.run(stream);
  if (status == cutlass::Status::kSuccess) return cudaSuccess;
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? cudaErrorUnknown : error;
}

}  // namespace streamchar::cuda
