// packed_linear: y = activation(x W^T + bias) with weights packed once. Around it, where asked for, the ops that
// surround a transformer's linear layers: adaln_modulate or RMSNorm of x before, gated_residual of y after.
//
// fp32: weights and inputs as they are, summed in their order.
// bf16: weights are rounded to bfloat16, and inputs too where the machine multiplies bf16 pairs; sums are float32.
// int8: weights are rounded to -127..127 with one scale per output, inputs with one scale per row at the call
//   (largest magnitude = 127); products are summed exactly in 32 bits, so
//   |y - exact| <= scale_x / 2 * sum |w| + scale_w / 2 * sum |x| + inputs * scale_x * scale_w / 4, but for rounding.
//   A row that holds an infinity or NaN becomes NaN.
//
// A row of y depends on that row of x (and its residual) alone: not on the other rows, their number, or the number of
// threads.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/host_device.h"

namespace streamchar {

enum class LinearStorage { kFloat32, kBFloat16, kInt8 };
enum class Activation { kNone, kGeluTanh, kGelu };

// Weights lie in tiles of 16 outputs. A tile is [inputs / group][16][group] with as many inputs in a group as fit 32
// bits: what AMX takes as its second operand, and VDPBF16PS and VPDPBUSD as a vector; of float32, one.
inline constexpr int kTileOutputs = 16;

struct PackedWeights {
  LinearStorage storage;
  int outputs;
  int inputs;
  int padded_inputs;      // a multiple of 64; the added ones are zero
  int tiles;              // even
  const void* data;
  const float* bias;      // (tiles * 16,)
  const float* scale;     // (tiles * 16,) of int8 weights
  const int32_t* sum128;  // (tiles * 16,) 128 times the sum of an output's int8 weights

  SC_HOST_DEVICE int element_bytes() const {
    return storage == LinearStorage::kFloat32 ? 4 : storage == LinearStorage::kBFloat16 ? 2 : 1;
  }
  SC_HOST_DEVICE int group() const { return 4 / element_bytes(); }
  SC_HOST_DEVICE int64_t tile_bytes() const { return int64_t{kTileOutputs} * padded_inputs * element_bytes(); }
  // Elements from the start of `data`.
  SC_HOST_DEVICE int64_t offset(int output, int input) const {
    const int64_t word = int64_t{output / kTileOutputs} * (padded_inputs / group()) + input / group();
    return (word * kTileOutputs + output % kTileOutputs) * group() + input % group();
  }
};

class PackedLinear {
 public:
  // weight: (outputs, inputs) contiguous, finite; bias: (outputs,) or null.
  PackedLinear(const float* weight, const float* bias, int outputs, int inputs, LinearStorage storage);
  ~PackedLinear();
  PackedLinear(const PackedLinear&) = delete;
  PackedLinear& operator=(const PackedLinear&) = delete;

  const PackedWeights& weights() const { return weights_; }
  int64_t bytes() const;

  // The weights as they are multiplied, (outputs, inputs) contiguous.
  void read(float* weight) const;

 private:
  struct Memory;

  PackedWeights weights_;
  std::unique_ptr<Memory> memory_;
};

// One vector for each batch of rows. Null data: not there; a stride of 0 shares one vector.
struct BatchVector {
  const float* data = nullptr;
  int64_t stride = 0;

  SC_HOST_DEVICE const float* of(int row, int rows_per_batch) const { return data + row / rows_per_batch * stride; }
};

struct LinearCall {
  int rows;
  const float* x;    // (rows, inputs), channels contiguous
  int64_t x_stride;  // in elements
  float* y;          // (rows, outputs), channels contiguous; not x
  int64_t y_stride;
  Activation activation = Activation::kNone;

  int rows_per_batch = 1;             // of the vectors below
  BatchVector shift;                  // (inputs,), both or neither: x becomes adaln_modulate(x, shift, scale, eps)
  BatchVector scale;
  float eps = 0.0f;                   // of either norm
  BatchVector gate;                   // (outputs,): y becomes residual + gate * y
  const float* residual = nullptr;    // (rows, outputs), channels contiguous; may be y
  int64_t residual_stride = 0;
  const float* rms_weight = nullptr;  // (inputs,), without shift and scale: x becomes x / rms(x) * rms_weight
};

// Uses ThreadPool::global().
void packed_linear_cpu(const PackedLinear& linear, const LinearCall& call);

// The same on the calling thread alone: for work items that apply several layers to a few rows.
void packed_linear_serial(const PackedLinear& linear, const LinearCall& call);

// The rows that such an item does best with; any storage.
int packed_linear_item_rows();

}  // namespace streamchar
