#include "networks/language_model.h"

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

LanguageModel::LanguageModel(int heads, int kv_heads, int head_dim, float eps, std::vector<DecoderLayer> layers,
                             std::vector<float> final_norm)
    : heads_(heads),
      kv_heads_(kv_heads),
      head_dim_(head_dim),
      eps_(eps),
      layers_(std::move(layers)),
      final_norm_(std::move(final_norm)),
      ones_(final_norm_.size(), 1.0f) {
  if (heads < 1 || kv_heads < 1 || heads % kv_heads) {
    throw std::invalid_argument("heads are not a multiple of key heads");
  }
  const std::string self = "a language model";
  for (const DecoderLayer& layer : layers_) {
    const int hidden = layer.down ? layer.down->weights().inputs : 0;
    check_linear(self, layer.qkv.get(), width(), (heads + 2 * kv_heads) * head_dim);
    check_linear(self, layer.out.get(), heads * head_dim, width());
    check_linear(self, layer.gate_up.get(), width(), 2 * hidden);
    check_linear(self, layer.down.get(), hidden, width());
    for (const auto* norm : {&layer.input_norm, &layer.hidden_norm}) check_size(self, *norm, width());
    for (const auto* norm : {&layer.q_norm, &layer.k_norm}) check_size(self, *norm, head_dim);
    hidden_ = std::max(hidden_, hidden);
  }
}

// One run: the rows of the tokens that are present, sequence after sequence.
class LanguageModel::Pass {
 public:
  Pass(const LanguageModel& model, const LanguagePass& pass) : model_(model), given_(pass) {
    for (int b = 0; b < pass.batch; ++b) {
      const int first = rows();
      for (int t = 0; t < pass.tokens; ++t) {
        const int place = b * pass.tokens + t;
        if (!pass.present || pass.present[place]) places_.push_back(place);
      }
      if (rows() > first) sequences_.push_back({first, rows() - first});
    }
    const int64_t rows = this->rows(), width = model.width(), dim = model.head_dim_;
    const int64_t floats = rows * (width + projected_width() + model.heads_ * dim + dim);
    x_ = static_cast<float*>(thread_scratch(Scratch::kCaller, floats * static_cast<int64_t>(sizeof(float))));
    projected_ = x_ + rows * width;
    mixed_ = projected_ + rows * projected_width();
    turns_ = mixed_ + rows * model.heads_ * dim;
  }

  int rows() const { return static_cast<int>(places_.size()); }

  void run() {
    const RowPieces pieces(rows());
    ThreadPool& pool = ThreadPool::global();
    const int heads = model_.kv_heads_, groups = static_cast<int>(sequences_.size()) * heads;
    const int depth = static_cast<int>(model_.layers_.size());
    pool.run(pieces.count(), [&](int item) noexcept {
      take(pieces.first(item), pieces.size(item));
      if (depth > 0) project(model_.layers_[0], pieces.first(item), pieces.size(item));
    });
    for (int i = 0; i < depth; ++i) {
      const DecoderLayer& layer = model_.layers_[i];
      pool.run(groups, [&](int item) noexcept { attend(layer, sequences_[item / heads], item % heads); });
      pool.run(pieces.count(), [&](int item) noexcept {
        finish(layer, pieces.first(item), pieces.size(item));
        if (i + 1 < depth) project(model_.layers_[i + 1], pieces.first(item), pieces.size(item));
      });
    }
    give();
  }

 private:
  struct Sequence {
    int first, rows;
  };

  int projected_width() const { return (model_.heads_ + 2 * model_.kv_heads_) * model_.head_dim_; }

  // Rows of the input, and what turns them: cosines, then sines.
  void take(int first, int count) noexcept {
    const int width = model_.width(), dim = model_.head_dim_;
    for (int row = first; row < first + count; ++row) {
      const float* source = given_.x + int64_t{places_[row]} * width;
      std::copy(source, source + width, x_ + int64_t{row} * width);
      if (!given_.rope) continue;
      const float* pair = given_.rope + int64_t{places_[row] % given_.tokens} * dim;
      float* turn = turns_ + int64_t{row} * dim;
      for (int i = 0; i < dim / 2; ++i, pair += 2) {
        turn[i] = pair[0];
        turn[dim / 2 + i] = pair[1];
      }
    }
  }

  void project(const DecoderLayer& layer, int first, int count) noexcept {
    packed_linear_serial(*layer.qkv, {.rows = count,
                                      .x = x_ + int64_t{first} * model_.width(),
                                      .x_stride = model_.width(),
                                      .y = projected_ + int64_t{first} * projected_width(),
                                      .y_stride = projected_width(),
                                      .shift = {},
                                      .scale = {},
                                      .eps = model_.eps_,
                                      .gate = {},
                                      .rms_weight = layer.input_norm.data()});
  }

  void attend(const DecoderLayer& layer, const Sequence& sequence, int kv_head) noexcept {
    const int dim = model_.head_dim_, queries = model_.heads_ * dim;
    const float* q = projected_ + int64_t{sequence.first} * projected_width();
    const float* turns = given_.rope ? turns_ + int64_t{sequence.first} * dim : nullptr;
    const float* k = q + queries;
    sequence_attention_serial({.queries = sequence.rows,
                               .keys = sequence.rows,
                               .heads = model_.heads_,
                               .kv_heads = model_.kv_heads_,
                               .head_dim = dim,
                               .causal = true,
                               .q = {q, projected_width(), layer.q_norm.data(), turns},
                               .k = {k, projected_width(), layer.k_norm.data(), turns},
                               .v = k + model_.kv_heads_ * dim,
                               .eps = model_.eps_,
                               .out = mixed_ + int64_t{sequence.first} * queries,
                               .out_stride = queries},
                              kv_head);
  }

  void finish(const DecoderLayer& layer, int first, int count) noexcept {
    const int width = model_.width(), hidden = layer.down->weights().inputs, queries = model_.heads_ * model_.head_dim_;
    float* const x = x_ + int64_t{first} * width;
    add_product(*layer.out, mixed_ + int64_t{first} * queries, queries, count, x);
    auto* const both = static_cast<float*>(
        thread_scratch(Scratch::kChain, sizeof(float) * packed_linear_item_rows() * 2 * int64_t{model_.hidden_}));
    packed_linear_serial(*layer.gate_up, {.rows = count,
                                          .x = x,
                                          .x_stride = width,
                                          .y = both,
                                          .y_stride = 2 * hidden,
                                          .shift = {},
                                          .scale = {},
                                          .eps = model_.eps_,
                                          .gate = {},
                                          .rms_weight = layer.hidden_norm.data()});
    auto* const swiglu_row = cpu_kernels().swiglu_row;
    for (int r = 0; r < count; ++r) {
      float* gate = both + int64_t{r} * 2 * hidden;
      swiglu_row(gate, gate + hidden, hidden, gate);
    }
    add_product(*layer.down, both, 2 * hidden, count, x);
  }

  // x += linear(y)
  void add_product(const PackedLinear& linear, const float* y, int64_t stride, int count, float* x) noexcept {
    packed_linear_serial(linear, {.rows = count,
                                  .x = y,
                                  .x_stride = stride,
                                  .y = x,
                                  .y_stride = model_.width(),
                                  .shift = {},
                                  .scale = {},
                                  .gate = {model_.ones_.data(), 0},
                                  .residual = x,
                                  .residual_stride = model_.width()});
  }

  void give() noexcept {
    const int width = model_.width();
    auto* const norm = cpu_kernels().rms_norm_row;
    int row = 0;
    for (int place = 0; place < given_.batch * given_.tokens; ++place) {
      float* out = given_.out + int64_t{place} * width;
      if (row < rows() && places_[row] == place) {
        norm(x_ + int64_t{row++} * width, model_.final_norm_.data(), width, model_.eps_, out);
      } else {
        std::fill(out, out + width, 0.0f);
      }
    }
  }

  const LanguageModel& model_;
  const LanguagePass& given_;
  std::vector<int> places_;  // of the rows, in (batch, tokens)
  std::vector<Sequence> sequences_;
  float* x_;
  float* projected_;  // queries, keys, values
  float* mixed_;      // what attention gives
  float* turns_;
};

void LanguageModel::run(const LanguagePass& pass) const { Pass(*this, pass).run(); }

}  // namespace streamchar
