// Chooses the GPU kernel of segment_attention. SC_SM90A: whether the build has the one for sm_90a.
#include <cuda_runtime_api.h>

#include "kernels/cuda_calls.h"

namespace streamchar::cuda {

int segment_attention(const SegmentAttention& call, AttentionPath path, void* stream) {
  if (call.segment_count > kMaxSegments || call.norm.groups > kMaxGroups) return cudaErrorInvalidValue;
  if (call.tokens == 0) return cudaSuccess;
  int device = 0, major = 0, minor = 0, processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (!error) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (!error) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (!error) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error) return error;
  const bool hopper = SC_SM90A && major == 9 && minor == 0;
  if (path == AttentionPath::kSm90 && !hopper) return cudaErrorNotSupported;
  if (path == AttentionPath::kSm90 || (path == AttentionPath::kAuto && hopper)) {
#if SC_SM90A
    const int code = segment_attention_sm90(call, processors, stream);
    // A driver without tensor maps: nothing has been launched.
    if (code != cudaErrorNotSupported || path == AttentionPath::kSm90) return code;
#endif
  }
  return segment_attention_sm80(call, stream);
}

}  // namespace streamchar::cuda
