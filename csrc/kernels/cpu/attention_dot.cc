// segment_attention of one block of query rows over int8 panels with VPDPBUSD.
//
// A query row is rounded to int8 with a step of its own, after the turn for the segment at hand; logits are sums of
// products of whole numbers, times both steps. The weights of one panel are rounded to multiples of 1/255 of the
// largest of them, so that a panel of small weights keeps its digits beside one of large ones; their sums with the
// values are whole numbers again, and are folded into float32 panel by panel. The denominator sums the same rounded
// weights.
//
// The softmax takes as long as both products here, so it is kept lean: a cubic exp2, the maxima of six rows found
// together, and running sums that are rescaled only where a row has grown by more than 2^8.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/exp2_cubic.h"
#include "kernels/cpu/narrow_rows.h"
#include "kernels/cpu/token_row.h"

namespace streamchar::SC_ISA {
namespace {

constexpr int kRows = 6;  // of a register tile: 6 x 4 sums, 4 operands and a broadcast are 29 of 32 registers
constexpr int kVectors = 4;
static_assert(kBlockRows % kRows == 0);
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kNoMaximum = -1e30f;
constexpr float kGrowth = 8.0f;        // log2 of what a panel's largest weight may exceed 1 by
constexpr float kLog2Units = 7.9943534368588578f;  // log2(255): a panel's largest weight is 255 units
constexpr __mmask16 kRowLanes = (1u << kRows) - 1;

template <int kDim>
struct BlockState {
  alignas(64) float base[kBlockRows][kDim];     // scaled queries at their local positions
  alignas(64) uint8_t query[kBlockRows][kDim];  // ... turned for the segment at hand, in steps, 128 too large
  alignas(64) float sum[kBlockRows][kDim];
  alignas(64) float denominator[kBlockRows][kLanes];
  // One number for each row, read in whole vectors.
  float step[kBlockRows + kLanes];
  float reference[kBlockRows + kLanes];         // log2 of what sums are relative to
};

// Of one tile of rows and one panel.
struct Tile {
  alignas(64) float logits[kRows][kPanelTokens];
  alignas(64) uint8_t weights[kRows][kPanelTokens];
  alignas(64) float factor[kLanes];  // of each row's whole numbers
};

SC_INLINE void add_products(__m512i& sums, __m512i unsigned_bytes, __m512i signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_bytes), "v"(signed_bytes));
}

SC_INLINE __m512i broadcast_word(const uint8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return _mm512_set1_epi32(word);
}

SC_INLINE __m512 max_halves_pd(__m512 a, __m512 b) {
  const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
  return _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

// Lane r: the largest lane of top[r].
SC_INLINE __m512 row_maxima(const __m512 (&top)[kRows]) {
  __m512 pair[kRows / 2];
#pragma GCC unroll 4
  for (int i = 0; i < kRows / 2; ++i) {
    pair[i] = _mm512_max_ps(_mm512_unpacklo_ps(top[2 * i], top[2 * i + 1]),
                            _mm512_unpackhi_ps(top[2 * i], top[2 * i + 1]));
  }
  const __m512 low = max_halves_pd(pair[0], pair[1]), high = max_halves_pd(pair[2], pair[2]);
  const __m512 half = _mm512_max_ps(_mm512_shuffle_f32x4(low, high, 0x44), _mm512_shuffle_f32x4(low, high, 0xEE));
  const __m512 all = _mm512_max_ps(half, _mm512_shuffle_f32x4(half, half, 0xB1));  // low, low, high, high
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 0, 0, 0, 0, 0, 0, 0, 0), all);
}

// Logits in units of the rows' steps.
template <int kDim>
SC_OWN_REGISTERS void logits_tile(const uint8_t (*query)[kDim], const char* panel, Tile& tile) {
  // Every loop over registers is unrolled by name: GCC else keeps a copy of them in memory.
  constexpr Int8Panel kAt{kDim};
  __m512i sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) sum[r][c] = _mm512_load_si512(panel + kAt.key_offsets() + c * 64);
  }
  const char* key = panel;
  for (int d = 0; d < kDim; d += 4, key += kPanelTokens * 4) {
    __m512i k[kVectors];
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) k[c] = _mm512_load_si512(key + c * 64);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512i x = broadcast_word(&query[r][d]);
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) add_products(sum[r][c], x, k[c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      const __m512 step = _mm512_load_ps(panel + kAt.key_steps() + c * 64);
      _mm512_store_ps(&tile.logits[r][c * kLanes], _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][c]), step));
    }
  }
}

// The largest logit of each row, in lane r.
SC_INLINE __m512 largest_logits(const Tile& tile, int count) {
  __mmask16 keep[kVectors];
#pragma GCC unroll 4
  for (int c = 0; c < kVectors; ++c) {
    const int left = count - c * kLanes;
    keep[c] = static_cast<__mmask16>(left >= kLanes ? 0xFFFF : left > 0 ? (1u << left) - 1 : 0);
  }
  __m512 top[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    top[r] = _mm512_set1_ps(kNoMaximum);
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      top[r] = _mm512_mask_max_ps(top[r], keep[c], top[r], _mm512_load_ps(&tile.logits[r][c * kLanes]));
    }
  }
  return row_maxima(top);
}

// Weights in units of 1/255 of each row's largest one, and the factors that bring them to the rows' references.
template <int kDim>
SC_OWN_REGISTERS void weights_tile(BlockState<kDim>& state, int row, int count, Tile& tile) {
  const __m512 top = _mm512_mul_ps(largest_logits(tile, count), _mm512_loadu_ps(state.step + row));
  __m512 reference = _mm512_loadu_ps(state.reference + row);
  const __mmask16 grown = _mm512_mask_cmp_ps_mask(
      kRowLanes, top, _mm512_add_ps(reference, _mm512_set1_ps(kGrowth)), _CMP_GT_OQ);
  if (grown) {
    alignas(64) float shrink[kLanes];
    _mm512_store_ps(shrink, exp2_cubic(_mm512_sub_ps(reference, top)));
    reference = _mm512_mask_mov_ps(reference, grown, top);
    _mm512_mask_storeu_ps(state.reference + row, grown, reference);
    for (int r = 0; r < kRows; ++r) {
      if (!(grown >> r & 1)) continue;
      const __m512 by = _mm512_set1_ps(shrink[r]);
      _mm512_store_ps(state.denominator[row + r], _mm512_mul_ps(by, _mm512_load_ps(state.denominator[row + r])));
      for (int d = 0; d < kDim; d += kLanes) {
        float* sum = &state.sum[row + r][d];
        _mm512_store_ps(sum, _mm512_mul_ps(by, _mm512_load_ps(sum)));
      }
    }
  }
  _mm512_store_ps(tile.factor, exp2_cubic(_mm512_sub_ps(top, reference)));
  alignas(64) float lift[kLanes];
  _mm512_store_ps(lift, _mm512_sub_ps(_mm512_set1_ps(kLog2Units), top));
  const __mmask64 valid = count == kPanelTokens ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
  for (int r = 0; r < kRows; ++r) {
    const __m512 scale = _mm512_set1_ps(state.step[row + r]), by = _mm512_set1_ps(lift[r]);
    __m512i whole[kVectors];
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      const __m512 logit = _mm512_load_ps(&tile.logits[r][c * kLanes]);
      whole[c] = _mm512_cvtps_epi32(exp2_cubic(_mm512_fmadd_ps(logit, scale, by)));
    }
    _mm512_store_si512(tile.weights[r], _mm512_maskz_mov_epi8(valid, narrow_to_bytes<false>(whole)));
  }
}

// Adds the weighted values of a panel to the sums, and its weights to the denominators.
template <int kDim>
SC_OWN_REGISTERS void values_tile(BlockState<kDim>& state, int row, const char* panel, int count, const Tile& tile) {
  constexpr Int8Panel kAt{kDim};
  for (int first = 0; first < kDim; first += kVectors * kLanes) {
    __m512i sum[kRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) sum[r][c] = _mm512_setzero_si512();
    }
    const char* value = panel + kAt.values() + first * 4;
    for (int t = 0; t < count; t += 4, value += kDim * 4) {
      __m512i v[kVectors];
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) v[c] = _mm512_load_si512(value + c * 64);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const __m512i x = broadcast_word(&tile.weights[r][t]);
#pragma GCC unroll 4
        for (int c = 0; c < kVectors; ++c) add_products(sum[r][c], x, v[c]);
      }
    }
    const char* steps = panel + kAt.value_steps() + first * 4;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512 factor = _mm512_set1_ps(tile.factor[r]);
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) {
        float* target = &state.sum[row + r][first + c * kLanes];
        const __m512 step = _mm512_mul_ps(factor, _mm512_load_ps(steps + c * 64));
        _mm512_store_ps(target, _mm512_fmadd_ps(step, _mm512_cvtepi32_ps(sum[r][c]), _mm512_load_ps(target)));
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    __m512i total = _mm512_setzero_si512();
    add_products(total, _mm512_load_si512(tile.weights[r]), _mm512_set1_epi8(1));
    float* target = state.denominator[row + r];
    _mm512_store_ps(target, _mm512_fmadd_ps(_mm512_set1_ps(tile.factor[r]), _mm512_cvtepi32_ps(total),
                                            _mm512_load_ps(target)));
  }
}

template <int kDim>
void attention_block_of(const SegmentAttention& call, int head, int first_row) noexcept {
  BlockState<kDim> state;
  Tile tile;
  const int rows = min(kBlockRows, call.tokens - first_row), padded = (rows + kRows - 1) / kRows * kRows;
  const float scale = kLog2E / __builtin_sqrtf(static_cast<float>(kDim));
  for (int r = 0; r < rows; ++r) {
    ready_token<kDim>(call.q, call.norm, call.rope, first_row + r, head, scale, state.base[r]);
  }
  for (int r = 0; r < kBlockRows + kLanes; ++r) {
    state.reference[r] = kNoMaximum;
    state.step[r] = 0.0f;
  }
  // Tiles take six rows whether they are needed or not: those beyond the last are zero.
  __builtin_memset(state.query[rows], 128, (padded - rows) * kDim);
  __builtin_memset(state.sum, 0, sizeof(float) * padded * kDim);
  __builtin_memset(state.denominator, 0, sizeof(float) * padded * kLanes);

  for (int s = 0; s < call.segment_count; ++s) {
    const PanelSegment& segment = call.segments[s];
    if (segment.rows == 0) continue;
    for (int r = 0; r < rows; ++r) {
      alignas(64) float moved[kDim];
      const float* turned = state.base[r];
      if (segment.shift) {
        ready_row<kDim>(state.base[r], nullptr, 0.0f, segment.shift, 1.0f, moved);
        turned = moved;
      }
      state.step[r] = int8_row<true>(turned, kDim, kDim, reinterpret_cast<char*>(state.query[r]), 64);
    }
    const PanelLayout layout{call.heads, kDim, segment.capacity};
    for (int p = 0; p * kPanelTokens < segment.rows; ++p) {
      const char* panel = static_cast<const char*>(segment.data) + layout.panel_offset(KvType::kInt8, head, p);
      const int count = min(kPanelTokens, segment.rows - p * kPanelTokens);
      for (int row = 0; row < padded; row += kRows) {
        // A block's tiles bring the next panel into the second-level cache.
        constexpr int kLines = static_cast<int>(Int8Panel{kDim}.bytes() / 64) * kRows / kBlockRows + 1;
        const char* ahead = panel + Int8Panel{kDim}.bytes() + row / kRows * kLines * 64;
        for (int i = 0; i < kLines; ++i) __builtin_prefetch(ahead + i * 64, 0, 2);
        logits_tile<kDim>(state.query + row, panel, tile);
        weights_tile<kDim>(state, row, count, tile);
        values_tile<kDim>(state, row, panel, count, tile);
      }
    }
  }

  for (int r = 0; r < rows; ++r) {
    const int64_t index = int64_t{first_row + r} * call.heads + head;
    const float total = reduce_add(load(state.denominator[r]));
    const float finite = 0.0f * state.step[r];  // else NaN
    const Vec inverse = broadcast((total > 0.0f ? 1.0f / total : 0.0f) + finite);
    for (int d = 0; d < kDim; d += kLanes) store(call.out + index * kDim + d, mul(inverse, load(&state.sum[r][d])));
    if (call.lse) {
      const float units = __builtin_log2f(total) - kLog2Units;
      call.lse[index] = total > 0.0f ? (state.reference[r] + units) * kLn2 + finite : -__builtin_inff();
    }
  }
}

}  // namespace

void attention_block(const SegmentAttention& call, int head, int first_row) noexcept {
  call.head_dim == 64 ? attention_block_of<64>(call, head, first_row) : attention_block_of<128>(call, head, first_row);
}

}  // namespace streamchar::SC_ISA
