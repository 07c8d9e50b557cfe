#include "networks/condition_head.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/thread_pool.h"
#include "kernels/thread_scratch.h"
#include "networks/chain_parts.h"
#include "networks/row_pieces.h"

namespace streamchar {

ConditionHead::ConditionHead(ConditionHeadParts parts) : parts_(std::move(parts)), ones_(width(), 1.0f) {
  const int width = this->width();
  const std::string self = "a condition head";
  check_linear(self, parts_.noisy.get(), parts_.noisy ? bins() : 0, width);
  check_linear(self, parts_.pointer.get(), width, width);
  check_linear(self, parts_.offset.get(), width, 1);
  check_norm(self, parts_.final_norm, width);
  for (const ConditionLayer& layer : parts_.layers) {
    const int hidden = layer.expand ? layer.expand->weights().outputs : 0;
    check_linear(self, layer.qkv.get(), width, 3 * width);
    for (const auto* square : {&layer.self_out, &layer.query, &layer.cross_out}) {
      check_linear(self, square->get(), width, width);
    }
    check_linear(self, layer.memory.get(), width, 2 * width);
    check_linear(self, layer.expand.get(), width, hidden);
    check_linear(self, layer.contract.get(), hidden, width);
    for (const ShiftedNorm* norm : {&layer.self_norm, &layer.cross_norm, &layer.hidden_norm}) {
      check_norm(self, *norm, width);
    }
    hidden_ = std::max(hidden_, hidden);
  }
}

// One run. Rows are half-frames, stream after stream; of the memory, the states that are there.
class ConditionHead::Pass {
 public:
  Pass(const ConditionHead& head, const ConditionPass& pass)
      : head_(head), parts_(head.parts_), given_(pass), width_(head.width()), rows_(pass.streams * pass.places) {
    for (int s = 0; s < pass.streams; ++s) {
      memory_first_.push_back(memory_rows());
      for (int t = 0; t < pass.memory_tokens; ++t) {
        const bool unit = t >= 1 && t <= pass.window;
        if (!unit || !pass.padding[s * pass.window + t - 1]) memory_places_.push_back(s * pass.memory_tokens + t);
      }
    }
    memory_first_.push_back(memory_rows());
    const int64_t width = width_, depth = static_cast<int64_t>(parts_.layers.size());
    const int64_t floats = rows_ * 5 * width + memory_rows() * (1 + 2 * depth) * width;
    x_ = static_cast<float*>(thread_scratch(Scratch::kCaller, floats * static_cast<int64_t>(sizeof(float))));
    projected_ = x_ + rows_ * width;
    mixed_ = projected_ + rows_ * 3 * width;
    memory_ = mixed_ + rows_ * width;
    keys_and_values_ = memory_ + memory_rows() * width;
  }

  void run() {
    const RowPieces pieces(rows_), states(memory_rows());
    const int count = pieces.count(), depth = static_cast<int>(parts_.layers.size());
    const int heads = parts_.heads, groups = given_.streams * heads;
    ThreadPool& pool = ThreadPool::global();
    pool.run(count + states.count(), [&](int item) noexcept {
      if (item >= count) return remember(states.first(item - count), states.size(item - count));
      begin(pieces.first(item), pieces.size(item));
      if (depth > 0) project(parts_.layers[0], pieces.first(item), pieces.size(item));
    });
    for (int i = 0; i < depth; ++i) {
      const ConditionLayer& layer = parts_.layers[i];
      pool.run(groups, [&](int item) noexcept { attend_self(item / heads, item % heads); });
      pool.run(count, [&](int item) noexcept { ask(layer, pieces.first(item), pieces.size(item)); });
      pool.run(groups, [&](int item) noexcept { attend_memory(i, item / heads, item % heads); });
      pool.run(count, [&](int item) noexcept {
        finish(layer, pieces.first(item), pieces.size(item));
        if (i + 1 < depth) project(parts_.layers[i + 1], pieces.first(item), pieces.size(item));
      });
    }
    pool.run(count, [&](int item) noexcept { point(pieces.first(item), pieces.size(item)); });
  }

 private:
  int memory_rows() const { return static_cast<int>(memory_places_.size()); }
  float* x(int row) const { return x_ + int64_t{row} * width_; }
  float* mixed(int row) const { return mixed_ + int64_t{row} * width_; }
  float* projected(int row) const { return projected_ + int64_t{row} * 3 * width_; }
  // Of a layer: keys, then values, of a state.
  float* remembered(int layer, int row) const {
    return keys_and_values_ + (int64_t{layer} * memory_rows() + row) * 2 * width_;
  }

  void begin(int first, int count) noexcept {
    for (int row = first; row < first + count;) {
      const int place = row % given_.places, end = std::min(first + count, row - place + given_.places);
      const float* base = given_.base + int64_t{place} * width_;
      std::copy(base, base + int64_t{end - row} * width_, x(row));
      const int sounding = std::min(end - row, given_.slots - place);
      if (sounding > 0) {
        const int64_t sound = int64_t{row / given_.places} * given_.slots + place;
        add_product(*parts_.noisy, given_.noisy + sound * head_.bins(), head_.bins(), row, sounding);
      }
      row = end;
    }
  }

  void remember(int first, int count) noexcept {
    for (int row = first; row < first + count; ++row) {
      const float* state = given_.memory + int64_t{memory_places_[row]} * width_;
      std::copy(state, state + width_, memory_ + int64_t{row} * width_);
    }
    for (std::size_t i = 0; i < parts_.layers.size(); ++i) {
      packed_linear_serial(*parts_.layers[i].memory, {.rows = count,
                                                      .x = memory_ + int64_t{first} * width_,
                                                      .x_stride = width_,
                                                      .y = remembered(static_cast<int>(i), first),
                                                      .y_stride = 2 * width_,
                                                      .shift = {},
                                                      .scale = {},
                                                      .gate = {}});
    }
  }

  void project(const ConditionLayer& layer, int first, int count) noexcept {
    apply_normed(*layer.qkv, layer.self_norm, first, count, projected(first), 3 * width_);
  }

  void attend_self(int stream, int head) noexcept {
    const int row = stream * given_.places;
    const float* q = projected(row);
    attend(row, head, q, {q + width_, 3 * width_}, q + 2 * width_, given_.places);
  }

  void ask(const ConditionLayer& layer, int first, int count) noexcept {
    add_product(*layer.self_out, mixed(first), width_, first, count);
    apply_normed(*layer.query, layer.cross_norm, first, count, projected(first), 3 * width_);
  }

  void attend_memory(int layer, int stream, int head) noexcept {
    const int row = stream * given_.places, first = memory_first_[stream];
    const float* k = remembered(layer, first);
    attend(row, head, projected(row), {k, 2 * width_}, k + width_, memory_first_[stream + 1] - first);
  }

  // Attention of a stream's half-frames, whose queries are projected, to one head.
  void attend(int row, int head, const float* q, const SequenceRows& k, const float* v, int keys) noexcept {
    sequence_attention_serial({.queries = given_.places,
                               .keys = keys,
                               .heads = parts_.heads,
                               .kv_heads = parts_.heads,
                               .head_dim = parts_.head_dim,
                               .causal = false,
                               .q = {q, 3 * width_},
                               .k = k,
                               .v = v,
                               .out = mixed(row),
                               .out_stride = width_},
                              head);
  }

  void finish(const ConditionLayer& layer, int first, int count) noexcept {
    add_product(*layer.cross_out, mixed(first), width_, first, count);
    const int hidden = layer.expand->weights().outputs;
    auto* const inner = static_cast<float*>(
        thread_scratch(Scratch::kChain, sizeof(float) * packed_linear_item_rows() * int64_t{head_.hidden_}));
    apply_normed(*layer.expand, layer.hidden_norm, first, count, inner, hidden, Activation::kGeluTanh);
    add_product(*layer.contract, inner, hidden, first, count);
  }

  void point(int first, int count) noexcept {
    apply_normed(*parts_.pointer, parts_.final_norm, first, count, mixed(first), width_);
    const float scale = 1.0f / std::sqrt(static_cast<float>(width_));
    auto* const dot = cpu_kernels().dot;
    for (int row = first; row < first + count; ++row) {
      const int unit = row / given_.places * given_.window;
      for (int w = 0; w < given_.window; ++w) {
        given_.logits[int64_t{row} * given_.window + w] =
            given_.padding[unit + w] ? -std::numeric_limits<float>::infinity()
                                     : dot(mixed(row), given_.keys + int64_t{unit + w} * width_, width_) * scale;
      }
    }
    if (!given_.offset) return;
    apply_normed(*parts_.offset, parts_.final_norm, first, count, given_.offset + first, 1);
    for (int row = first; row < first + count; ++row) {
      given_.offset[row] = 1.0f / (1.0f + std::exp(-given_.offset[row]));
    }
  }

  // y = activation(linear(norm(x)))
  void apply_normed(const PackedLinear& linear, const ShiftedNorm& norm, int first, int count, float* y, int64_t stride,
                    Activation activation = Activation::kNone) noexcept {
    packed_linear_serial(linear, {.rows = count,
                                  .x = x(first),
                                  .x_stride = width_,
                                  .y = y,
                                  .y_stride = stride,
                                  .activation = activation,
                                  .shift = {norm.shift.data(), 0},
                                  .scale = {norm.scale.data(), 0},
                                  .eps = kLayerNormEps,
                                  .gate = {}});
  }

  // x += linear(y)
  void add_product(const PackedLinear& linear, const float* y, int64_t stride, int first, int count) noexcept {
    packed_linear_serial(linear, {.rows = count,
                                  .x = y,
                                  .x_stride = stride,
                                  .y = x(first),
                                  .y_stride = width_,
                                  .shift = {},
                                  .scale = {},
                                  .gate = {head_.ones_.data(), 0},
                                  .residual = x(first),
                                  .residual_stride = width_});
  }

  const ConditionHead& head_;
  const ConditionHeadParts& parts_;
  const ConditionPass& given_;
  const int width_;
  const int rows_;
  std::vector<int> memory_places_;  // in (streams, memory_tokens)
  std::vector<int> memory_first_;   // of each stream; one more at the end
  float* x_;
  float* projected_;
  float* mixed_;
  float* memory_;
  float* keys_and_values_;
};

void ConditionHead::run(const ConditionPass& pass) const { Pass(*this, pass).run(); }

}  // namespace streamchar
