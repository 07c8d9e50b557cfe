// The orchestrator's reading as one call: what stands in the transcript's window and what was heard, through the
// language model, once a chunk.
//
// The sequence is [voice | window | history]: a token for the voice, one for each unit in sight (the sum of its unit,
// stress, word start and place in the window) and one for each piece of history. A unit may be absent. Beside the
// states the pointer's keys come out: key(state + what went in) of each unit.
// A stream's result does not depend on its company nor on the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/packed_linear.h"
#include "networks/language_model.h"

namespace streamchar {

struct TranscriptReaderParts {
  std::shared_ptr<const LanguageModel> model;
  std::vector<float> unit, stress, word_start, voice;  // (ids, width) each
  std::vector<float> place;                            // (window, width)
  std::vector<float> rope;                             // (1 + window + history tokens, head_dim / 2, 2)
  std::shared_ptr<const PackedLinear> history;         // a token's sound to width
  std::shared_ptr<const PackedLinear> key;             // width to width
  int64_t absent;                                      // the unit that is none
};

struct ReadPass {
  int streams;
  const int64_t* units;   // (streams, window, 3): unit, stress, word start
  const float* history;   // (streams, history tokens, sound)
  const int64_t* voices;  // (streams,)
  float* memory;          // (streams, 1 + window + history tokens, width), zero where there is no unit
  float* keys;            // (streams, window, width), likewise
  uint8_t* padding;       // (streams, window): 1 where there is no unit
};

class TranscriptReader {
 public:
  // Throws std::invalid_argument where shapes do not fit together.
  explicit TranscriptReader(TranscriptReaderParts parts);

  int width() const { return parts_.model->width(); }
  int window() const { return window_; }
  int history_tokens() const { return tokens_ - 1 - window_; }
  int sound() const { return parts_.history->weights().inputs; }

  // Uses ThreadPool::global(). Throws std::out_of_range for an id that is in no table; nothing was written then.
  void run(const ReadPass& pass) const;

 private:
  TranscriptReaderParts parts_;
  int window_;
  int tokens_;
};

}  // namespace streamchar
