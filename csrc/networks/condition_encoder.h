// The condition encoder as one call: from what each half-frame says to what the denoiser is conditioned on.
//
// x = embed(unit, stress, times) + voice; of each convolution over time, with zeros beyond the ends:
//   x += convolution(silu(x))
// Then audio = to_audio and video = to_video of consecutive half-frames side by side.
// A stream's result does not depend on its company nor on the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/packed_linear.h"

namespace streamchar {

struct ConditionEncoderParts {
  // (ids, width) each; times: word start, half-frames since the unit began and until the next one as shares of
  // `longest`, and how far it is through.
  std::vector<float> unit, stress, times;
  std::vector<float> voice;  // with the embedding's bias
  std::vector<std::shared_ptr<const PackedLinear>> convolutions;  // taps * width to width, tap after tap; an odd number
  std::shared_ptr<const PackedLinear> to_audio, to_video;         // several half-frames to the denoiser's width
  int longest;                                                    // half-frames at which times saturate
  int audio_first, audio_tokens;                                  // where sound begins, and how many results it has
  int video_first, video_tokens;
};

struct EncodePass {
  int streams;
  int places;             // half-frames
  const int64_t* rows;    // (streams, places, 4): unit, stress, word start, half-frames since the unit began
  const int64_t* voices;  // (streams,)
  float* video;           // (streams, video_tokens, output)
  float* audio;           // (streams, audio_tokens, output)
};

class ConditionEncoder {
 public:
  // Throws std::invalid_argument where shapes do not fit together.
  explicit ConditionEncoder(ConditionEncoderParts parts);

  int width() const { return width_; }

  // Uses ThreadPool::global(). Throws std::out_of_range for an id that is in no table, and std::invalid_argument for
  // too few places; nothing was written then.
  void run(const EncodePass& pass) const;

 private:
  class Pass;

  ConditionEncoderParts parts_;
  int width_;
  std::vector<float> ones_;  // the gate of plain sums
};

}  // namespace streamchar
