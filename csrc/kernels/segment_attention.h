// segment_attention: one softmax of queries over the keys of several segments, read in place.
//
// For query token t, head h:
//   base    = rotate(rms_norm(q[t, h]) * weight[group(t)], rope[t])
//   logit_j = dot(rotate(base, shift of the segment of key j), key_j) / sqrt(head_dim)
//   out     = sum_j softmax(logit)_j * value_j           over the keys of all segments together
// A segment's keys keep the rotation of their own local positions for ever; that the segment lies some time
// back is expressed by the query's second rotation. Rotations add up, so this is exact.
//
// Rotation turns the interleaved channel pair (2i, 2i + 1) by (cos, sin) = rope[t][i].
#pragma once

#include <cstdint>

#include "kernels/kv_layout.h"

namespace streamchar {

// (tokens, heads, head_dim); channels are contiguous, strides count elements.
struct TokenView {
  const float* data;
  int64_t token_stride;
  int64_t head_stride;

  SC_HOST_DEVICE const float* row(int token, int head) const { return data + token * token_stride + head * head_stride; }
};

// RMSNorm per head. Token group g is tokens bounds[g] to bounds[g + 1] and has weight[g * head_dim ...].
struct HeadNorm {
  const float* weight = nullptr;  // (groups, head_dim); null: no norm
  const int32_t* bounds = nullptr;  // groups + 1 token indices from 0
  int groups = 0;
  float eps = 1e-6f;

  SC_HOST_DEVICE const float* token_weight(int token, int head_dim) const {
    int g = 0;
    while (g + 1 < groups && token >= bounds[g + 1]) ++g;
    return weight + int64_t{g} * head_dim;
  }
};

// Keys and values of one layer in panels (see kv_layout.h).
struct PanelSegment {
  const void* data;     // the layer's panels
  int capacity;         // tokens the panels were laid out for
  int rows;             // tokens to attend to; may be 0
  const float* shift;   // (head_dim / 2, 2) cosine and sine, or null for distance 0
};

struct SegmentAttention {
  int tokens;
  int heads;
  int head_dim;          // 64 or 128
  KvType type;           // of every segment
  TokenView q;
  HeadNorm norm;
  const float* rope;     // (tokens, head_dim / 2, 2), or null: queries come rotated
  const PanelSegment* segments;
  int segment_count;
  float* out;            // (tokens, heads, head_dim) contiguous; zero where there is no key at all
  float* lse;            // (tokens, heads) natural log of the softmax denominator, or null
};

bool cpu_head_dim_supported(int head_dim);

// Uses ThreadPool::global(). The result does not depend on the number of threads.
void segment_attention_cpu(const SegmentAttention& call);

}  // namespace streamchar
