#include "networks/transcript_reader.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/thread_pool.h"
#include "kernels/thread_scratch.h"
#include "networks/chain_parts.h"
#include "networks/row_pieces.h"

namespace streamchar {
namespace {

void add(const float* row, int width, float* sum) {
  for (int i = 0; i < width; ++i) sum[i] += row[i];
}

}  // namespace

TranscriptReader::TranscriptReader(TranscriptReaderParts parts) : parts_(std::move(parts)) {
  if (!parts_.model) throw std::invalid_argument("a transcript's reader has no language model");
  const auto width = static_cast<std::size_t>(this->width());
  const auto turns = static_cast<std::size_t>(parts_.model->head_dim());
  for (const auto* table : {&parts_.unit, &parts_.stress, &parts_.word_start, &parts_.voice, &parts_.place}) {
    if (table->empty() || table->size() % width) throw std::invalid_argument("a table's rows have another width");
  }
  window_ = static_cast<int>(parts_.place.size() / width);
  tokens_ = static_cast<int>(parts_.rope.size() / turns);
  if (parts_.rope.size() % turns || tokens_ <= window_) {
    throw std::invalid_argument("the rotation is of fewer tokens than the voice and the window have");
  }
  const std::string self = "a transcript's reader";
  check_linear(self, parts_.history.get(), parts_.history ? sound() : 0, this->width());
  check_linear(self, parts_.key.get(), this->width(), this->width());
}

void TranscriptReader::run(const ReadPass& pass) const {
  const int width = this->width(), window = window_, tokens = tokens_, heard = history_tokens();
  for (int s = 0; s < pass.streams; ++s) {
    check_id("voice", pass.voices[s], parts_.voice, width);
    for (int w = 0; w < window; ++w) {
      const int64_t* unit = pass.units + (int64_t{s} * window + w) * 3;
      check_id("unit", unit[0], parts_.unit, width);
      check_id("stress", unit[1], parts_.stress, width);
      check_id("word start", unit[2], parts_.word_start, width);
    }
  }

  std::vector<uint8_t> present(static_cast<std::size_t>(pass.streams) * tokens, 1);
  for (int s = 0; s < pass.streams; ++s) {
    float* const memory = pass.memory + int64_t{s} * tokens * width;
    const float* voice = parts_.voice.data() + pass.voices[s] * width;
    std::copy(voice, voice + width, memory);
    for (int w = 0; w < window; ++w) {
      const int64_t place = int64_t{s} * window + w;
      const int64_t* unit = pass.units + place * 3;
      const bool absent = unit[0] == parts_.absent;
      pass.padding[place] = absent;
      present[s * tokens + 1 + w] = !absent;
      float* const text = pass.keys + place * width;
      const float* row = parts_.unit.data() + unit[0] * width;
      std::copy(row, row + width, text);
      add(parts_.stress.data() + unit[1] * width, width, text);
      add(parts_.word_start.data() + unit[2] * width, width, text);
      add(parts_.place.data() + int64_t{w} * width, width, text);
      std::copy(text, text + width, memory + (1 + w) * width);
    }
    packed_linear_cpu(*parts_.history, {.rows = heard,
                                        .x = pass.history + int64_t{s} * heard * sound(),
                                        .x_stride = sound(),
                                        .y = memory + int64_t{1 + window} * width,
                                        .y_stride = width,
                                        .shift = {},
                                        .scale = {},
                                        .gate = {}});
  }
  parts_.model->run({.batch = pass.streams,
                     .tokens = tokens,
                     .x = pass.memory,
                     .present = present.data(),
                     .rope = parts_.rope.data(),
                     .out = pass.memory});

  const RowPieces pieces(pass.streams * window);
  ThreadPool::global().run(pieces.count(), [&](int item) noexcept {
    auto* const sums = static_cast<float*>(
        thread_scratch(Scratch::kChain, sizeof(float) * packed_linear_item_rows() * int64_t{width}));
    const int first = pieces.first(item), count = pieces.size(item);
    float* const keys = pass.keys + int64_t{first} * width;
    std::copy(keys, keys + int64_t{count} * width, sums);
    for (int r = 0; r < count; ++r) {
      const int stream = (first + r) / window, w = (first + r) % window;
      add(pass.memory + (int64_t{stream} * tokens + 1 + w) * width, width, sums + int64_t{r} * width);
    }
    packed_linear_serial(*parts_.key, {.rows = count,
                                       .x = sums,
                                       .x_stride = width,
                                       .y = keys,
                                       .y_stride = width,
                                       .shift = {},
                                       .scale = {},
                                       .gate = {}});
    for (int r = 0; r < count; ++r) {
      if (pass.padding[first + r]) std::fill(keys + int64_t{r} * width, keys + int64_t{r + 1} * width, 0.0f);
    }
  });
}

}  // namespace streamchar
