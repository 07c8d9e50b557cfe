#include "networks/vocoder_layers.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/thread_pool.h"
#include "kernels/thread_scratch.h"
#include "networks/chain_parts.h"
#include "networks/row_pieces.h"

namespace streamchar {

VocoderLayers::VocoderLayers(VocoderParts parts) : parts_(std::move(parts)) {
  const int width = this->width();
  const std::string self = "a vocoder";
  const int inputs = parts_.embed ? parts_.embed->weights().inputs : 0;
  if (parts_.taps < 2 || inputs % parts_.taps) throw std::invalid_argument("a vocoder sees whole frames, two or more");
  check_linear(self, parts_.embed.get(), inputs, width);
  check_linear(self, parts_.head.get(), width, parts_.head ? parts_.head->weights().outputs : 0);
  check_norm(self, parts_.embed_norm, width);
  check_norm(self, parts_.final_norm, width);
  for (const VocoderBlock& block : parts_.blocks) {
    const int hidden = block.expand ? block.expand->weights().outputs : 0;
    check_size(self, block.depthwise, parts_.taps * width);
    check_size(self, block.depthwise_bias, width);
    check_size(self, block.scale, width);
    check_norm(self, block.norm, width);
    check_linear(self, block.expand.get(), width, hidden);
    check_linear(self, block.contract.get(), hidden, width);
    hidden_ = std::max(hidden_, hidden);
  }
}

// One run. Rows are frames; what a block sees are the frames that are carried, then its own.
class VocoderLayers::Pass {
 public:
  Pass(const VocoderLayers& layers, const VocoderPass& pass)
      : layers_(layers),
        parts_(layers.parts_),
        given_(pass),
        width_(layers.width()),
        carried_(parts_.taps - 1),
        rows_(pass.frames + pass.past - carried_),
        depth_(static_cast<int>(parts_.blocks.size())) {
    const int64_t heard = int64_t{pass.streams} * (pass.past + pass.frames) * layers.bins();
    const int64_t seen = int64_t{pass.streams} * (carried_ + rows_) * width_;
    const int64_t floats = heard + (depth_ + 1) * seen;
    heard_ = static_cast<float*>(thread_scratch(Scratch::kCaller, floats * static_cast<int64_t>(sizeof(float))));
    seen_ = heard_ + heard;
  }

  void run() {
    for (int s = 0; s < given_.streams; ++s) take(s);
    const RowPieces pieces(rows_);
    const int count = pieces.count();
    ThreadPool& pool = ThreadPool::global();
    const auto in_pieces = [&](const auto& body) {
      pool.run(given_.streams * count, [&](int item) noexcept {
        body(item / count, pieces.first(item % count), pieces.size(item % count));
      });
    };
    in_pieces([&](int stream, int first, int rows) noexcept { embed(stream, first, rows); });
    for (int i = 0; i < depth_; ++i) {
      in_pieces([&](int stream, int first, int rows) noexcept { go_through(i, stream, first, rows); });
    }
    in_pieces([&](int stream, int first, int rows) noexcept { project(stream, first, rows); });
    for (int s = 0; s < given_.streams; ++s) give(s);
  }

 private:
  float* heard(int stream, int frame) const {
    return heard_ + (int64_t{stream} * (given_.past + given_.frames) + frame) * layers_.bins();
  }
  // What block `layer` sees: `row` counts from the first carried one.
  float* seen(int layer, int stream, int row) const {
    return seen_ + ((int64_t{layer} * given_.streams + stream) * (carried_ + rows_) + row) * width_;
  }

  // What is carried, with its frames last, and the new frames.
  void take(int stream) const {
    const int bins = layers_.bins();
    transpose(given_.inputs + int64_t{stream} * bins * given_.past, bins, given_.past, heard(stream, 0));
    const float* mel = given_.mel + int64_t{stream} * given_.frames * bins;
    float* const scaled = heard(stream, given_.past);
    for (int64_t i = 0; i < int64_t{given_.frames} * bins; ++i) scaled[i] = mel[i] / 2.5f + 2.0f;
    for (int i = 0; i < depth_; ++i) {
      transpose(given_.memories[i] + int64_t{stream} * width_ * carried_, width_, carried_, seen(i, stream, 0));
    }
  }

  // What is carried to the next call.
  void give(int stream) const {
    const int bins = layers_.bins(), last = given_.past + given_.frames - carried_;
    transpose(heard(stream, last), carried_, bins, given_.next_inputs + int64_t{stream} * bins * carried_);
    for (int i = 0; i < depth_; ++i) {
      transpose(seen(i, stream, rows_), carried_, width_, given_.next_memories[i] + int64_t{stream} * width_ * carried_);
    }
  }

  static void transpose(const float* matrix, int rows, int columns, float* out) {
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) out[int64_t{c} * rows + r] = matrix[int64_t{r} * columns + c];
    }
  }

  // Frames side by side are what the layer takes.
  void embed(int stream, int first, int rows) noexcept {
    float* const x = seen(0, stream, carried_ + first);
    packed_linear_serial(*parts_.embed, {.rows = rows,
                                         .x = heard(stream, first),
                                         .x_stride = layers_.bins(),
                                         .y = x,
                                         .y_stride = width_,
                                         .shift = {},
                                         .scale = {},
                                         .gate = {}});
    auto* const norm = cpu_kernels().layer_norm_row;
    for (int r = 0; r < rows; ++r) {
      float* const row = x + int64_t{r} * width_;
      norm(row, parts_.embed_norm.shift.data(), parts_.embed_norm.scale.data(), width_, kLayerNormEps, row);
    }
  }

  void go_through(int layer, int stream, int first, int rows) noexcept {
    const VocoderBlock& block = parts_.blocks[layer];
    const int hidden = block.expand->weights().outputs;
    auto* const mixed = static_cast<float*>(thread_scratch(
        Scratch::kChain, sizeof(float) * packed_linear_item_rows() * (int64_t{width_} + layers_.hidden_)));
    float* const inner = mixed + int64_t{packed_linear_item_rows()} * width_;
    for (int r = 0; r < rows; ++r) {
      float* const sum = mixed + int64_t{r} * width_;
      std::copy(block.depthwise_bias.begin(), block.depthwise_bias.end(), sum);
      for (int tap = 0; tap < parts_.taps; ++tap) {
        const float* weight = block.depthwise.data() + int64_t{tap} * width_;
        const float* x = seen(layer, stream, first + r + tap);
        for (int c = 0; c < width_; ++c) sum[c] += weight[c] * x[c];
      }
    }
    packed_linear_serial(*block.expand, {.rows = rows,
                                         .x = mixed,
                                         .x_stride = width_,
                                         .y = inner,
                                         .y_stride = hidden,
                                         .activation = Activation::kGelu,
                                         .shift = {block.norm.shift.data(), 0},
                                         .scale = {block.norm.scale.data(), 0},
                                         .eps = kLayerNormEps,
                                         .gate = {}});
    packed_linear_serial(*block.contract, {.rows = rows,
                                           .x = inner,
                                           .x_stride = hidden,
                                           .y = seen(layer + 1, stream, carried_ + first),
                                           .y_stride = width_,
                                           .shift = {},
                                           .scale = {},
                                           .gate = {block.scale.data(), 0},
                                           .residual = seen(layer, stream, carried_ + first),
                                           .residual_stride = width_});
  }

  void project(int stream, int first, int rows) noexcept {
    const int outputs = parts_.head->weights().outputs;
    packed_linear_serial(*parts_.head, {.rows = rows,
                                        .x = seen(depth_, stream, carried_ + first),
                                        .x_stride = width_,
                                        .y = given_.out + (int64_t{stream} * rows_ + first) * outputs,
                                        .y_stride = outputs,
                                        .shift = {parts_.final_norm.shift.data(), 0},
                                        .scale = {parts_.final_norm.scale.data(), 0},
                                        .eps = kLayerNormEps,
                                        .gate = {}});
  }

  const VocoderLayers& layers_;
  const VocoderParts& parts_;
  const VocoderPass& given_;
  const int width_;
  const int carried_;
  const int rows_;
  const int depth_;
  float* heard_;
  float* seen_;
};

void VocoderLayers::run(const VocoderPass& pass) const { Pass(*this, pass).run(); }

}  // namespace streamchar
