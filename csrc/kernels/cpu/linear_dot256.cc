// packed_linear of int8 storage with 256-bit dot products of four bytes (AVX-VNNI).
#include "kernels/cpu/dot_words.h"
#include "kernels/cpu/linear_finish.h"
#include "kernels/cpu/narrow_rows256.h"
#include "kernels/cpu/row_tiles.h"

namespace streamchar::SC_ISA {
namespace {

// Words of inputs whose weights, of a tile, stay in the first-level cache while rows pass by.
constexpr int kBlockWords = 256;

// Adds to sums the products of `words` words of kRows rows with a tile; sets them where `first`. 6 x 2 sums, 2 operands
// and a broadcast are 15 of 16 registers.
template <int kRows>
SC_OWN_REGISTERS void multiply_tile(const int32_t* x, int64_t x_stride, const char* data, int words, bool first,
                                    Words* sums) {
  Words sum[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) sum[r] = first ? broadcast_word(0) : sums[r];
  for (int k = 0; k < words; ++k, data += 64) {
    const Words w = load_words(data);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) add_products(sum[r], broadcast_word(x[r * x_stride + k]), w);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) sums[r] = sum[r];
}

}  // namespace

void linear_block(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                  void* scratch) noexcept {
  const int words = weights.padded_inputs / weights.group();
  float scales[kLinearRows];
  const int32_t* x = narrow_inputs(weights, call, block, scratch, scales, [&](const float* row, char* bytes)
                                       __attribute__((always_inline)) {
    return int8_row(row, weights.inputs, weights.padded_inputs, reinterpret_cast<uint8_t*>(bytes));
  });
  for (int tile = block.first_tile; tile < block.first_tile + block.tiles; ++tile) {
    Words sums[kLinearRows];
    const char* data = static_cast<const char*>(weights.data) + tile * weights.tile_bytes();
    for (int k = 0; k < words; k += kBlockWords) {
      for_each_tile(block.rows, [&]<int kRows>(int row) __attribute__((always_inline)) {
        multiply_tile<kRows>(x + int64_t{row} * words + k, words, data + int64_t{k} * 64, min(kBlockWords, words - k),
                             k == 0, sums + row);
      });
    }
    const int first = tile * kTileOutputs;
    for (int r = 0; r < block.rows; ++r) {
      // Inputs are 128 too large, see int8_row().
      alignas(32) float whole[kTileOutputs];
      const Words too_much = load_words(weights.sum128 + first);
      _mm256_store_ps(whole, _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[r].low, too_much.low)));
      _mm256_store_ps(whole + kLanes, _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[r].high, too_much.high)));
      finish_outputs(weights, call, block.first_row + r, first, kTileOutputs, whole, scales[r]);
    }
  }
}

}  // namespace streamchar::SC_ISA
