// The tile shape that all AMX kernels use: eight tiles of 16 rows of 64 bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace streamchar::amx {

inline constexpr int kTile = 16;

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {kTile, kTile, kTile, kTile, kTile, kTile, kTile, kTile};
};

inline constexpr TileConfig kTileConfig;

}  // namespace streamchar::amx
