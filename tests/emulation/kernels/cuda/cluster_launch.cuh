// Clusters are not emulated.
#pragma once

#include "cuda_runtime.h"

namespace streamchar::cuda {

template <typename Problem>
cudaError_t launch_pairs(void (*)(Problem), int, int, uint32_t, cudaStream_t, const Problem&) {
  return cudaErrorNotSupported;
}

}  // namespace streamchar::cuda
