// Launches a kernel whose blocks come in clusters of two.
#pragma once

#include <cuda_runtime.h>

namespace streamchar::cuda {

template <typename Problem>
cudaError_t launch_pairs(void (*kernel)(Problem), int pairs, int threads, uint32_t shared_bytes, cudaStream_t stream,
                         const Problem& problem) {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = 2;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(2 * pairs));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, problem);
}

}  // namespace streamchar::cuda
