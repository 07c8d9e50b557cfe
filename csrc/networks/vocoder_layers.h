// The vocoder's layers as one call: a causal ConvNeXt from mel frames to what becomes spectra.
//
// x = norm(embed(mel / 2.5 + 2)), a convolution over `taps` frames. Of each block, over the same number of frames:
//   x += scale * contract(gelu(expand(norm(depthwise(x)))))
// and out = head(norm(x)). What convolutions look back to is carried from call to call, so a stream may be cut anywhere.
// A stream's result does not depend on its company nor on the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/packed_linear.h"
#include "networks/chain_parts.h"

namespace streamchar {

struct VocoderBlock {
  std::vector<float> depthwise;       // (taps, width)
  std::vector<float> depthwise_bias;  // (width,)
  ShiftedNorm norm;
  std::shared_ptr<const PackedLinear> expand, contract;
  std::vector<float> scale;           // (width,)
};

struct VocoderParts {
  int taps;
  std::shared_ptr<const PackedLinear> embed;  // taps * bins to width, tap after tap
  ShiftedNorm embed_norm;
  std::vector<VocoderBlock> blocks;
  ShiftedNorm final_norm;
  std::shared_ptr<const PackedLinear> head;   // width to whatever comes out
};

struct VocoderPass {
  int streams;
  int frames;                              // of mel, new ones
  int past;                                // frames that are carried, at most taps - 1
  const float* mel;                        // (streams, frames, bins)
  const float* inputs;                     // (streams, bins, past), scaled
  const float* const* memories;            // of each block (streams, width, taps - 1)
  float* out;                              // (streams, frames + past - taps + 1, outputs)
  float* next_inputs;                      // (streams, bins, taps - 1)
  float* const* next_memories;             // like memories
};

class VocoderLayers {
 public:
  // Throws std::invalid_argument where shapes do not fit together.
  explicit VocoderLayers(VocoderParts parts);

  int width() const { return static_cast<int>(parts_.final_norm.shift.size()); }
  int bins() const { return parts_.embed->weights().inputs / parts_.taps; }

  // Uses ThreadPool::global(). frames + past is at least taps.
  void run(const VocoderPass& pass) const;

 private:
  class Pass;

  VocoderParts parts_;
  int hidden_ = 0;  // the widest block
};

}  // namespace streamchar
