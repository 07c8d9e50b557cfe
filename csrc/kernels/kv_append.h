// kv_append: normalise and rotate new keys, and write them with their values into panels.
//
//   key[t, h]   = rotate(rms_norm(k[t, h]) * weight[group(t)], rope[t]);   value[t, h] = v[t, h]
// converted to the panels' element type. Tokens fill the panels from token 0; the rest of the last panel
// becomes zero.
#pragma once

#include "kernels/segment_attention.h"

namespace streamchar {

struct KvAppend {
  int tokens;
  int heads;
  int head_dim;         // 64 or 128
  KvType type;
  TokenView k;
  TokenView v;
  HeadNorm norm;        // weight null: keys come normalised
  const float* rope;    // (tokens, head_dim / 2, 2), or null: keys come rotated
  void* panels;         // the layer's panels
  int capacity;         // tokens the panels were laid out for, at least `tokens`
};

// Uses ThreadPool::global().
void kv_append_cpu(const KvAppend& call);

// The inverse of the layout: stored keys and values as (tokens, heads, head_dim) float32, contiguous.
void kv_read_cpu(const void* panels, KvType type, int capacity, int tokens, int heads, int head_dim, float* key,
                 float* value);

}  // namespace streamchar
