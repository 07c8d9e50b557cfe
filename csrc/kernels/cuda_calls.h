// segment_attention and kv_append on NVIDIA GPUs: the contracts of segment_attention.h and kv_append.h for
// bfloat16 tensors in device memory. Keys and values lie in rows (see RowLayout), so a segment is read where
// the cache has it. All calls are asynchronous on `stream` and safe to capture in a CUDA graph: sizes and
// addresses are taken at the call.
//
// State: compiled for sm_80 and as compute_80 PTX, checked in disassembly; unverified on a GPU.
#pragma once

#include <cstdint>

namespace streamchar::cuda {

inline constexpr int kMaxSegments = 8;
inline constexpr int kMaxGroups = 4;

// bfloat16 (tokens, heads, head_dim): channels contiguous and 16-byte aligned; strides count elements.
struct TokenView {
  const void* data;
  int64_t token_stride;
  int64_t head_stride;
};

struct HeadNorm {
  const float* weight;               // device, (groups, head_dim)
  int groups;                        // 1 to kMaxGroups
  int32_t bounds[kMaxGroups + 1];
  float eps;
};

struct Segment {
  TokenView key;      // normalised and rotated
  TokenView value;
  int rows;
  const float* shift;  // device, (head_dim / 2, 2), or null
};

struct SegmentAttention {
  int tokens;
  int heads;
  int head_dim;        // 64 or 128
  TokenView q;
  HeadNorm norm;
  const float* rope;   // device, (tokens, head_dim / 2, 2)
  Segment segments[kMaxSegments];
  int segment_count;
  void* out;           // bfloat16 (tokens, heads, head_dim) contiguous
  float* lse;          // (tokens, heads), or null
};

struct KvAppend {
  int tokens;
  int heads;
  int head_dim;        // 64 or 128
  TokenView k;
  TokenView v;
  HeadNorm norm;
  const float* rope;
  void* key;           // bfloat16 (tokens, heads, head_dim) contiguous
  void* value;
};

// A CUDA runtime error code, 0 for success.
int segment_attention(const SegmentAttention& call, void* stream);
int kv_append(const KvAppend& call, void* stream);
const char* error_text(int code);

}  // namespace streamchar::cuda
