// The current GPU, as the choice of a kernel wants to know it. SC_SM90A: whether the build has kernels for sm_90a.
#pragma once

#include <cuda_runtime_api.h>

namespace streamchar::cuda {

struct Device {
  int processors = 0;
  bool hopper = false;  // and the build has its kernels
};

inline cudaError_t current_device(Device& found) {
  int device = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (!error) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (!error) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (!error) error = cudaDeviceGetAttribute(&found.processors, cudaDevAttrMultiProcessorCount, device);
  found.hopper = SC_SM90A && major == 9 && minor == 0;
  return error;
}

}  // namespace streamchar::cuda
