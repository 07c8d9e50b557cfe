// The joint transformer's blocks as one call: two kinds of tokens, video and audio, with their own linear layers, and
// one attention over both and the cached context.
//
// Of each block, for tokens x of either kind and m = modulation + the kind's table, (6, width):
//   q, k, v = qkv(adaln_modulate(x, m[0], m[1]))                        of all tokens
//   x      += m[2] * out(attention(q, k, v))                            QK norm, rotation and context as CpuContext has it
//   x      += m[5] * contract(gelu(expand(adaln_modulate(x, m[3], m[4]))))
//
// Between two attentions all is row by row, so a work item takes a few rows from one to the next, and threads meet three
// times a block. A stream's result does not depend on its company nor on the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cache/cpu_context.h"
#include "kernels/packed_linear.h"

namespace streamchar {

struct JointHalf {  // a block's part for one kind of tokens
  std::shared_ptr<const PackedLinear> qkv, out, expand, contract;
  std::vector<float> table;           // (6, width)
  std::vector<float> q_norm, k_norm;  // (head_dim,)
};

struct JointBlock {
  JointHalf video, audio;
};

// One stream's context.
struct JointStream {
  CpuContext* context;
  std::vector<ContextRead> reads;
};

struct JointPass {
  std::span<const JointStream> streams;
  int video_tokens;           // of each stream; either may be 0
  int audio_tokens;
  float* video;               // (streams, video_tokens, width) contiguous, changed in place
  float* audio;
  const float* modulation;    // (6, width) of each stream
  int64_t modulation_stride;  // 0: one for all
  const float* rope;          // (video_tokens + audio_tokens, head_dim / 2, 2)
  std::optional<int> store;   // keys and values become staging of this segment
};

class JointBlocks {
 public:
  // Throws std::invalid_argument where shapes do not fit together.
  JointBlocks(int heads, int head_dim, std::vector<JointBlock> blocks);

  int width() const { return heads_ * head_dim_; }
  int depth() const { return static_cast<int>(blocks_.size()); }

  // Uses ThreadPool::global(). Throws what CpuContext::prepare does; nothing has changed then.
  void run(const JointPass& pass) const;

 private:
  struct Norms {
    std::vector<float> q, k;  // (2, head_dim)
  };

  int heads_;
  int head_dim_;
  int hidden_ = 0;  // the widest feed-forward
  std::vector<JointBlock> blocks_;
  std::vector<Norms> norms_;
};

}  // namespace streamchar
