// fused_linear on NVIDIA GPUs: y = activation(x W^T + bias), or y = residual + gate * (x W^T + bias). Tensors are
// bfloat16; sums, bias, activation, gate and residual are float32 until y is rounded, once.
//
// Built with CUTLASS alone (see csrc/README.md). Asynchronous on `stream`; allocates nothing, needs no workspace, never
// waits for the device, and is safe to capture in a CUDA graph: sizes and addresses are taken at the call. A row of y
// depends on that row of x, and on the number of rows, which chooses the kernel.
//
// State: compiled for sm_80 and sm_90a and checked in disassembly; verified on an H200 and no other GPU.
#pragma once

#include <cstdint>

#include "kernels/cuda_calls.h"

namespace streamchar::cuda {

enum class LinearFinish { kNone, kGeluTanh, kGatedResidual };

// All tensors 16-byte aligned, with contiguous channels and strides in multiples of 8 elements.
struct FusedLinear {
  int batch;
  int tokens;
  int outputs;                // multiples of 8
  int inputs;
  LinearFinish finish;
  RowView x;                  // (batch, tokens, inputs)
  const void* weight;         // (outputs, inputs) contiguous
  const void* bias;           // (outputs,), or null
  const void* gate;           // (outputs,) of each batch; null unless the finish is kGatedResidual, as the residual
  int64_t gate_batch_stride;  // 0 shares one among all batches
  RowView residual;           // (batch, tokens, outputs); may be y itself
  void* y;                    // (batch, tokens, outputs); not x
  int64_t y_batch_stride;
  int64_t y_token_stride;
};

// kAuto takes the kernel of the device's own kind; kSm90 is for compute capability 9.0 alone. Returns a CUDA runtime
// error code, 0 for success; cudaErrorInvalidValue for what fused_linear_refusal (fused_linear_plan.h) names.
int fused_linear(const FusedLinear& call, KernelPath path, void* stream);

// What fused_linear chooses from, for calls that are not refused; `processors`: of the device.
int fused_linear_sm80(const FusedLinear& call, int processors, void* stream);
int fused_linear_sm90(const FusedLinear& call, int processors, void* stream);

}  // namespace streamchar::cuda
