// packed_conv with VPDPBUSD: bytes of pixels as they lie in memory, times weights, four at a time.
// Compiled once for AVX-512 and once for AVX-VNNI.
#include "kernels/cpu/conv_block.h"
#include "kernels/cpu/dot_words.h"

namespace streamchar::SC_ISA {
namespace {

struct DotProducts {
  using Element = uint8_t;
#if defined(__AVX512F__)
  // 8 x 3 accumulators, 3 operands and a broadcast are 28 of 32 registers.
  static constexpr int kPixels = 8;
  static constexpr int kTiles = 3;
#else
  // 4 x 2 accumulators, 2 operands and a broadcast are 11 of 16 registers.
  static constexpr int kPixels = 4;
  static constexpr int kTiles = 1;
#endif

  const PackedFilters& filters;

  __attribute__((always_inline)) void prepare(int, int) {}

  template <int kPixels, int kTiles>
  __attribute__((always_inline)) void multiply(const NarrowRows<uint8_t>& rows, int y, int x, int tile,
                                               float* sums) const {
    const int words = filters.row_words(), pixel = filters.padded_inputs, size = filters.shape.size;
    const int64_t tile_bytes = filters.tile_bytes();
    for (int i = 0; i < kPixels * kTiles * kConvTile; i += kLanes) store(sums + i, broadcast(0.0f));
    for (int dy = 0; dy < size; ++dy) {
      const NarrowRow& row = rows.row[y + dy];
      if (!row.inside) continue;
      const uint8_t* in = rows.elements(y + dy) + (x + (size == 1)) * pixel;
      const int8_t* weights = filters.data + tile * tile_bytes + int64_t{dy} * words * 64;
      // The zero that every byte holds too much.
      Words sum[kPixels][kTiles];
      for (int t = 0; t < kTiles; ++t) {
        const int32_t* own = filters.sum + (dy * filters.tiles + tile + t) * kConvTile;
        const Words begin = multiply_words(load_words(own), broadcast_word(-row.zero));
        for (int p = 0; p < kPixels; ++p) sum[p][t] = begin;
      }
      for (int k = 0; k < words; ++k, weights += 64, in += 4) {
        Words w[kTiles];
        for (int t = 0; t < kTiles; ++t) w[t] = load_words(weights + t * tile_bytes);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) {
          const Words value = broadcast_bytes(in + p * pixel);
#pragma GCC unroll 4
          for (int t = 0; t < kTiles; ++t) add_products(sum[p][t], value, w[t]);
        }
      }
      const Vec scale = broadcast(row.scale);
      for (int p = 0; p < kPixels; ++p) {
        for (int t = 0; t < kTiles; ++t) add_scaled(sums + (p * kTiles + t) * kConvTile, sum[p][t], scale);
      }
    }
  }
};

}  // namespace

void conv_block(const PackedFilters& filters, const ConvCall& call, const ConvBlock& block, void* scratch) noexcept {
  DotProducts products{filters};
  conv_block_with(filters, call, block, products, scratch);
}

}  // namespace streamchar::SC_ISA
