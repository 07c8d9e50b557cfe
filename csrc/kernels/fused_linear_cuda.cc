// Chooses the GPU kernel of fused_linear.
#include <cuda_runtime_api.h>

#include "kernels/cuda/device.h"
#include "kernels/fused_linear_plan.h"

namespace streamchar::cuda {

int fused_linear(const FusedLinear& call, KernelPath path, void* stream) {
  if (fused_linear_refusal(call)) return cudaErrorInvalidValue;
  Device device;
  if (const cudaError_t error = current_device(device)) return error;
  if (path == KernelPath::kSm90 && !device.hopper) return cudaErrorNotSupported;
  if (int64_t{call.batch} * call.tokens == 0) return cudaSuccess;
#if SC_SM90A
  if (path == KernelPath::kSm90 || (path == KernelPath::kAuto && device.hopper)) {
    return fused_linear_sm90(call, device.processors, stream);
  }
#endif
  return fused_linear_sm80(call, device.processors, stream);
}

}  // namespace streamchar::cuda
