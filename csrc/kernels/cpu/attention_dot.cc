// Tiles of attention over int8 panels, with AVX-512 VNNI.
#include "kernels/cpu/attention_dot.h"
#include "kernels/cpu/narrow_rows.h"

namespace streamchar::SC_ISA {

constexpr int kVectors = 4;  // 6 x 4 sums, 4 operands and a broadcast are 29 of 32 registers
constexpr __mmask16 kRowLanes = (1u << kRows) - 1;

template <int kDim>
SC_INLINE float narrow_query(const float* x, uint8_t* bytes) {
  return int8_row<true>(x, kDim, kDim, reinterpret_cast<char*>(bytes), 64);
}

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

template <int kDim>
SC_OWN_REGISTERS void weights_tile(BlockState<kDim>& state, int row, int count, Tile& tile) {
  const __m512 top = _mm512_mul_ps(largest_logits(tile, count), _mm512_loadu_ps(state.step + row));
  __m512 reference = _mm512_loadu_ps(state.reference + row);
  const __mmask16 grown = _mm512_mask_cmp_ps_mask(
      kRowLanes, top, _mm512_add_ps(reference, _mm512_set1_ps(kGrowth)), _CMP_GT_OQ);
  if (grown) {
    alignas(64) float shrink[kLanes];
    store(shrink, exp2_cubic({_mm512_sub_ps(reference, top)}));
    reference = _mm512_mask_mov_ps(reference, grown, top);
    _mm512_mask_storeu_ps(state.reference + row, grown, reference);
    for (int r = 0; r < kRows; ++r) {
      if (grown >> r & 1) rescale(state, row + r, shrink[r]);
    }
  }
  store(tile.factor, exp2_cubic({_mm512_sub_ps(top, reference)}));
  alignas(64) float lift[kLanes];
  _mm512_store_ps(lift, _mm512_sub_ps(_mm512_set1_ps(kLog2Units), top));
  const __mmask64 valid = count == kPanelTokens ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
  for (int r = 0; r < kRows; ++r) {
    const __m512 scale = _mm512_set1_ps(state.step[row + r]), by = _mm512_set1_ps(lift[r]);
    __m512i whole[kVectors];
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      const __m512 logit = _mm512_load_ps(&tile.logits[r][c * kLanes]);
      whole[c] = _mm512_cvtps_epi32(exp2_cubic({_mm512_fmadd_ps(logit, scale, by)}).v);
    }
    _mm512_store_si512(tile.weights[r], _mm512_maskz_mov_epi8(valid, narrow_to_bytes<false>(whole)));
  }
}

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

void attention_block(const SegmentAttention& call, int head, int first_row) noexcept {
  call.head_dim == 64 ? attention_block_of<64>(call, head, first_row)
                      : attention_block_of<128>(call, head, first_row);
}

}  // namespace streamchar::SC_ISA
