// One vector type, `Vec`, for whichever instruction set this translation unit is compiled for.
// SC_ISA names it: generic, avx2 or avx512. Functions are forced inline, or static (see host_device.h).
#pragma once

#include <cstdint>

#if !defined(SC_ISA)
#error "compile with -DSC_ISA=generic, avx2 or avx512"
#endif

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define SC_INLINE static inline __attribute__((always_inline))
// A loop that fills the registers: inlined, it would share them with constants of the code around it.
#define SC_OWN_REGISTERS static __attribute__((noinline))

namespace streamchar::SC_ISA {

// 2^f on [-1/2, 1/2] from the highest power down: relative error 9e-8, and exactly 1 at 0.
static constexpr float kExp2[] = {1.3264726447e-3f, 9.6715127502e-3f, 5.5507337463e-2f,
                                  2.4022242083e-1f, 6.9314697760e-1f, 1.0f};
// Below this exponent exp2 stays at the smallest normal number; of NaN it is NaN, by the order of max's operands.
static constexpr float kExp2Min = -126.0f;

#if defined(__AVX512F__)

struct Vec {
  __m512 v;
};
static constexpr int kLanes = 16;
// Register tile: 6 x 4 accumulators, 4 operands and a broadcast are 29 of 32 registers.
static constexpr int kTileRows = 6;
static constexpr int kTileVectors = 4;

SC_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
SC_INLINE void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
SC_INLINE Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
SC_INLINE Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
SC_INLINE Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
SC_INLINE Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
SC_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
SC_INLINE Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
SC_INLINE Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
SC_INLINE Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
SC_INLINE Vec nearest(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
SC_INLINE float reduce_add(Vec a) { return _mm512_reduce_add_ps(a.v); }
SC_INLINE float reduce_max(Vec a) { return _mm512_reduce_max_ps(a.v); }
SC_INLINE bool any_above(Vec a, float limit) { return _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(limit), _CMP_GT_OQ); }

// Lanes from `count` on become `fill`; 0 <= count < kLanes.
SC_INLINE Vec keep_first(Vec a, int count, float fill) {
  return {_mm512_mask_mov_ps(_mm512_set1_ps(fill), static_cast<__mmask16>((1u << count) - 1), a.v)};
}

SC_INLINE Vec exp2(Vec a) {
  const __m512 x = _mm512_max_ps(_mm512_set1_ps(kExp2Min), a.v);
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(kExp2[0]);
  for (int i = 1; i < 6; ++i) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2[i]));
  return {_mm512_scalef_ps(p, n)};
}

// Multiplies interleaved complex numbers.
SC_INLINE Vec rotate(Vec a, Vec cos_sin) {
  const __m512 crossed = _mm512_mul_ps(_mm512_permute_ps(a.v, 0xB1), _mm512_movehdup_ps(cos_sin.v));
  return {_mm512_fmaddsub_ps(a.v, _mm512_moveldup_ps(cos_sin.v), crossed)};
}

// Splits kLanes interleaved bf16 pairs.
SC_INLINE void widen_pairs(const uint16_t* p, Vec& first, Vec& second) {
  const __m512i x = _mm512_loadu_si512(p);
  first.v = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
  second.v = _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))));
}

// Splits kLanes interleaved groups of four int8.
SC_INLINE void widen_quads(const int8_t* p, Vec (&out)[4]) {
  const __m512i x = _mm512_loadu_si512(p);
  out[0].v = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 24), 24));
  out[1].v = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 16), 24));
  out[2].v = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 8), 24));
  out[3].v = _mm512_cvtepi32_ps(_mm512_srai_epi32(x, 24));
}

// out[c][r] = in[r][c], 16 x 16 words; strides in words.
SC_INLINE void transpose_square(const float* in, int in_stride, float* out, int out_stride) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(in + i * in_stride);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  const auto low = [](__m512 x, __m512 y) __attribute__((always_inline)) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
  };
  const auto high = [](__m512 x, __m512 y) __attribute__((always_inline)) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
  };
  for (int i = 0; i < 16; i += 4) {
    a[i] = low(b[i], b[i + 2]);
    a[i + 1] = high(b[i], b[i + 2]);
    a[i + 2] = low(b[i + 1], b[i + 3]);
    a[i + 3] = high(b[i + 1], b[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_ps(out + i * out_stride, _mm512_shuffle_f32x4(b[i], b[i + 8], 0x88));
    _mm512_storeu_ps(out + (i + 4) * out_stride, _mm512_shuffle_f32x4(b[i + 4], b[i + 12], 0x88));
    _mm512_storeu_ps(out + (i + 8) * out_stride, _mm512_shuffle_f32x4(b[i], b[i + 8], 0xdd));
    _mm512_storeu_ps(out + (i + 12) * out_stride, _mm512_shuffle_f32x4(b[i + 4], b[i + 12], 0xdd));
  }
}

#elif defined(__AVX2__)

struct Vec {
  __m256 v;
};
static constexpr int kLanes = 8;
// 6 x 2 accumulators, 2 operands and a broadcast are 15 of 16 registers.
static constexpr int kTileRows = 6;
static constexpr int kTileVectors = 2;

SC_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
SC_INLINE void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
SC_INLINE Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
SC_INLINE Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
SC_INLINE Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
SC_INLINE Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
SC_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
SC_INLINE Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
SC_INLINE Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
SC_INLINE Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
SC_INLINE Vec nearest(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

SC_INLINE float reduce_add(Vec a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

SC_INLINE float reduce_max(Vec a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

SC_INLINE bool any_above(Vec a, float limit) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a.v, _mm256_set1_ps(limit), _CMP_GT_OQ)) != 0;
}

SC_INLINE Vec keep_first(Vec a, int count, float fill) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
  return {_mm256_blendv_ps(_mm256_set1_ps(fill), a.v, _mm256_castsi256_ps(keep))};
}

SC_INLINE Vec exp2(Vec a) {
  const __m256 x = _mm256_max_ps(_mm256_set1_ps(kExp2Min), a.v);
  const __m256 n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 f = _mm256_sub_ps(x, n);
  __m256 p = _mm256_set1_ps(kExp2[0]);
  for (int i = 1; i < 6; ++i) p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2[i]));
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return {_mm256_mul_ps(p, _mm256_castsi256_ps(exponent))};
}

SC_INLINE Vec rotate(Vec a, Vec cos_sin) {
  const __m256 crossed = _mm256_mul_ps(_mm256_permute_ps(a.v, 0xB1), _mm256_movehdup_ps(cos_sin.v));
  return {_mm256_fmaddsub_ps(a.v, _mm256_moveldup_ps(cos_sin.v), crossed)};
}

SC_INLINE void widen_pairs(const uint16_t* p, Vec& first, Vec& second) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  first.v = _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
  second.v = _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u))));
}

SC_INLINE void widen_quads(const int8_t* p, Vec (&out)[4]) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  out[0].v = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 24), 24));
  out[1].v = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 16), 24));
  out[2].v = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 8), 24));
  out[3].v = _mm256_cvtepi32_ps(_mm256_srai_epi32(x, 24));
}

#else

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint32_t UInt4 __attribute__((vector_size(16)));

struct Vec {
  Float4 v;
};
static constexpr int kLanes = 4;
static constexpr int kTileRows = 4;
static constexpr int kTileVectors = 2;

SC_INLINE Vec load(const float* p) {
  Vec a;
  __builtin_memcpy(&a.v, p, sizeof a.v);
  return a;
}
SC_INLINE void store(float* p, Vec a) { __builtin_memcpy(p, &a.v, sizeof a.v); }
SC_INLINE Vec broadcast(float x) { return {Float4{x, x, x, x}}; }
SC_INLINE Vec add(Vec a, Vec b) { return {a.v + b.v}; }
SC_INLINE Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
SC_INLINE Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
SC_INLINE Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
SC_INLINE Vec div(Vec a, Vec b) { return {a.v / b.v}; }
SC_INLINE Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
SC_INLINE Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
// Of numbers below 2^22: adding and taking away 1.5 * 2^23 rounds.
SC_INLINE Vec nearest(Vec a) {
  const Float4 big = broadcast(12582912.0f).v;
  return {(a.v + big) - big};
}
SC_INLINE float reduce_add(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
SC_INLINE float reduce_max(Vec a) {
  const float x = a.v[0] > a.v[1] ? a.v[0] : a.v[1], y = a.v[2] > a.v[3] ? a.v[2] : a.v[3];
  return x > y ? x : y;
}

SC_INLINE bool any_above(Vec a, float limit) { return reduce_max(a) > limit; }

SC_INLINE Vec keep_first(Vec a, int count, float fill) {
  const Int4 keep = Int4{0, 1, 2, 3} < count;
  return {keep ? a.v : broadcast(fill).v};
}

SC_INLINE Vec exp2(Vec a) {
  const Float4 x = max(broadcast(kExp2Min), a).v;
  const Float4 n = nearest({x}).v;
  const Vec f = {x - n};
  Vec p = broadcast(kExp2[0]);
  for (int i = 1; i < 6; ++i) p = fma(p, f, broadcast(kExp2[i]));
  const Int4 exponent = (__builtin_convertvector(n, Int4) + 127) << 23;
  Vec power;
  __builtin_memcpy(&power.v, &exponent, sizeof exponent);
  return mul(p, power);
}

SC_INLINE Vec rotate(Vec a, Vec cs) {
  const Float4 swapped = {a.v[1], a.v[0], a.v[3], a.v[2]};
  const Float4 cosine = {cs.v[0], cs.v[0], cs.v[2], cs.v[2]};
  const Float4 sine = {-cs.v[1], cs.v[1], -cs.v[3], cs.v[3]};
  return {a.v * cosine + swapped * sine};
}

SC_INLINE void widen_pairs(const uint16_t* p, Vec& first, Vec& second) {
  UInt4 x;
  __builtin_memcpy(&x, p, sizeof x);
  const UInt4 low = x << 16, high = x & 0xFFFF0000u;
  __builtin_memcpy(&first.v, &low, sizeof low);
  __builtin_memcpy(&second.v, &high, sizeof high);
}

SC_INLINE void widen_quads(const int8_t* p, Vec (&out)[4]) {
  Int4 x;
  __builtin_memcpy(&x, p, sizeof x);
  out[0].v = __builtin_convertvector((x << 24) >> 24, Float4);
  out[1].v = __builtin_convertvector((x << 16) >> 24, Float4);
  out[2].v = __builtin_convertvector((x << 8) >> 24, Float4);
  out[3].v = __builtin_convertvector(x >> 24, Float4);
}

#endif

#if !defined(__AVX512F__)
// out[c][r] = in[r][c], kLanes x kLanes words; strides in words. Copies bits: words need not be numbers.
SC_INLINE void transpose_square(const float* in, int in_stride, float* out, int out_stride) {
  for (int r = 0; r < kLanes; ++r) {
    for (int c = 0; c < kLanes; ++c) __builtin_memcpy(out + c * out_stride + r, in + r * in_stride + c, sizeof(float));
  }
}
#endif

// The same, but loaded once: compilers like to read an operand again for every product, and loads are scarcer.
SC_INLINE Vec in_register(Vec a) {
#if defined(__AVX512F__)
  asm("" : "+v"(a.v));
#elif defined(__AVX2__)
  asm("" : "+x"(a.v));
#endif
  return a;
}

SC_INLINE int min(int a, int b) { return a < b ? a : b; }

}  // namespace streamchar::SC_ISA
