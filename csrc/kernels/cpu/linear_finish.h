// What packed_linear does to its inputs and its sums, for the instruction set of this translation unit.
#pragma once

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/modulate_row.h"

namespace streamchar::SC_ISA {

struct InputRows {
  const float* data;
  int64_t stride;
  SC_HOST_DEVICE const float* row(int r) const { return data + r * stride; }
};

// The block's rows as they are multiplied: where they lie, or normalised in the scratch.
SC_INLINE InputRows input_rows(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                               void* scratch) {
  const InputRows given = {call.x + block.first_row * call.x_stride, call.x_stride};
  if (!call.shift.data && !call.rms_weight) return given;
  const int64_t stride = weights.padded_inputs;
  float* normal = static_cast<float*>(scratch) + kLinearOwnRows * stride;
  for (int r = 0; r < block.rows; ++r) {
    const int row = block.first_row + r;
    if (call.rms_weight) {
      rms_norm_row(given.row(r), call.rms_weight, weights.inputs, call.eps, normal + r * stride);
    } else {
      modulate_row(given.row(r), call.shift.of(row, call.rows_per_batch), call.scale.of(row, call.rows_per_batch),
                   weights.inputs, call.eps, normal + r * stride);
    }
  }
  return {normal, stride};
}

// The block's rows as narrow ones, in words of 32 bits, padded. narrow(row, bytes) returns a row's scale.
template <typename Narrow>
SC_INLINE const int32_t* narrow_inputs(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                                       void* scratch, float* scales, const Narrow& narrow) {
  const int64_t words = weights.padded_inputs / weights.group();
  auto* x = static_cast<int32_t*>(scratch);
  const InputRows given = input_rows(weights, call, block, scratch);
  for (int r = 0; r < block.rows; ++r) scales[r] = narrow(given.row(r), reinterpret_cast<char*>(x + r * words));
  return x;
}

// x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2, as x / (1 + 2^e).
SC_INLINE Vec gelu_tanh(Vec x) {
  constexpr float kSlope = -2.3022082f;  // -2 sqrt(2 / pi) log2(e)
  const Vec e = mul(x, fma(mul(x, x), broadcast(0.044715f * kSlope), broadcast(kSlope)));
  return div(x, add(exp2(min(e, broadcast(126.0f))), broadcast(1.0f)));
}

// x times the normal distribution's share below x, as max(x, 0) - |x| times that beyond |x|, whose relative error
// stays small: Abramowitz and Stegun, 7.1.26, within 1.5e-7 / 2.
SC_INLINE Vec gelu(Vec x) {
  constexpr float kTerms[] = {1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f};
  constexpr float kStep = 0.3275911f * 0.70710678f, kHalfLog2E = -0.72134752f;
  const Vec size = max(x, sub(broadcast(0.0f), x));
  const Vec t = div(broadcast(1.0f), fma(size, broadcast(kStep), broadcast(1.0f)));
  Vec sum = broadcast(kTerms[0]);
  for (int i = 1; i < 5; ++i) sum = fma(sum, t, broadcast(kTerms[i]));
  const Vec beyond = mul(mul(mul(sum, t), broadcast(0.5f)), exp2(mul(mul(x, x), broadcast(kHalfLog2E))));
  return sub(max(x, broadcast(0.0f)), mul(size, beyond));
}

// Turns the sums of stored numbers of one row into outputs [first, first + width); width: 16 at most, in vectors.
SC_INLINE void finish_outputs(const PackedWeights& weights, const LinearCall& call, int row, int first, int width,
                              const float* sums, float row_scale) {
  const int count = min(width, weights.outputs - first);
  if (count <= 0) return;
  alignas(64) float finished[kTileOutputs];
  float* y = call.y + row * call.y_stride + first;
  float* target = count == width ? y : finished;
  const float* gate = nullptr;
  const float* residual = nullptr;
  alignas(64) float gate_part[kTileOutputs] = {}, residual_part[kTileOutputs] = {};
  if (call.gate.data) {
    gate = call.gate.of(row, call.rows_per_batch) + first;
    residual = call.residual + row * call.residual_stride + first;
    if (count < width) {
      __builtin_memcpy(gate_part, gate, sizeof(float) * count);
      __builtin_memcpy(residual_part, residual, sizeof(float) * count);
      gate = gate_part;
      residual = residual_part;
    }
  }
  for (int n = 0; n < width; n += kLanes) {
    Vec sum = load(sums + n);
    if (weights.storage == LinearStorage::kInt8) {
      sum = mul(sum, mul(load(weights.scale + first + n), broadcast(row_scale)));
    }
    sum = add(sum, load(weights.bias + first + n));
    if (call.activation == Activation::kGeluTanh) sum = gelu_tanh(sum);
    if (call.activation == Activation::kGelu) sum = gelu(sum);
    if (gate) sum = fma(load(gate + n), sum, load(residual + n));
    store(target + n, sum);
  }
  if (target != y) __builtin_memcpy(y, finished, sizeof(float) * count);
}

// The largest magnitude as bits, so that a NaN counts as larger than any number.
SC_INLINE uint32_t largest_bits(const float* x, int count) {
  uint32_t largest = 0;
  for (int k = 0; k < count; ++k) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + k, sizeof bits);
    bits &= 0x7FFFFFFFu;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

// How a row becomes int8: x * inverse, and back by scale. NaN as scale marks a row that is not finite.
struct RowScale {
  float scale;
  float inverse;
};

// Of a row whose largest magnitude has these bits.
SC_INLINE RowScale row_scale_of(uint32_t bits) {
  if (bits >= 0x7F800000u) return {__builtin_nanf(""), 0.0f};
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  if (largest < 1e-35f) return {0.0f, 0.0f};  // so that the inverse is finite
  return {largest / 127.0f, 127.0f / largest};
}

SC_INLINE RowScale row_scale(const float* x, int count) { return row_scale_of(largest_bits(x, count)); }

}  // namespace streamchar::SC_ISA
