// packed_linear with AMX tiles: 32 rows by 32 outputs at a time.
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/narrow_rows.h"

namespace streamchar::amx {
namespace {

constexpr int kPiece = 64;                                // bytes of a tile row
constexpr int kStepBytes = kAmxLinearRows * kPiece;       // a piece of every row
constexpr int64_t kTileBytes = kTile * kPiece;

// sums[32][32] of the tiles `tile` and `tile + 1`. x: [steps][32 rows][64 bytes].
template <bool kInt8, bool kTwo>
SC_INLINE void multiply_tiles(const char* x, const char* weights, int64_t weight_tile, int steps, float* sums) {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kTwo) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int s = 0; s < steps; ++s, x += kStepBytes, weights += kTileBytes) {
    _tile_loadd(4, x, kPiece);
    _tile_loadd(6, weights, kPiece);
    _tile_loadd(7, weights + weight_tile, kPiece);
    if constexpr (kTwo) _tile_loadd(5, x + kTileBytes, kPiece);
    if constexpr (kInt8) {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      if constexpr (kTwo) {
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
      }
    } else {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (kTwo) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  constexpr int kStride = 2 * kTile * sizeof(float);
  _tile_stored(0, sums, kStride);
  _tile_stored(1, sums + kTile, kStride);
  if constexpr (kTwo) {
    _tile_stored(2, sums + kTile * 2 * kTile, kStride);
    _tile_stored(3, sums + kTile * 2 * kTile + kTile, kStride);
  }
}

template <bool kInt8>
SC_INLINE void linear_block_of(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                               char* x) {
  const int steps = weights.padded_inputs * weights.element_bytes() / kPiece;
  float scales[kAmxLinearRows] = {};
  const InputRows given = input_rows(weights, call, block, x);
  for (int r = 0; r < block.rows; ++r) {
    if constexpr (kInt8) {
      scales[r] = int8_row<false>(given.row(r), weights.inputs, weights.padded_inputs, x + r * kPiece, kStepBytes);
    } else {
      bf16_row(given.row(r), weights.inputs, weights.padded_inputs, x + r * kPiece, kStepBytes);
    }
  }
  // Tiles take 16 rows whether they are needed or not; what those give is not used, but denormals would be slow.
  const int tile_rows = block.rows > kTile ? 2 * kTile : kTile;
  for (int s = 0; s < steps; ++s) {
    __builtin_memset(x + s * kStepBytes + block.rows * kPiece, 0, (tile_rows - block.rows) * kPiece);
  }
  for (int tile = block.first_tile; tile < block.first_tile + block.tiles; tile += 2) {
    const char* data = static_cast<const char*>(weights.data) + tile * weights.tile_bytes();
    alignas(64) float sums[kAmxLinearRows][2 * kTile];
    if (block.rows > kTile) {
      multiply_tiles<kInt8, true>(x, data, weights.tile_bytes(), steps, sums[0]);
    } else {
      multiply_tiles<kInt8, false>(x, data, weights.tile_bytes(), steps, sums[0]);
    }
    for (int r = 0; r < block.rows; ++r) {
      for (int half = 0; half < 2; ++half) {
        float* row = &sums[r][half * kTile];
        if constexpr (kInt8) _mm512_store_ps(row, _mm512_cvtepi32_ps(_mm512_load_si512(row)));
        finish_outputs(weights, call, block.first_row + r, (tile + half) * kTile, kTile, row, scales[r]);
      }
    }
  }
}

}  // namespace

void linear_block(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                  void* scratch) noexcept {
  _tile_loadconfig(&kTileConfig);
  if (weights.storage == LinearStorage::kInt8) {
    linear_block_of<true>(weights, call, block, static_cast<char*>(scratch));
  } else {
    linear_block_of<false>(weights, call, block, static_cast<char*>(scratch));
  }
  _tile_release();
}

}  // namespace streamchar::amx
