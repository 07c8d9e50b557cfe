// A Qwen3 language model's layers as one call: embeddings in, states out.
//
// Of each layer, for the tokens x of a sequence:
//   q, k, v = qkv(rms_norm(x))
//   x      += out(attention(q, k, v))              norm per head, rotary embedding, causal; key heads may be shared
//   x      += down(silu(gate) * up)                gate, up = gate_up(rms_norm(x))
// and at the end a norm. Tokens that are absent are seen by none: they are left out, and what is there keeps its place.
//
// Between two attentions all is row by row, so a work item takes a few rows from one to the next, and threads meet
// twice a layer. A sequence's result does not depend on its company nor on the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/packed_linear.h"

namespace streamchar {

struct DecoderLayer {
  std::shared_ptr<const PackedLinear> qkv;      // width to (heads + 2 * kv_heads) * head_dim: queries, keys, values
  std::shared_ptr<const PackedLinear> out;      // heads * head_dim to width
  std::shared_ptr<const PackedLinear> gate_up;  // width to 2 * hidden
  std::shared_ptr<const PackedLinear> down;     // hidden to width
  std::vector<float> input_norm, hidden_norm;   // (width,): before attention, before the feed-forward
  std::vector<float> q_norm, k_norm;            // (head_dim,)
};

struct LanguagePass {
  int batch;
  int tokens;              // of each sequence
  const float* x;          // (batch, tokens, width)
  const uint8_t* present;  // (batch, tokens): 0 where there is no token; null: all are there
  const float* rope;       // (tokens, head_dim / 2, 2) cosine and sine of channels i and i + head_dim / 2, or null
  float* out;              // (batch, tokens, width), zero where there is no token; may be x
};

class LanguageModel {
 public:
  // Throws std::invalid_argument where shapes do not fit together.
  LanguageModel(int heads, int kv_heads, int head_dim, float eps, std::vector<DecoderLayer> layers,
                std::vector<float> final_norm);

  int width() const { return static_cast<int>(final_norm_.size()); }
  int head_dim() const { return head_dim_; }

  // Uses ThreadPool::global().
  void run(const LanguagePass& pass) const;

 private:
  class Pass;

  int heads_, kv_heads_, head_dim_;
  float eps_;
  int hidden_ = 0;  // the widest feed-forward
  std::vector<DecoderLayer> layers_;
  std::vector<float> final_norm_;
  std::vector<float> ones_;  // the gate of plain sums
};

}  // namespace streamchar
