// Tiles of attention over int8 panels, with AVX-VNNI. A pass takes 16 keys or channels: 6 x 2 sums, 2 operands and a
// broadcast are 15 of 16 registers.
#include "kernels/cpu/attention_dot.h"
#include "kernels/cpu/dot_words.h"
#include "kernels/cpu/narrow_rows256.h"

namespace streamchar::SC_ISA {

constexpr int kPass = 16;

template <int kDim>
SC_INLINE float narrow_query(const float* x, uint8_t* bytes) {
  return int8_row(x, kDim, kDim, bytes);
}

template <int kDim>
SC_OWN_REGISTERS void logits_tile(const uint8_t (*query)[kDim], const char* panel, Tile& tile) {
  constexpr Int8Panel kAt{kDim};
  for (int first = 0; first < kPanelTokens; first += kPass) {
    const Words offsets = load_words(panel + kAt.key_offsets() + first * 4);
    Words sum[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sum[r] = offsets;
    const char* key = panel + first * 4;
    for (int d = 0; d < kDim; d += 4, key += kPanelTokens * 4) {
      const Words k = load_words(key);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) add_products(sum[r], broadcast_bytes(&query[r][d]), k);
    }
    const auto* steps = reinterpret_cast<const float*>(panel + kAt.key_steps()) + first;
    const __m256 low = _mm256_loadu_ps(steps), high = _mm256_loadu_ps(steps + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      _mm256_store_ps(&tile.logits[r][first], _mm256_mul_ps(_mm256_cvtepi32_ps(sum[r].low), low));
      _mm256_store_ps(&tile.logits[r][first + kLanes], _mm256_mul_ps(_mm256_cvtepi32_ps(sum[r].high), high));
    }
  }
}

// The largest of a row's logits.
SC_INLINE float largest_logit(const float* logits, int count) {
  Vec top = broadcast(kNoMaximum);
  int t = 0;
  for (; t + kLanes <= count; t += kLanes) top = max(load(logits + t), top);
  if (t < count) top = max(keep_first(load(logits + t), count - t, kNoMaximum), top);
  return reduce_max(top);
}

template <int kDim>
SC_OWN_REGISTERS void weights_tile(BlockState<kDim>& state, int row, int count, Tile& tile) {
  alignas(32) float difference[kLanes] = {}, lift[kRows];
  for (int r = 0; r < kRows; ++r) {
    const float top = largest_logit(tile.logits[r], count) * state.step[row + r];
    float& reference = state.reference[row + r];
    if (top > reference + kGrowth) {
      rescale(state, row + r, exp2_cubic(reference - top));
      reference = top;
    }
    difference[r] = top - reference;
    lift[r] = kLog2Units - top;
  }
  static_assert(kRows <= kLanes);
  store(tile.factor, exp2_cubic(load(difference)));
  for (int r = 0; r < kRows; ++r) {
    const Vec scale = broadcast(state.step[row + r]), by = broadcast(lift[r]);
    for (int t = 0; t < kPanelTokens; t += 4 * kLanes) {
      __m256i whole[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        whole[i] = _mm256_cvtps_epi32(exp2_cubic(fma(load(&tile.logits[r][t + i * kLanes]), scale, by)).v);
      }
      _mm256_store_si256(reinterpret_cast<__m256i*>(&tile.weights[r][t]), narrow_to_bytes<false>(whole));
    }
    if (count < kPanelTokens) __builtin_memset(tile.weights[r] + count, 0, kPanelTokens - count);
  }
}

template <int kDim>
SC_OWN_REGISTERS void values_tile(BlockState<kDim>& state, int row, const char* panel, int count, const Tile& tile) {
  constexpr Int8Panel kAt{kDim};
  for (int first = 0; first < kDim; first += kPass) {
    Words sum[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sum[r] = broadcast_word(0);
    const char* value = panel + kAt.values() + first * 4;
    for (int t = 0; t < count; t += 4, value += kDim * 4) {
      const Words v = load_words(value);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) add_products(sum[r], broadcast_bytes(&tile.weights[r][t]), v);
    }
    const auto* steps = reinterpret_cast<const float*>(panel + kAt.value_steps()) + first;
    const Vec low = load(steps), high = load(steps + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec factor = broadcast(tile.factor[r]);
      float* target = &state.sum[row + r][first];
      store(target, fma(mul(factor, low), {_mm256_cvtepi32_ps(sum[r].low)}, load(target)));
      store(target + kLanes, fma(mul(factor, high), {_mm256_cvtepi32_ps(sum[r].high)}, load(target + kLanes)));
    }
  }
  for (int r = 0; r < kRows; ++r) {
    Words total = broadcast_word(0);
    add_products(total, load_words(tile.weights[r]), broadcast_word(0x01010101));
    const Vec whole = {_mm256_cvtepi32_ps(_mm256_add_epi32(total.low, total.high))};
    float* target = state.denominator[row + r];
    store(target, fma(broadcast(tile.factor[r]), whole, load(target)));
  }
}

void attention_block(const SegmentAttention& call, int head, int first_row) noexcept {
  call.head_dim == 64 ? attention_block_of<64>(call, head, first_row) : attention_block_of<128>(call, head, first_row);
}

}  // namespace streamchar::SC_ISA
