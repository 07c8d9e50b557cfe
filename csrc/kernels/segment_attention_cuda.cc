// Chooses the GPU kernel of segment_attention.
#include <cuda_runtime_api.h>

#include "kernels/cuda/device.h"
#include "kernels/cuda_calls.h"

namespace streamchar::cuda {
namespace {

bool aligned(const void* table) { return reinterpret_cast<uintptr_t>(table) % 16 == 0; }

bool sound(const SegmentAttention& call) {
  if (call.stream_count < 0 || call.stream_count > kMaxStreams || call.segment_count > kMaxListed) return false;
  for (int i = 0; i < call.stream_count; ++i) {
    const AttentionStream& s = call.streams[i];
    if (s.tokens < 0 || s.heads < 1 || s.norm.groups > kMaxGroups || s.segment_count > kMaxSegments) return false;
    if (!aligned(s.norm.weight) || !aligned(s.rope)) return false;
    if (s.first_segment < 0 || s.first_segment + s.segment_count > call.segment_count) return false;
    for (int j = s.first_segment; j < s.first_segment + s.segment_count; ++j) {
      const Segment& segment = call.segments[j];
      if (segment.rows < 0 || !aligned(segment.shift)) return false;
      if (is_narrow(call.storage) && segment.rows > 0 && !(segment.key_range && segment.value_range)) return false;
    }
  }
  return true;
}

}  // namespace

int segment_attention(const SegmentAttention& call, KernelPath path, void* stream) {
  if (!sound(call)) return cudaErrorInvalidValue;
  Device device;
  if (const cudaError_t error = current_device(device)) return error;
  if (path == KernelPath::kSm90 && !device.hopper) return cudaErrorNotSupported;
#if SC_SM90A
  if (path == KernelPath::kSm90 || (path == KernelPath::kAuto && device.hopper)) {
    const int code = segment_attention_sm90(call, device.processors, stream);
    // A driver without tensor maps: nothing has been launched.
    if (code != cudaErrorNotSupported || path == KernelPath::kSm90) return code;
  }
#endif
  return segment_attention_sm80(call, device.processors, stream);
}

int segment_attention_workspace(int head_dim, KvStorage storage, KernelPath path, int64_t& bytes) {
  Device device;
  if (const cudaError_t error = current_device(device)) return error;
#if SC_SM90A
  if (path == KernelPath::kSm90 || (path == KernelPath::kAuto && device.hopper)) {
    return segment_attention_workspace_sm90(head_dim, storage, device.processors, bytes);
  }
#endif
  return segment_attention_workspace_sm80(head_dim, storage, device.processors, bytes);
}

}  // namespace streamchar::cuda
