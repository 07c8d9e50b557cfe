// packed_linear in float32, for the instruction set of this translation unit. Narrow weights are widened panel by panel,
// and inputs stay float32 (of int8 storage: whole numbers, whose sums are exact up to 1040 inputs).
#pragma once

#include "kernels/cpu/linear_finish.h"
#include "kernels/cpu/row_tiles.h"

namespace streamchar::SC_ISA {

static constexpr int kPanelOutputs = kTileVectors * kLanes;

// wide[input][kPanelOutputs] of `outputs` outputs from `first` on.
SC_INLINE void widen_outputs(const PackedWeights& weights, int first, int outputs, float* wide) {
  const int group = weights.group();
  for (int k = 0; k < weights.inputs; k += group) {
    for (int n = 0; n < outputs; n += kLanes) {
      const int64_t at = weights.offset(first + n, k);
      float* target = wide + int64_t{k} * kPanelOutputs + n;
      if (weights.storage == LinearStorage::kBFloat16) {
        Vec even, odd;
        widen_pairs(static_cast<const uint16_t*>(weights.data) + at, even, odd);
        store(target, even);
        store(target + kPanelOutputs, odd);
      } else {
        Vec quad[4];
        widen_quads(static_cast<const int8_t*>(weights.data) + at, quad);
        for (int i = 0; i < 4; ++i) store(target + i * kPanelOutputs, quad[i]);
      }
    }
  }
}

// sums[r][n] = dot(x[r], output n) for kVectors vectors of a panel.
template <int kRows, int kVectors>
SC_INLINE void multiply_rows(const float* x, int64_t x_stride, int inputs, const float* wide,
                             float (*sums)[kPanelOutputs]) {
  Vec sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kVectors; ++c) sum[r][c] = broadcast(0.0f);
  }
  for (int k = 0; k < inputs; ++k, wide += kPanelOutputs) {
    Vec w[kVectors];
    for (int c = 0; c < kVectors; ++c) w[c] = in_register(load(wide + c * kLanes));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec value = broadcast(x[r * x_stride + k]);
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) sum[r][c] = fma(value, w[c], sum[r][c]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kVectors; ++c) store(&sums[r][c * kLanes], sum[r][c]);
  }
}

// Inputs whose float32 weights, of a panel, stay in the first-level cache while rows pass by.
static constexpr int kPlainInputs = 128;

// The same with float32 weights where they lie: w[c] is the first one of vector c. Adds to the sums unless `first`.
template <int kRows, int kVectors>
SC_OWN_REGISTERS void multiply_plain(const float* x, int64_t x_stride, int inputs, const float* const* w, bool first,
                                     float (*sums)[kPanelOutputs]) {
  Vec sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) sum[r][c] = first ? broadcast(0.0f) : load(&sums[r][c * kLanes]);
  }
  for (int k = 0; k < inputs; ++k) {
    Vec weight[kVectors];
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) weight[c] = in_register(load(w[c] + k * kTileOutputs));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec value = broadcast(x[r * x_stride + k]);
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) sum[r][c] = fma(value, weight[c], sum[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) store(&sums[r][c * kLanes], sum[r][c]);
  }
}

// sums of all rows with a panel of kVectors vectors of float32 weights.
template <int kVectors>
SC_INLINE void multiply_plain_panel(const PackedWeights& weights, const InputRows& x, int rows, int first,
                                    float (*sums)[kPanelOutputs]) {
  const auto* data = static_cast<const float*>(weights.data);
  for (int k = 0; k < weights.inputs; k += kPlainInputs) {
    const float* w[kVectors];
    for (int c = 0; c < kVectors; ++c) w[c] = data + weights.offset(first + c * kLanes, k);
    for_each_tile(rows, [&]<int kRows>(int row) __attribute__((always_inline)) {
      multiply_plain<kRows, kVectors>(x.row(row) + k, x.stride, min(kPlainInputs, weights.inputs - k), w, k == 0,
                                      sums + row);
    });
  }
}

// out = the whole numbers that x is rounded to, as floats. Returns the scale back.
SC_INLINE float round_row(const float* x, int count, float* out) {
  const RowScale scale = row_scale(x, count);
  const Vec inverse = broadcast(scale.inverse);
  const int whole = count - count % kLanes;
  for (int k = 0; k < whole; k += kLanes) store(out + k, nearest(mul(load(x + k), inverse)));
  if (whole < count) {
    alignas(64) float rest[kLanes] = {};
    __builtin_memcpy(rest, x + whole, sizeof(float) * (count - whole));
    store(rest, nearest(mul(load(rest), inverse)));
    __builtin_memcpy(out + whole, rest, sizeof(float) * (count - whole));
  }
  return scale.scale;
}

SC_INLINE void linear_block_any(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                                void* scratch) {
  auto* wide = static_cast<float*>(scratch);
  InputRows x = input_rows(weights, call, block, scratch);
  float scales[kLinearRows] = {};
  if (weights.storage == LinearStorage::kInt8) {
    float* rounded = wide + int64_t{64} * weights.padded_inputs;
    for (int r = 0; r < block.rows; ++r) {
      scales[r] = round_row(x.row(r), weights.inputs, rounded + int64_t{r} * weights.padded_inputs);
    }
    x = {rounded, weights.padded_inputs};
  }
  const int last = (block.first_tile + block.tiles) * kTileOutputs;
  for (int first = block.first_tile * kTileOutputs; first < last; first += kPanelOutputs) {
    const int outputs = min(kPanelOutputs, last - first);
    alignas(64) float sums[kLinearRows][kPanelOutputs];
    if (weights.storage == LinearStorage::kFloat32) {
      if (outputs == kPanelOutputs) {
        multiply_plain_panel<kTileVectors>(weights, x, block.rows, first, sums);
      } else {
        multiply_plain_panel<kTileVectors / 2>(weights, x, block.rows, first, sums);
      }
    } else {
      widen_outputs(weights, first, outputs, wide);
      for_each_tile(block.rows, [&]<int kRows>(int row) __attribute__((always_inline)) {
        if (outputs == kPanelOutputs) {
          multiply_rows<kRows, kTileVectors>(x.row(row), x.stride, weights.inputs, wide, sums + row);
        } else {
          multiply_rows<kRows, kTileVectors / 2>(x.row(row), x.stride, weights.inputs, wide, sums + row);
        }
      });
    }
    for (int r = 0; r < block.rows; ++r) {
      for (int n = 0; n < outputs; n += kTileOutputs) {
        finish_outputs(weights, call, block.first_row + r, first + n, min(kTileOutputs, outputs), &sums[r][n],
                       scales[r]);
      }
    }
  }
}

}  // namespace streamchar::SC_ISA
