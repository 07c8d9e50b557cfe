// The ops on NVIDIA GPUs: the contracts of the ops' headers for tensors in device memory. Attention works in
// bfloat16, or in float16 with keys and values in one byte; they lie in rows (see RowLayout), so a segment is read
// where the cache has it. All calls are asynchronous on `stream`, allocate nothing and never wait for the device, and
// are safe to capture in a CUDA graph: sizes and addresses are taken at the call.
//
// State: compiled for sm_80, sm_90 and as PTX, segment_attention also for sm_90a; verified on an H200 and no other GPU,
// see csrc/README.md. Attention and kv_append also run on an emulation (tests/emulation).
#pragma once

#include <cstdint>

#include "kernels/istft_overlap_add.h"
#include "kernels/kv_storage.h"

namespace streamchar::cuda {

inline constexpr int kMaxStreams = 8;
inline constexpr int kMaxSegments = 8;    // of a stream
inline constexpr int kMaxListed = 40;     // of all streams of a call
inline constexpr int kMaxGroups = 4;

// Norm weights and tables of rotations begin at multiples of sixteen bytes. Where a stream has several segments that turn
// its queries, norm weights are of magnitudes that float16 has beside those of normalised channels: 1e-5 to 5000.
//
// (tokens, heads, head_dim): channels contiguous and 16-byte aligned; strides count elements. bfloat16 but for keys
// and values in narrow storage.
struct TokenView {
  const void* data;
  int64_t token_stride;
  int64_t head_stride;
};

struct HeadNorm {
  const float* weight;               // device, (groups, head_dim); null: rows come normalised
  int groups;                        // 1 to kMaxGroups
  int32_t bounds[kMaxGroups + 1];
  float eps;
};

struct Segment {
  TokenView key;       // normalised and rotated, in the call's storage
  TokenView value;
  int rows;
  bool moved;          // meets the stream's `moved` queries, if there are any, instead of shifting
  const float* shift;  // device, (head_dim / 2, 2), or null
  const float* key_range;    // device, (heads): what narrow elements stand for, see kv_storage.h; else null
  const float* value_range;
};

// Queries that attend to the same keys: the video or the audio of one session.
struct AttentionStream {
  int tokens;
  int heads;
  TokenView q;
  TokenView moved;     // ready queries, turned already, for segments that are `moved`; data null: none
  HeadNorm norm;       // weight null: queries come normalised
  const float* rope;   // device, (tokens, head_dim / 2, 2); null: queries come rotated
  int first_segment;   // of the call's; streams may share segments
  int segment_count;   // at most kMaxSegments
  void* out;           // bfloat16 (tokens, heads, head_dim) contiguous
  float* lse;          // (tokens, heads), or null
};

// One launch for all streams, whose work is divided evenly among the blocks of a persistent grid (work_split.h).
struct SegmentAttention {
  int head_dim;        // 64 or 128
  KvStorage storage;   // of every segment
  AttentionStream streams[kMaxStreams];
  int stream_count;
  Segment segments[kMaxListed];
  int segment_count;
  void* workspace;     // device, 16-byte aligned, zero before its first use; calls that may overlap need their own
  int64_t workspace_bytes;  // segment_attention_workspace() is what serves best; less makes the grid smaller
};

struct KvAppend {
  int tokens;
  int heads;
  int head_dim;        // 64 or 128
  KvStorage storage;
  bool all_heads;      // RMSNorm over all heads of a token at once; weights are (groups, heads * head_dim) then
  TokenView k;
  TokenView v;
  HeadNorm norm;
  const float* rope;   // null: keys come rotated
  const float* shift;  // device, (head_dim / 2, 2): turns keys and queries once more, as by a frame offset; or null
  void* key;           // rows (tokens, heads, head_dim) contiguous
  void* value;
  float* key_range;    // device, (heads): see kv_storage.h; null for bfloat16
  float* value_range;
  bool measure;        // sets the ranges to what these tokens need; else they are read
  TokenView q;         // raw queries; data null: none
  const float* q_weight;
  void* query;         // bfloat16 (tokens, heads, head_dim) contiguous: normalised and rotated
  void* moved;         // the same, turned by moved_shift as well; or null
  const float* moved_shift;
};
inline constexpr int kMaxAppendHeads = 64;

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

enum class KernelPath { kAuto, kSm80, kSm90 };

// All return a CUDA runtime error code, 0 for success.
// kAuto takes the kernel of the device's own kind; kSm90 is for compute capability 9.0 alone.
int segment_attention(const SegmentAttention& call, KernelPath path, void* stream);
// Bytes of workspace that let segment_attention use the whole of the current device.
int segment_attention_workspace(int head_dim, KvStorage storage, KernelPath path, int64_t& bytes);
int kv_append(const KvAppend& call, void* stream);
int adaln_modulate(const AdalnModulate& call, void* stream);
int gated_residual(const GatedResidual& call, void* stream);
// All pointers in device memory; pieces: scratch of batch * frame_count * size floats.
int istft_overlap_add(const IstftOverlapAdd& call, float* pieces, void* stream);
const char* error_text(int code);

// What segment_attention chooses from; `processors`: of the device.
int segment_attention_sm80(const SegmentAttention& call, int processors, void* stream);
int segment_attention_sm90(const SegmentAttention& call, int processors, void* stream);
int segment_attention_workspace_sm80(int head_dim, KvStorage storage, int processors, int64_t& bytes);
int segment_attention_workspace_sm90(int head_dim, KvStorage storage, int processors, int64_t& bytes);

}  // namespace streamchar::cuda
