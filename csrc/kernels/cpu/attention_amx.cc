// segment_attention of one block of query rows over bf16 panels with AMX tiles.
//
// Tiles multiply 64 x 64 x 64 in a fraction of the time that its softmax takes, so the softmax is kept lean: a
// cubic exp2 (its error is below that of the weights' rounding to bf16), and the running sums are rescaled only
// where a row's maximum has grown by more than 2^8 since they were last.
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/exp2_cubic.h"
#include "kernels/cpu/token_row.h"

namespace streamchar::amx {
namespace {

constexpr int kDepth = 32;            // bf16 elements of a tile row, summed over
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kNoMaximum = -1e30f;
constexpr float kGrowth = 8.0f;       // log2 of what weights may exceed 1 by

template <int kDim>
struct BlockState {
  alignas(64) float base[kAmxBlockRows][kDim];           // scaled queries at their local positions
  alignas(64) uint16_t query[kAmxBlockRows][kDim];       // ... shifted for the segment at hand
  alignas(64) float logits[kAmxBlockRows][kPanelTokens];
  alignas(64) uint16_t weights[kAmxBlockRows][kPanelTokens];
  alignas(64) float sum[kAmxBlockRows][kDim];
  alignas(64) float denominator[kAmxBlockRows][kLanes];
  float maximum[kAmxBlockRows];                          // that weights and sums are relative to
};

SC_INLINE void store_bf16(uint16_t* p, __m512 low, __m512 high) {
  _mm512_storeu_si512(p, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
}

// Logits of one or two tiles of rows and 32 keys.
template <int kDim, bool kTwo>
SC_INLINE void logits_tiles(const uint16_t (*query)[kDim], const uint16_t* keys, int key, float (*logits)[kPanelTokens]) {
  constexpr int kKeyStride = kPanelTokens * 4;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kTwo) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int d = 0; d < kDim; d += kDepth) {
    _tile_loadd(4, query[0] + d, kDim * 2);
    _tile_loadd(6, keys + key_offset_bf16(key, d), kKeyStride);
    _tile_loadd(7, keys + key_offset_bf16(key + kTile, d), kKeyStride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kTwo) {
      _tile_loadd(5, query[kTile] + d, kDim * 2);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, logits[0] + key, kPanelTokens * 4);
  _tile_stored(1, logits[0] + key + kTile, kPanelTokens * 4);
  if constexpr (kTwo) {
    _tile_stored(2, logits[kTile] + key, kPanelTokens * 4);
    _tile_stored(3, logits[kTile] + key + kTile, kPanelTokens * 4);
  }
}

// Adds the weighted values of `keys` keys to 32 channels of one or two tiles of rows.
template <int kDim, bool kTwo>
SC_INLINE void values_tiles(const uint16_t (*weights)[kPanelTokens], const uint16_t* values, int keys, int channel,
                            float (*sum)[kDim]) {
  _tile_loadd(0, sum[0] + channel, kDim * 4);
  _tile_loadd(1, sum[0] + channel + kTile, kDim * 4);
  if constexpr (kTwo) {
    _tile_loadd(2, sum[kTile] + channel, kDim * 4);
    _tile_loadd(3, sum[kTile] + channel + kTile, kDim * 4);
  }
  for (int j = 0; j < keys; j += kDepth) {
    _tile_loadd(4, weights[0] + j, kPanelTokens * 2);
    _tile_loadd(6, values + value_offset_bf16(j, channel, kDim), kDim * 4);
    _tile_loadd(7, values + value_offset_bf16(j, channel + kTile, kDim), kDim * 4);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kTwo) {
      _tile_loadd(5, weights[kTile] + j, kPanelTokens * 2);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sum[0] + channel, kDim * 4);
  _tile_stored(1, sum[0] + channel + kTile, kDim * 4);
  if constexpr (kTwo) {
    _tile_stored(2, sum[kTile] + channel, kDim * 4);
    _tile_stored(3, sum[kTile] + channel + kTile, kDim * 4);
  }
}

template <int kDim>
SC_INLINE void softmax_row(BlockState<kDim>& state, int r, int count) {
  __m512 x[4];
  for (int c = 0; c < 4; ++c) {
    x[c] = _mm512_load_ps(&state.logits[r][c * kLanes]);
    const int left = count - c * kLanes;
    if (left < kLanes) {
      const auto keep = static_cast<__mmask16>(left > 0 ? (1u << left) - 1 : 0);
      x[c] = _mm512_mask_mov_ps(_mm512_set1_ps(kNoMaximum), keep, x[c]);
    }
  }
  const float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3])));
  __m512 total = _mm512_load_ps(state.denominator[r]);
  if (top > state.maximum[r] + kGrowth) {
    const __m512 factor = exp2_cubic(broadcast(state.maximum[r] - top)).v;
    total = _mm512_mul_ps(total, factor);
    for (int d = 0; d < kDim; d += kLanes) {
      _mm512_store_ps(&state.sum[r][d], _mm512_mul_ps(_mm512_load_ps(&state.sum[r][d]), factor));
    }
    state.maximum[r] = top;
  }
  const __m512 reference = _mm512_set1_ps(state.maximum[r]);
  for (int c = 0; c < 4; ++c) {
    x[c] = exp2_cubic({_mm512_sub_ps(x[c], reference)}).v;
    total = _mm512_add_ps(total, x[c]);
  }
  store_bf16(&state.weights[r][0], x[0], x[1]);
  store_bf16(&state.weights[r][2 * kLanes], x[2], x[3]);
  _mm512_store_ps(state.denominator[r], total);
}

template <int kDim>
SC_INLINE void attend_panel(BlockState<kDim>& state, int rows, const uint16_t* keys, int count) {
  const uint16_t* values = keys + kPanelTokens * kDim;
  for (int r = 0; r < rows; r += 2 * kTile) {
    for (int key = 0; key < count; key += 2 * kTile) {
      if (rows - r > kTile) {
        logits_tiles<kDim, true>(state.query + r, keys, key, state.logits + r);
      } else {
        logits_tiles<kDim, false>(state.query + r, keys, key, state.logits + r);
      }
    }
  }
  for (int r = 0; r < rows; ++r) softmax_row(state, r, count);
  for (int r = 0; r < rows; r += 2 * kTile) {
    for (int channel = 0; channel < kDim; channel += 2 * kTile) {
      if (rows - r > kTile) {
        values_tiles<kDim, true>(state.weights + r, values, count, channel, state.sum + r);
      } else {
        values_tiles<kDim, false>(state.weights + r, values, count, channel, state.sum + r);
      }
    }
  }
}

template <int kDim>
void attention_block_of(const SegmentAttention& call, int head, int first_row) noexcept {
  _tile_loadconfig(&kTileConfig);
  BlockState<kDim> state;
  const int rows = min(kAmxBlockRows, call.tokens - first_row);
  const float scale = kLog2E / __builtin_sqrtf(static_cast<float>(kDim));
  // Tiles take 16 rows whether they are needed or not: those beyond the last must be finite.
  __builtin_memset(state.query, 0, sizeof state.query);
  __builtin_memset(state.weights, 0, sizeof state.weights);
  __builtin_memset(state.sum, 0, sizeof state.sum);
  __builtin_memset(state.denominator, 0, sizeof state.denominator);
  for (int r = 0; r < rows; ++r) {
    ready_token<kDim>(call.q, call.norm, call.rope, first_row + r, head, scale, state.base[r]);
    state.maximum[r] = kNoMaximum;
  }

  for (int s = 0; s < call.segment_count; ++s) {
    const PanelSegment& segment = call.segments[s];
    if (segment.rows == 0) continue;
    for (int r = 0; r < rows; ++r) {
      alignas(64) float moved[kDim];
      ready_row<kDim>(state.base[r], nullptr, 0.0f, segment.shift, 1.0f, moved);
      for (int d = 0; d < kDim; d += 2 * kLanes) {
        store_bf16(&state.query[r][d], _mm512_load_ps(moved + d), _mm512_load_ps(moved + d + kLanes));
      }
    }
    const PanelLayout layout{call.heads, kDim, segment.capacity};
    for (int panel = 0; panel * kPanelTokens < segment.rows; ++panel) {
      const auto* keys = static_cast<const uint16_t*>(segment.data) + layout.key_block(head, panel);
      attend_panel(state, rows, keys, min(kPanelTokens, segment.rows - panel * kPanelTokens));
    }
  }
  _tile_release();

  for (int r = 0; r < rows; ++r) {
    const int64_t index = int64_t{first_row + r} * call.heads + head;
    const float total = reduce_add(load(state.denominator[r]));
    const Vec inverse = broadcast(total > 0.0f ? 1.0f / total : 0.0f);
    for (int d = 0; d < kDim; d += kLanes) store(call.out + index * kDim + d, mul(inverse, load(&state.sum[r][d])));
    if (call.lse) {
      call.lse[index] = total > 0.0f ? (state.maximum[r] + __builtin_log2f(total)) * kLn2 : -__builtin_inff();
    }
  }
}

}  // namespace

void attention_block(const SegmentAttention& call, int head, int first_row) noexcept {
  call.head_dim == 64 ? attention_block_of<64>(call, head, first_row) : attention_block_of<128>(call, head, first_row);
}

}  // namespace streamchar::amx
