#include "networks/condition_encoder.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/thread_pool.h"
#include "kernels/thread_scratch.h"
#include "networks/chain_parts.h"
#include "networks/row_pieces.h"

namespace streamchar {
namespace {

constexpr int kTimes = 4;

void add_scaled(const float* row, float factor, int width, float* sum) {
  for (int i = 0; i < width; ++i) sum[i] += factor * row[i];
}

}  // namespace

ConditionEncoder::ConditionEncoder(ConditionEncoderParts parts)
    : parts_(std::move(parts)), width_(static_cast<int>(parts_.times.size()) / kTimes), ones_(width_, 1.0f) {
  for (const auto* table : {&parts_.unit, &parts_.stress, &parts_.times, &parts_.voice}) {
    if (table->empty() || table->size() % width_) throw std::invalid_argument("a table's rows have another width");
  }
  for (const auto& layer : parts_.convolutions) {
    if (!layer || layer->weights().outputs != width_ || layer->weights().inputs % width_ ||
        layer->weights().inputs / width_ % 2 == 0) {
      throw std::invalid_argument("a convolution is not of an odd number of rows to one");
    }
  }
  for (const auto* layer : {&parts_.to_audio, &parts_.to_video}) {
    if (!*layer || (*layer)->weights().inputs % width_) {
      throw std::invalid_argument("a last layer does not take whole half-frames");
    }
  }
}

// One run. A stream's half-frames are rows; of their SiLU, with `rim` rows of zeros before and behind.
class ConditionEncoder::Pass {
 public:
  Pass(const ConditionEncoder& encoder, const EncodePass& pass)
      : encoder_(encoder), parts_(encoder.parts_), given_(pass), width_(encoder.width_) {
    for (const auto& layer : parts_.convolutions) rim_ = std::max(rim_, taps(*layer) / 2);
    const int64_t rows = int64_t{pass.streams} * pass.places, active = int64_t{pass.streams} * (pass.places + 2 * rim_);
    const int64_t bytes = (rows + 2 * active) * width_ * static_cast<int64_t>(sizeof(float));
    x_ = static_cast<float*>(thread_scratch(Scratch::kCaller, bytes));
    active_ = {x_ + rows * width_, x_ + (rows + active) * width_};
    for (float* buffer : active_) {
      for (int s = 0; s < pass.streams; ++s) {
        for (float* edge : {row(buffer, s, -rim_), row(buffer, s, pass.places)}) {
          std::fill(edge, edge + int64_t{rim_} * width_, 0.0f);
        }
      }
    }
  }

  void run() {
    const RowPieces pieces(given_.places);
    const int count = pieces.count(), depth = static_cast<int>(parts_.convolutions.size());
    ThreadPool& pool = ThreadPool::global();
    const auto in_pieces = [&](const auto& body) {
      pool.run(given_.streams * count, [&](int item) noexcept {
        body(item / count, pieces.first(item % count), pieces.size(item % count));
      });
    };
    in_pieces([&](int stream, int first, int rows) noexcept {
      embed(stream, first, rows);
      activate(active_[0], stream, first, rows);
    });
    for (int i = 0; i < depth; ++i) {
      in_pieces([&](int stream, int first, int rows) noexcept {
        convolve(*parts_.convolutions[i], active_[i % 2], stream, first, rows);
        if (i + 1 < depth) activate(active_[(i + 1) % 2], stream, first, rows);
      });
    }
    for (int s = 0; s < given_.streams; ++s) {
      project(*parts_.to_video, parts_.video_first, parts_.video_tokens, s, given_.video);
      project(*parts_.to_audio, parts_.audio_first, parts_.audio_tokens, s, given_.audio);
    }
  }

 private:
  int taps(const PackedLinear& layer) const { return layer.weights().inputs / width_; }
  float* x(int stream, int place) const { return x_ + (int64_t{stream} * given_.places + place) * width_; }
  float* row(float* active, int stream, int place) const {
    return active + (int64_t{stream} * (given_.places + 2 * rim_) + rim_ + place) * width_;
  }

  // Half-frames until the next unit begins, or the window ends.
  int time_left(int stream, int place) const {
    int next = place + 1;
    while (next < given_.places && given_.rows[(int64_t{stream} * given_.places + next) * 4 + 3] != 0) ++next;
    return next - place;
  }

  void embed(int stream, int first, int rows) noexcept {
    const auto longest = static_cast<float>(parts_.longest);
    for (int place = first; place < first + rows; ++place) {
      const int64_t* given = given_.rows + (int64_t{stream} * given_.places + place) * 4;
      const auto since = static_cast<float>(std::clamp<int64_t>(given[3], 0, parts_.longest));
      const auto left = static_cast<float>(std::min(time_left(stream, place), parts_.longest));
      const float times[kTimes] = {static_cast<float>(given[2]), since / longest, left / longest,
                                   (since + 0.5f) / (since + left)};
      float* const out = x(stream, place);
      const float* voice = parts_.voice.data() + given_.voices[stream] * width_;
      std::copy(voice, voice + width_, out);
      add_scaled(parts_.unit.data() + given[0] * width_, 1.0f, width_, out);
      add_scaled(parts_.stress.data() + given[1] * width_, 1.0f, width_, out);
      for (int i = 0; i < kTimes; ++i) add_scaled(parts_.times.data() + int64_t{i} * width_, times[i], width_, out);
    }
  }

  void activate(float* active, int stream, int first, int rows) noexcept {
    cpu_kernels().silu_row(x(stream, first), rows * width_, row(active, stream, first));
  }

  // x += convolution(active): consecutive rows lie side by side as the layer takes them.
  void convolve(const PackedLinear& layer, float* active, int stream, int first, int rows) noexcept {
    float* const target = x(stream, first);
    packed_linear_serial(layer, {.rows = rows,
                                 .x = row(active, stream, first - taps(layer) / 2),
                                 .x_stride = width_,
                                 .y = target,
                                 .y_stride = width_,
                                 .shift = {},
                                 .scale = {},
                                 .gate = {encoder_.ones_.data(), 0},
                                 .residual = target,
                                 .residual_stride = width_});
  }

  void project(const PackedLinear& layer, int first, int tokens, int stream, float* out) const {
    const int outputs = layer.weights().outputs;
    packed_linear_cpu(layer, {.rows = tokens,
                              .x = x(stream, first),
                              .x_stride = layer.weights().inputs,
                              .y = out + int64_t{stream} * tokens * outputs,
                              .y_stride = outputs,
                              .shift = {},
                              .scale = {},
                              .gate = {}});
  }

  const ConditionEncoder& encoder_;
  const ConditionEncoderParts& parts_;
  const EncodePass& given_;
  const int width_;
  int rim_ = 0;
  float* x_;
  std::array<float*, 2> active_;  // SiLU of x before a convolution, in turns
};

void ConditionEncoder::run(const EncodePass& pass) const {
  for (int s = 0; s < pass.streams; ++s) {
    check_id("voice", pass.voices[s], parts_.voice, width_);
    for (int p = 0; p < pass.places; ++p) {
      const int64_t* row = pass.rows + (int64_t{s} * pass.places + p) * 4;
      check_id("unit", row[0], parts_.unit, width_);
      check_id("stress", row[1], parts_.stress, width_);
    }
  }
  const auto end = [&](int first, int tokens, const PackedLinear& layer) {
    return first + tokens * (layer.weights().inputs / width_);
  };
  if (end(parts_.audio_first, parts_.audio_tokens, *parts_.to_audio) > pass.places ||
      end(parts_.video_first, parts_.video_tokens, *parts_.to_video) > pass.places) {
    throw std::invalid_argument("there are fewer half-frames than the results are of");
  }
  Pass(*this, pass).run();
}

}  // namespace streamchar
