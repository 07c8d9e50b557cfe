// Arithmetic of the sm_90a attention kernel: where wgmma and the bulk tensor copies expect operands in shared
// memory, and which elements a thread holds. Host and device; tested on the CPU.
//
// Tiles lie in blocks of 64 columns: a row of a block is 128 bytes, and its 16-byte pieces are swizzled with the
// row (CU_TENSOR_MAP_SWIZZLE_128B). Eight rows make a group of 1024 bytes.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/tiles.h"

namespace streamchar::hopper {

inline constexpr int kBlockColumns = 64;
inline constexpr int kBlockRowBytes = 128;
inline constexpr int kGroupBytes = 8 * kBlockRowBytes;

// Byte offset of an element of a tile of `rows` rows.
SC_HOST_DEVICE uint32_t tile_offset(int rows, int row, int column) {
  const int block = column / kBlockColumns, inside = column % kBlockColumns;
  return static_cast<uint32_t>(block * rows * kBlockRowBytes) + swizzled_offset<kBlockColumns>(row, inside / 8) +
         inside % 8 * 2;
}

// A wgmma matrix descriptor (PTX ISA, "Matrix descriptor format") with the 128-byte swizzle. Strides in bytes.
SC_HOST_DEVICE uint64_t matrix_descriptor(uint32_t shared_address, uint32_t leading, uint32_t stride) {
  return (uint64_t{shared_address & 0x3FFFFu} >> 4) | uint64_t{leading >> 4} << 16 | uint64_t{stride >> 4} << 32 |
         uint64_t{1} << 62;
}

// The descriptor of what lies `bytes` further on: one addition, where the compiler would put all fields together again.
SC_HOST_DEVICE uint64_t further(uint64_t descriptor, uint32_t bytes) {
  return (descriptor & ~uint64_t{0xFFFFFFFFu}) | (static_cast<uint32_t>(descriptor) + (bytes >> 4));
}

// Operands whose rows are summed along (queries, keys): step k of 16 columns starts here within the tile.
SC_HOST_DEVICE uint32_t row_operand_step(int rows, int k) {
  return static_cast<uint32_t>(k / 4 * rows * kBlockRowBytes + k % 4 * 32);
}
SC_HOST_DEVICE uint64_t row_operand(uint32_t address) { return matrix_descriptor(address, 16, kGroupBytes); }

// Operands summed over their rows (values): step k of 16 rows starts at k * 2 groups; the next 64 columns lie a
// block on.
SC_HOST_DEVICE uint32_t column_operand_step(int k) { return static_cast<uint32_t>(k * 2 * kGroupBytes); }
SC_HOST_DEVICE uint64_t column_operand(uint32_t address, int rows) {
  return matrix_descriptor(address, static_cast<uint32_t>(rows * kBlockRowBytes), kGroupBytes);
}

// Element `i` of a thread's share of a 64-row result of wgmma; `thread` is 0..127 within its warpgroup.
SC_HOST_DEVICE int result_row(int thread, int i) { return thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8; }
SC_HOST_DEVICE int result_column(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

}  // namespace streamchar::hopper
