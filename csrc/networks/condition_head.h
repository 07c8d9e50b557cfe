// The condition head and the pointer as one call: what each half-frame of a chunk says, from a language model's states
// and the noisy sound.
//
// x = base + noisy(sound), without sound for the half-frames beyond the chunk. Of each layer:
//   x += self_out(attention(qkv(norm(x))))             of a stream's half-frames to one another
//   x += cross_out(attention(query(norm(x)), memory))  to the states that are there
//   x += contract(gelu(expand(norm(x))))
// Then logits = pointer(norm(x)) . keys / sqrt(width), -inf where there is no unit, and the offset is
// sigmoid(offset(norm(x))). A stream's result does not depend on its company nor on the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/packed_linear.h"
#include "networks/chain_parts.h"

namespace streamchar {

struct ConditionLayer {
  std::shared_ptr<const PackedLinear> qkv;                // width to 3 * width
  std::shared_ptr<const PackedLinear> self_out;           // width to width, like the next and cross_out
  std::shared_ptr<const PackedLinear> query;
  std::shared_ptr<const PackedLinear> memory;             // width to 2 * width: keys and values
  std::shared_ptr<const PackedLinear> cross_out;
  std::shared_ptr<const PackedLinear> expand, contract;   // width to hidden, and back
  ShiftedNorm self_norm, cross_norm, hidden_norm;
};

struct ConditionHeadParts {
  int heads;
  int head_dim;                                 // 64 or 128; width is heads * head_dim
  std::shared_ptr<const PackedLinear> noisy;    // bins to width
  std::vector<ConditionLayer> layers;
  ShiftedNorm final_norm;
  std::shared_ptr<const PackedLinear> pointer;  // width to width
  std::shared_ptr<const PackedLinear> offset;   // width to 1
};

struct ConditionPass {
  int streams;
  int slots;               // half-frames of the chunk
  int places;              // those, and the ones beyond it
  int window;              // units in sight
  int memory_tokens;       // states: one of the style, the window's, the history's
  const float* noisy;      // (streams, slots, bins)
  const float* base;       // (places, width), the same for all streams
  const float* memory;     // (streams, memory_tokens, width)
  const float* keys;       // (streams, window, width)
  const uint8_t* padding;  // (streams, window): 1 where there is no unit
  float* logits;           // (streams, places, window)
  float* offset;           // (streams, places); or null
};

class ConditionHead {
 public:
  // Throws std::invalid_argument where shapes do not fit together.
  explicit ConditionHead(ConditionHeadParts parts);

  int width() const { return parts_.heads * parts_.head_dim; }
  int bins() const { return parts_.noisy->weights().inputs; }

  // Uses ThreadPool::global().
  void run(const ConditionPass& pass) const;

 private:
  class Pass;

  ConditionHeadParts parts_;
  int hidden_ = 0;           // the widest feed-forward
  std::vector<float> ones_;  // the gate of plain sums
};

}  // namespace streamchar
