// The ops on NVIDIA GPUs: the contracts of the ops' headers for tensors in device memory. Attention works in
// bfloat16; keys and values lie in rows (see RowLayout), so a segment is read where the cache has it. All calls
// are asynchronous on `stream` and safe to capture in a CUDA graph: sizes and addresses are taken at the call.
//
// State: compiled for sm_80, sm_90 and as PTX, segment_attention also for sm_90a, and checked in disassembly;
// unverified on a GPU.
#pragma once

#include <cstdint>

#include "kernels/istft_overlap_add.h"

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

// Rows of a (batch, tokens, width) tensor: channels contiguous and 16-byte aligned; strides count elements, and
// 0 shares one row among all batches or tokens.
struct RowView {
  const void* data;
  int64_t batch_stride;
  int64_t token_stride;
};

// Of the next two calls' tensors. 16 bytes are read at once, so `width` is a multiple of element_group().
enum class Element { kFloat32, kBFloat16 };
constexpr int element_group(Element type) { return type == Element::kFloat32 ? 4 : 8; }
inline constexpr int kMaxGroupsPerRow = 1024;  // adaln_modulate holds a row in a block's registers

struct AdalnModulate {
  int batch;
  int tokens;
  int width;       // at most kMaxGroupsPerRow groups
  Element type;
  RowView x;
  RowView shift;
  RowView scale;
  float eps;
  void* out;       // (batch, tokens, width) contiguous; may be x itself
};

struct GatedResidual {
  int batch;
  int tokens;
  int width;
  Element type;
  RowView x;
  RowView gate;
  RowView update;
  void* out;       // (batch, tokens, width) contiguous; may be x or update itself
};

inline constexpr int kMaxInverseFftSize = 4096;

enum class AttentionPath { kAuto, kSm80, kSm90 };

// All return a CUDA runtime error code, 0 for success.
// kAuto takes the kernel of the device's own kind; kSm90 is for compute capability 9.0 alone.
int segment_attention(const SegmentAttention& call, AttentionPath path, void* stream);
int kv_append(const KvAppend& call, void* stream);
int adaln_modulate(const AdalnModulate& call, void* stream);
int gated_residual(const GatedResidual& call, void* stream);
// All pointers in device memory; pieces: scratch of batch * frame_count * size floats.
int istft_overlap_add(const IstftOverlapAdd& call, float* pieces, void* stream);
const char* error_text(int code);

// What segment_attention chooses from; `processors`: of the device.
int segment_attention_sm80(const SegmentAttention& call, void* stream);
int segment_attention_sm90(const SegmentAttention& call, int processors, void* stream);

}  // namespace streamchar::cuda
