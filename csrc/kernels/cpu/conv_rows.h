// Rows of pixels as packed_conv multiplies them: whole numbers with one scale, and a rim of one pixel left and right.
#pragma once

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/silu.h"

namespace streamchar::SC_ISA {

// What a row's elements stand for: scale * (element - zero). NaN as scale marks a row that is not finite; a row outside
// the picture counts as zeros, and is left out.
struct NarrowRow {
  bool inside;
  float scale;
  float inverse;  // 0 where the scale is 0 or NaN
  int32_t zero;
};

// The rows that a block sees, from the one above it on. kElement: uint8_t; int16_t or float for whole numbers less their
// zero.
template <typename kElement>
struct NarrowRows {
  kElement* data;
  int64_t stride;  // of rows
  NarrowRow row[kConvRows + 2];

  SC_HOST_DEVICE kElement* elements(int index) const { return data + index * stride; }
};

// The least and largest of a row's numbers, zero included; `probe` is no number where one of them is not finite.
struct RowRange {
  Vec least = broadcast(0.0f), largest = broadcast(0.0f), probe = broadcast(0.0f);
};

template <bool kSilu>
SC_INLINE Vec taken(Vec x, RowRange& range) {
  range.probe = fma(x, broadcast(0.0f), range.probe);
  if constexpr (kSilu) x = silu(x);
  range.least = min(x, range.least);
  range.largest = max(x, range.largest);
  return x;
}

// values = x after SiLU; zeros up to a whole vector.
template <bool kSilu>
SC_INLINE RowRange take_row(const float* x, int count, float* values) {
  RowRange range;
  const int whole = count - count % kLanes;
  for (int i = 0; i < whole; i += kLanes) store(values + i, taken<kSilu>(load(x + i), range));
  if (whole < count) {
    alignas(64) float rest[kLanes] = {};
    __builtin_memcpy(rest, x + whole, sizeof(float) * (count - whole));
    store(values + whole, taken<kSilu>(load(rest), range));
  }
  return range;
}

// 255 steps from the least to the largest number.
SC_INLINE NarrowRow row_steps(const RowRange& range) {
  if (!(reduce_add(range.probe) == 0.0f)) return {true, __builtin_nanf(""), 0.0f, 0};
  const float least = -reduce_max(sub(broadcast(0.0f), range.least));
  const float scale = reduce_max(range.largest) / 255.0f - least / 255.0f;
  if (!(scale >= 1e-35f)) return {true, 0.0f, 0.0f, 0};  // so that the inverse is finite
  // Rounded as the elements are, so that the least one is not below zero.
  const float inverse = 1.0f / scale;
  return {true, scale, inverse, -static_cast<int32_t>(__builtin_nearbyintf(least * inverse))};
}

// Vectors of elements, which may be written up to a vector beyond the count.
SC_INLINE void put_elements(const float* values, int count, float inverse, int32_t, float* target) {
  for (int i = 0; i < count; i += kLanes) store(target + i, nearest(mul(load(values + i), broadcast(inverse))));
}

#if defined(__AVX2__) && !defined(__AVX512F__)
SC_INLINE void put_elements(const float* values, int count, float inverse, int32_t, int16_t* target) {
  for (int i = 0; i < count; i += kLanes) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(values + i), _mm256_set1_ps(inverse)));
    const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), narrow);
  }
}
SC_INLINE void put_elements(const float* values, int count, float inverse, int32_t zero, uint8_t* target) {
  // A sum may be 256 where both parts were rounded up; it saturates.
  for (int i = 0; i < count; i += kLanes) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(values + i), _mm256_set1_ps(inverse)));
    const __m256i element = _mm256_add_epi32(whole, _mm256_set1_epi32(zero));
    const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(element), _mm256_extracti128_si256(element, 1));
    _mm_storeu_si64(target + i, _mm_packus_epi16(narrow, narrow));
  }
}
#elif defined(__AVX512F__)
SC_INLINE void put_elements(const float* values, int count, float inverse, int32_t zero, uint8_t* target) {
  for (int i = 0; i < count; i += kLanes) {
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(values + i), _mm512_set1_ps(inverse)));
    const __m512i element = _mm512_add_epi32(whole, _mm512_set1_epi32(zero));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), _mm512_cvtusepi32_epi8(element));
  }
}
#endif

template <typename kElement>
SC_INLINE void fill(kElement* target, int count, kElement value) {
  for (int i = 0; i < count; ++i) target[i] = value;
}

// Row y of a picture, from all inputs. values: as many floats as the row has, and a vector more.
template <typename kElement>
SC_INLINE NarrowRow narrow_row(const PackedFilters& filters, const ConvCall& call, int picture, int y, float* values,
                               kElement* target) {
  if (y < 0 || y >= call.height) return {false, 0.0f, 0.0f, 0};
  const int width = call.width, inputs = filters.shape.inputs, padded = filters.padded_inputs;
  const ConvInput& first = call.inputs[0];
  const float* x = first.data + picture * first.picture_stride + int64_t{y} * width * first.channels;
  if (call.input_count > 1) {
    float* place = values;
    for (int i = 0; i < call.input_count; ++i) {
      const ConvInput& input = call.inputs[i];
      const float* own = input.data + picture * input.picture_stride + int64_t{y} * width * input.channels;
      for (int p = 0; p < width; ++p) {
        __builtin_memcpy(place + int64_t{p} * inputs, own + int64_t{p} * input.channels, 4 * input.channels);
      }
      place += input.channels;
    }
    x = values;
  }
  const int count = width * inputs;
  const NarrowRow row = row_steps(call.silu ? take_row<true>(x, count, values) : take_row<false>(x, count, values));
  const bool bytes = sizeof(kElement) == 1;
  const kElement rim = bytes ? static_cast<kElement>(row.zero) : kElement{0};
  fill(target, padded, rim);
  kElement* pixels = target + padded;
  if (padded == inputs) {
    put_elements(values, count, row.inverse, row.zero, pixels);
  } else {
    for (int p = 0; p < width; ++p) {  // what is written beyond a pixel, the next one overwrites
      put_elements(values + int64_t{p} * inputs, inputs, row.inverse, row.zero, pixels + int64_t{p} * padded);
      fill(pixels + int64_t{p} * padded + inputs, padded - inputs, rim);
    }
  }
  fill(pixels + int64_t{width} * padded, padded, rim);
  return row;
}

}  // namespace streamchar::SC_ISA
