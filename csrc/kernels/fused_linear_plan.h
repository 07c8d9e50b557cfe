// Host arithmetic of fused_linear: what it refuses, how batches fold into rows, which tile serves a shape. Free of CUDA
// and CUTLASS; tested on the CPU.
#pragma once

#include <cstdint>

#include "kernels/fused_linear.h"

namespace streamchar::cuda {

inline constexpr int kLinearGroup = 8;                 // elements of 16 bytes
inline constexpr int64_t kMostLinearRows = 1 << 30;    // of all batches
inline constexpr int kMostLinearProducts = 65535;

inline bool whole_groups(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; }

inline bool whole_groups(const void* data, int64_t batch_stride, int64_t token_stride) {
  return data && whole_groups(data) && batch_stride % kLinearGroup == 0 && token_stride % kLinearGroup == 0 &&
         batch_stride >= 0 && token_stride >= 0;
}

// The call as so many products of (rows, inputs) with one weight. Batches whose rows follow one another at one stride,
// and which share their gate, are one product.
struct LinearProducts {
  int rows;
  int count;
};

inline LinearProducts linear_products(const FusedLinear& call) {
  const auto follows = [&](int64_t batch_stride, int64_t token_stride) {
    return batch_stride == call.tokens * token_stride;
  };
  const bool gated = call.finish == LinearFinish::kGatedResidual;
  const bool fold = call.batch == 1 || (follows(call.x.batch_stride, call.x.token_stride) &&
                                        follows(call.y_batch_stride, call.y_token_stride) &&
                                        (!gated || (call.gate_batch_stride == 0 &&
                                                    follows(call.residual.batch_stride, call.residual.token_stride))));
  if (fold) return {call.batch * call.tokens, 1};
  return {call.tokens, call.batch};
}

// Why a call is not served; null where it is.
inline const char* fused_linear_refusal(const FusedLinear& call) {
  const bool gated = call.finish == LinearFinish::kGatedResidual;
  if (call.batch < 0 || call.tokens < 0 || call.outputs < 1 || call.inputs < 1) return "sizes must be positive";
  if (int64_t{call.batch} * call.tokens > kMostLinearRows) return "more than 2^30 rows";
  if (linear_products(call).count > kMostLinearProducts) return "more than 65535 batches";
  if (call.inputs % kLinearGroup || call.outputs % kLinearGroup) return "inputs and outputs must be multiples of 8";
  if (int64_t{call.batch} * call.tokens == 0) return nullptr;
  if (!whole_groups(call.x.data, call.x.batch_stride, call.x.token_stride) ||
      !whole_groups(call.y, call.y_batch_stride, call.y_token_stride)) {
    return "x and y must be 16-byte aligned, their strides multiples of 8";
  }
  if (call.x.token_stride < call.inputs || call.y_token_stride < call.outputs) return "rows of x or y overlap";
  if (!call.weight || !whole_groups(call.weight) || !whole_groups(call.bias)) {
    return "weight and bias must be 16-byte aligned";
  }
  if (gated != (call.gate != nullptr) || gated != (call.residual.data != nullptr)) {
    return "gate and residual belong to the gated residual, and both to it";
  }
  if (!gated) return nullptr;
  if (!whole_groups(call.gate, call.gate_batch_stride, 0)) {
    return "gate must be 16-byte aligned, its stride a multiple of 8";
  }
  if (!whole_groups(call.residual.data, call.residual.batch_stride, call.residual.token_stride) ||
      call.residual.token_stride < call.outputs) {
    return "residual must be 16-byte aligned, its strides multiples of 8";
  }
  return nullptr;
}

// A tile of outputs as one thread block computes it; `cluster` neighbours along the rows share what they read of the
// weights. `rate`: how fast it multiplies beside the fastest, which is 16. Estimates from what a tile reads of shared
// memory and L2 for each product, not measurements.
struct LinearTile {
  int rows;
  int columns;
  int cluster;
  int rate;
};

inline constexpr LinearTile kLinearTilesSm90[] = {{64, 64, 1, 5}, {128, 128, 2, 13}, {128, 256, 2, 16}};
inline constexpr LinearTile kLinearTilesSm80[] = {{64, 64, 1, 9}, {128, 128, 1, 16}};

// Time of a persistent grid, in units of its own: waves of tiles, each as long as a tile's products take.
inline int64_t linear_cost(const LinearTile& tile, LinearProducts products, int outputs, int processors) {
  const auto parts = [](int64_t size, int part) { return (size + part - 1) / part; };
  const int64_t down = parts(parts(products.rows, tile.rows), tile.cluster) * tile.cluster;
  const int64_t tiles = down * parts(outputs, tile.columns) * products.count;
  return parts(tiles, processors) * tile.rows * tile.columns * 16 / tile.rate;
}

// The tile of least cost; among equals the larger.
template <int kCount>
int linear_tile(const LinearTile (&tiles)[kCount], LinearProducts products, int outputs, int processors) {
  int best = kCount - 1;
  for (int i = kCount - 2; i >= 0; --i) {
    if (linear_cost(tiles[i], products, outputs, processors) <
        linear_cost(tiles[best], products, outputs, processors)) {
      best = i;
    }
  }
  return best;
}

}  // namespace streamchar::cuda
