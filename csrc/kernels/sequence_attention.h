// sequence_attention: attention of a short sequence to itself or another one, with keys and values given as rows.
//
// For query t and head h, with key head g = h * kv_heads / heads:
//   logit_j = dot(turn(norm(q[t, h])), turn(norm(k[j, g]))) / sqrt(head_dim)       j <= t where it is causal
//   out     = sum_j softmax(logit)_j * v[j, g]
// norm(x) = x / rms(x) * weight. turn() turns channels i and i + head_dim / 2 as a pair: rotary embedding as Llama's and
// Qwen's language models have it.
#pragma once

#include <cstdint>

namespace streamchar {

// Of queries or keys, (tokens, heads, head_dim): a row's heads are contiguous, one after another.
struct SequenceRows {
  const float* data;
  int64_t stride;                // from one token to the next, in elements
  const float* norm = nullptr;   // (head_dim,); null: no norm
  const float* turns = nullptr;  // (tokens, head_dim): the pairs' cosines, then their sines; null: no turn
};

struct SequenceAttention {
  int queries;
  int keys;           // as many as queries where it is causal
  int heads;          // a multiple of kv_heads
  int kv_heads;
  int head_dim;       // 64 or 128
  bool causal;
  SequenceRows q;
  SequenceRows k;
  const float* v;     // (keys, kv_heads, head_dim), with the stride of k
  float eps = 1e-6f;  // of the norms
  float* out;         // (queries, heads, head_dim)
  int64_t out_stride;
};

// One key head and the heads that share it, on the calling thread. A query's result depends on that query and the keys
// that it sees alone.
void sequence_attention_serial(const SequenceAttention& call, int kv_head);

}  // namespace streamchar
