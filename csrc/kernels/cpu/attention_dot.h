// segment_attention of one block of query rows over int8 panels with VPDPBUSD, whatever the width of a vector.
//
// A query row is rounded to int8 with a step of its own, after the turn for the segment at hand; logits are sums of
// products of whole numbers, times both steps. The weights of one panel are rounded to multiples of 1/255 of the
// largest of them, so that a panel of small weights keeps its digits beside one of large ones; their sums with the
// values are whole numbers again, and are folded into float32 panel by panel. The denominator sums the same rounded
// weights.
//
// The softmax takes as long as both products here, so it is kept lean: a cubic exp2, and running sums that are rescaled
// only where a row has grown by more than 2^8.
#pragma once

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/exp2_cubic.h"
#include "kernels/cpu/token_row.h"

namespace streamchar::SC_ISA {

static constexpr int kRows = 6;  // of a register tile
static_assert(kBlockRows % kRows == 0);
static constexpr float kLog2E = 1.4426950408889634f;
static constexpr float kLn2 = 0.6931471805599453f;
static constexpr float kNoMaximum = -1e30f;
static constexpr float kGrowth = 8.0f;        // log2 of what a panel's largest weight may exceed 1 by
static constexpr float kLog2Units = 7.9943534368588578f;  // log2(255): a panel's largest weight is 255 units

template <int kDim>
struct BlockState {
  alignas(64) float base[kBlockRows][kDim];     // scaled queries at their local positions
  alignas(64) uint8_t query[kBlockRows][kDim];  // ... turned for the segment at hand, in steps, 128 too large
  alignas(64) float sum[kBlockRows][kDim];
  alignas(64) float denominator[kBlockRows][kLanes];
  // One number for each row, read in whole vectors.
  float step[kBlockRows + kLanes];
  float reference[kBlockRows + kLanes];         // log2 of what sums are relative to
};

// Of one tile of rows and one panel.
struct Tile {
  alignas(64) float logits[kRows][kPanelTokens];
  alignas(64) uint8_t weights[kRows][kPanelTokens];
  alignas(64) float factor[kLanes];  // of each row's whole numbers
};

// What a width of vectors has to offer, for a tile of kRows rows and a panel.
//
// bytes = a row in steps of what is returned, plus 128.
template <int kDim>
SC_INLINE float narrow_query(const float* x, uint8_t* bytes);
// Logits in units of the rows' steps.
template <int kDim>
SC_OWN_REGISTERS void logits_tile(const uint8_t (*query)[kDim], const char* panel, Tile& tile);
// Weights in units of 1/255 of each row's largest one, zeros from `count` on, and the factors that bring them to the rows'
// references.
template <int kDim>
SC_OWN_REGISTERS void weights_tile(BlockState<kDim>& state, int row, int count, Tile& tile);
// Adds the weighted values of a panel to the sums, and its weights to the denominators.
template <int kDim>
SC_OWN_REGISTERS void values_tile(BlockState<kDim>& state, int row, const char* panel, int count, const Tile& tile);

// A row's sums and denominator relative to another reference.
template <int kDim>
SC_INLINE void rescale(BlockState<kDim>& state, int row, float by) {
  const Vec factor = broadcast(by);
  store(state.denominator[row], mul(factor, load(state.denominator[row])));
  for (int d = 0; d < kDim; d += kLanes) store(&state.sum[row][d], mul(factor, load(&state.sum[row][d])));
}

template <int kDim>
SC_INLINE void attention_block_of(const SegmentAttention& call, int head, int first_row) {
  BlockState<kDim> state;
  Tile tile;
  const int rows = min(kBlockRows, call.tokens - first_row), padded = (rows + kRows - 1) / kRows * kRows;
  const float scale = kLog2E / __builtin_sqrtf(static_cast<float>(kDim));
  for (int r = 0; r < rows; ++r) {
    ready_token<kDim>(call.q, call.norm, call.rope, first_row + r, head, scale, state.base[r]);
  }
  for (int r = 0; r < kBlockRows + kLanes; ++r) {
    state.reference[r] = kNoMaximum;
    state.step[r] = 0.0f;
  }
  // Tiles take six rows whether they are needed or not: those beyond the last are zero.
  __builtin_memset(state.query[rows], 128, (padded - rows) * kDim);
  __builtin_memset(state.sum, 0, sizeof(float) * padded * kDim);
  __builtin_memset(state.denominator, 0, sizeof(float) * padded * kLanes);

  for (int s = 0; s < call.segment_count; ++s) {
    const PanelSegment& segment = call.segments[s];
    if (segment.rows == 0) continue;
    for (int r = 0; r < rows; ++r) {
      alignas(64) float moved[kDim];
      const float* turned = state.base[r];
      if (segment.shift) {
        ready_row<kDim>(state.base[r], nullptr, 0.0f, segment.shift, 1.0f, moved);
        turned = moved;
      }
      state.step[r] = narrow_query<kDim>(turned, state.query[r]);
    }
    const PanelLayout layout{call.heads, kDim, segment.capacity};
    for (int p = 0; p * kPanelTokens < segment.rows; ++p) {
      const char* panel = static_cast<const char*>(segment.data) + layout.panel_offset(KvType::kInt8, head, p);
      const int count = min(kPanelTokens, segment.rows - p * kPanelTokens);
      for (int row = 0; row < padded; row += kRows) {
        // A block's tiles bring the next panel into the second-level cache.
        constexpr int kLines = static_cast<int>(Int8Panel{kDim}.bytes() / 64) * kRows / kBlockRows + 1;
        const char* ahead = panel + Int8Panel{kDim}.bytes() + row / kRows * kLines * 64;
        for (int i = 0; i < kLines; ++i) __builtin_prefetch(ahead + i * 64, 0, 2);
        logits_tile<kDim>(state.query + row, panel, tile);
        weights_tile<kDim>(state, row, count, tile);
        values_tile<kDim>(state, row, panel, count, tile);
      }
    }
  }

  for (int r = 0; r < rows; ++r) {
    const int64_t index = int64_t{first_row + r} * call.heads + head;
    const float total = reduce_add(load(state.denominator[r]));
    const float finite = 0.0f * state.step[r];  // else NaN
    const Vec inverse = broadcast((total > 0.0f ? 1.0f / total : 0.0f) + finite);
    for (int d = 0; d < kDim; d += kLanes) store(call.out + index * kDim + d, mul(inverse, load(&state.sum[r][d])));
    if (call.lse) {
      const float units = __builtin_log2f(total) - kLog2Units;
      call.lse[index] = total > 0.0f ? (state.reference[r] + units) * kLn2 + finite : -__builtin_inff();
    }
  }
}

}  // namespace streamchar::SC_ISA
