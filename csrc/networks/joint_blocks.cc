#include "networks/joint_blocks.h"

#include <algorithm>
#include <array>
#include <string>

#include "kernels/thread_pool.h"
#include "kernels/thread_scratch.h"
#include "networks/chain_parts.h"

namespace streamchar {
namespace {

constexpr float kQkNormEps = 1e-6f;
constexpr int kVectors = 6;  // of a modulation

// Rows of one stream and kind that a work item takes.
struct Piece {
  int stream;
  bool audio;
  int first;
  int rows;
};

std::vector<Piece> pieces_of(const JointPass& pass) {
  std::vector<Piece> pieces;
  const int most = packed_linear_item_rows();
  for (int stream = 0; stream < static_cast<int>(pass.streams.size()); ++stream) {
    for (const bool audio : {false, true}) {
      const int tokens = audio ? pass.audio_tokens : pass.video_tokens;
      for (int first = 0; first < tokens; first += most) {
        pieces.push_back({stream, audio, first, std::min(most, tokens - first)});
      }
    }
  }
  return pieces;
}

// Prepares every stream, or none: throws what CpuContext::prepare does.
void prepare(const JointPass& pass, int tokens) {
  std::size_t ready = 0;
  std::vector<bool> opened(pass.streams.size());
  try {
    for (; ready < pass.streams.size(); ++ready) {
      const JointStream& stream = pass.streams[ready];
      opened[ready] = stream.context->prepare(tokens, stream.reads, pass.store);
    }
  } catch (...) {
    while (ready-- > 0) {
      if (opened[ready]) pass.streams[ready].context->cache().drop(*pass.store);
    }
    throw;
  }
}

const JointHalf& half_of(const JointBlock& block, bool audio) { return audio ? block.audio : block.video; }

}  // namespace

JointBlocks::JointBlocks(int heads, int head_dim, std::vector<JointBlock> blocks)
    : heads_(heads), head_dim_(head_dim), blocks_(std::move(blocks)) {
  const int width = this->width();
  const std::string self = "a joint block";
  for (const JointBlock& block : blocks_) {
    Norms norms;
    for (const JointHalf* half : {&block.video, &block.audio}) {
      const int hidden = half->expand ? half->expand->weights().outputs : 0;
      check_linear(self, half->qkv.get(), width, 3 * width);
      check_linear(self, half->out.get(), width, width);
      check_linear(self, half->expand.get(), width, hidden);
      check_linear(self, half->contract.get(), hidden, width);
      check_size(self, half->table, kVectors * width);
      check_size(self, half->q_norm, head_dim);
      check_size(self, half->k_norm, head_dim);
      hidden_ = std::max(hidden_, hidden);
      norms.q.insert(norms.q.end(), half->q_norm.begin(), half->q_norm.end());
      norms.k.insert(norms.k.end(), half->k_norm.begin(), half->k_norm.end());
    }
    norms_.push_back(std::move(norms));
  }
}

void JointBlocks::run(const JointPass& pass) const {
  const int width = this->width(), tokens = pass.video_tokens + pass.audio_tokens;
  const int streams = static_cast<int>(pass.streams.size());
  const int64_t rows = int64_t{streams} * tokens, vectors = int64_t{kVectors} * width;
  if (rows == 0 || blocks_.empty()) return;

  // q, k and v of all rows, then attention's results, then every block's modulation of each stream and kind.
  auto* const projected = static_cast<float*>(
      thread_scratch(Scratch::kCaller, sizeof(float) * (rows * 4 * width + depth() * streams * 2 * vectors)));
  float* const mixed = projected + rows * 3 * width;
  float* const modulations = mixed + rows * width;
  const auto modulation_of = [&](int layer, int stream, bool audio) {
    return modulations + ((int64_t{layer} * streams + stream) * 2 + audio) * vectors;
  };
  for (int layer = 0; layer < depth(); ++layer) {
    for (int stream = 0; stream < streams; ++stream) {
      for (const bool audio : {false, true}) {
        const float* own = half_of(blocks_[layer], audio).table.data();
        const float* given = pass.modulation + stream * pass.modulation_stride;
        float* sum = modulation_of(layer, stream, audio);
        for (int64_t i = 0; i < vectors; ++i) sum[i] = given[i] + own[i];
      }
    }
  }

  const std::vector<Piece> pieces = pieces_of(pass);
  prepare(pass, tokens);
  const auto tokens_of = [&](const Piece& piece) {
    const int64_t all = piece.audio ? pass.audio_tokens : pass.video_tokens;
    return (piece.audio ? pass.audio : pass.video) + (piece.stream * all + piece.first) * width;
  };
  const auto row_of = [&](const Piece& piece) {
    return int64_t{piece.stream} * tokens + piece.first + (piece.audio ? pass.video_tokens : 0);
  };
  const auto project = [&](const Piece& piece, int layer) noexcept {
    const float* m = modulation_of(layer, piece.stream, piece.audio);
    packed_linear_serial(*half_of(blocks_[layer], piece.audio).qkv,
                         {.rows = piece.rows,
                          .x = tokens_of(piece),
                          .x_stride = width,
                          .y = projected + row_of(piece) * 3 * width,
                          .y_stride = 3 * width,
                          .rows_per_batch = piece.rows,
                          .shift = {m},
                          .scale = {m + width},
                          .eps = kLayerNormEps,
                          .gate = {}});
  };
  const auto finish = [&](const Piece& piece, int layer) noexcept {
    const JointHalf& half = half_of(blocks_[layer], piece.audio);
    const float* m = modulation_of(layer, piece.stream, piece.audio);
    float* const x = tokens_of(piece);
    auto* const hidden = static_cast<float*>(
        thread_scratch(Scratch::kChain, sizeof(float) * packed_linear_item_rows() * int64_t{hidden_}));
    const int inner = half.expand->weights().outputs;
    packed_linear_serial(*half.out, {.rows = piece.rows,
                                     .x = mixed + row_of(piece) * width,
                                     .x_stride = width,
                                     .y = x,
                                     .y_stride = width,
                                     .rows_per_batch = piece.rows,
                                     .shift = {},
                                     .scale = {},
                                     .gate = {m + 2 * width},
                                     .residual = x,
                                     .residual_stride = width});
    packed_linear_serial(*half.expand, {.rows = piece.rows,
                                        .x = x,
                                        .x_stride = width,
                                        .y = hidden,
                                        .y_stride = inner,
                                        .activation = Activation::kGeluTanh,
                                        .rows_per_batch = piece.rows,
                                        .shift = {m + 3 * width},
                                        .scale = {m + 4 * width},
                                        .eps = kLayerNormEps,
                                        .gate = {}});
    packed_linear_serial(*half.contract, {.rows = piece.rows,
                                          .x = hidden,
                                          .x_stride = inner,
                                          .y = x,
                                          .y_stride = width,
                                          .rows_per_batch = piece.rows,
                                          .shift = {},
                                          .scale = {},
                                          .gate = {m + 5 * width},
                                          .residual = x,
                                          .residual_stride = width});
  };

  ThreadPool& pool = ThreadPool::global();
  const int items = static_cast<int>(pieces.size());
  const std::array<int32_t, 3> bounds = {0, pass.video_tokens, tokens};
  pool.run(items, [&](int item) noexcept { project(pieces[item], 0); });
  for (int layer = 0; layer < depth(); ++layer) {
    for (int stream = 0; stream < streams; ++stream) {
      const float* q = projected + int64_t{stream} * tokens * 3 * width;
      const auto view = [&](int part) { return TokenView{q + part * width, 3 * width, head_dim_}; };
      pass.streams[stream].context->attend(layer,
                                           {.tokens = tokens,
                                            .q = view(0),
                                            .k = view(1),
                                            .v = view(2),
                                            .q_norm = {norms_[layer].q.data(), bounds.data(), 2, kQkNormEps},
                                            .k_norm = {norms_[layer].k.data(), bounds.data(), 2, kQkNormEps},
                                            .rope = pass.rope},
                                           pass.streams[stream].reads, pass.store,
                                           mixed + int64_t{stream} * tokens * width);
    }
    pool.run(items, [&](int item) noexcept {
      finish(pieces[item], layer);
      if (layer + 1 < depth()) project(pieces[item], layer + 1);
    });
  }
}

}  // namespace streamchar
