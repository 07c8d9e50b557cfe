// picture_warp of a row, for the instruction set of this translation unit.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/picture_warp.h"

namespace streamchar::SC_ISA {

typedef float Pixel __attribute__((vector_size(16)));
typedef float TwoPixels __attribute__((vector_size(32)));

// 2^x of numbers with x at most 126.
SC_INLINE void exponentials(float* x, int count) {
  for (int i = 0; i < count; i += kLanes) store(x + i, exp2(min(load(x + i), broadcast(126.0f))));
}

// The flow of two rows of places, from row 2 * row on.
SC_INLINE void flow_row_any(const PictureWarp& call, int frame, int row) {
  constexpr float kLog2E = 1.44269504f;
  const int half = call.width / 2, parts = call.parts, numbers = (parts + 2) * 4;
  const float* given = call.places + (int64_t{frame} * (call.height / 2) + row) * half * numbers;
  const float* motion = call.motion + int64_t{frame} * parts * 6;
  const float step_x = 2.0f / (call.width - 1), step_y = 2.0f / (call.height - 1);
  const float top = 2 * row * step_y - 1.0f, bottom = (2 * row + 1) * step_y - 1.0f;
  float* out = call.flow + (int64_t{frame} * call.height + 2 * row) * call.width * 2;
  for (int column = 0; column < half; ++column, given += numbers) {
    alignas(64) float power[(kMaxParts + 2) * 4 + 16] = {};
    const auto four = [](const float* at) __attribute__((always_inline)) {
      Pixel x;
      __builtin_memcpy(&x, at, sizeof x);
      return x;
    };
    Pixel largest = four(given);
    for (int n = 1; n < parts; ++n) {
      const Pixel score = four(given + n * 4);
      largest = score > largest ? score : largest;
    }
    for (int n = 0; n < parts + 2; ++n) {
      const Pixel x = four(given + n * 4), scaled = n < parts ? (x - largest) * kLog2E : x * (2.0f * kLog2E);
      __builtin_memcpy(power + n * 4, &scaled, sizeof scaled);
    }
    exponentials(power, numbers);
    Pixel sum = {}, mixed[6] = {};
    for (int n = 0; n < parts; ++n) {
      const Pixel share = four(power + n * 4);
      sum += share;
#pragma GCC unroll 6
      for (int m = 0; m < 6; ++m) mixed[m] += motion[n * 6 + m] * share;
    }
    const float left = 2 * column * step_x - 1.0f, right = (2 * column + 1) * step_x - 1.0f;
    const Pixel at_x = {left, right, left, right}, at_y = {top, top, bottom, bottom};
    Pixel flow[2];
    for (int d = 0; d < 2; ++d) {
      const Pixel moved = (mixed[3 * d] * at_x + mixed[3 * d + 1] * at_y + mixed[3 * d + 2]) / sum;
      const Pixel tanh = 1.0f - 2.0f / (1.0f + four(power + (parts + d) * 4));
      flow[d] = moved + call.local * tanh;
    }
    for (int dy = 0; dy < 2; ++dy) {
      const Pixel two = dy == 0 ? __builtin_shufflevector(flow[0], flow[1], 0, 4, 1, 5)
                                : __builtin_shufflevector(flow[0], flow[1], 2, 6, 3, 7);
      __builtin_memcpy(out + (int64_t{dy} * call.width + 2 * column) * 2, &two, sizeof two);
    }
  }
}

// How much the nine places around a pixel's own give to its flow: [place][pixel].
struct FlowWeights {
  alignas(64) float of[9][kPlacePixels];

  SC_HOST_DEVICE FlowWeights() {
    constexpr float kAlong[kPlace][3] = {
        {0.375f, 0.625f, 0.0f}, {0.125f, 0.875f, 0.0f}, {0.0f, 0.875f, 0.125f}, {0.0f, 0.625f, 0.375f}};
    for (int place = 0; place < 9; ++place) {
      for (int pixel = 0; pixel < kPlacePixels; ++pixel) {
        of[place][pixel] = kAlong[pixel / kPlace][place / 3] * kAlong[pixel % kPlace][place % 3];
      }
    }
  }
};

// Of positions along one side, in pixels from the rim's edge: the pixel before, and the part of the way to the next.
struct Between {
  Vec first, part;
};

SC_INLINE Between between(Vec position, int size) {
  // The order of operands makes the edge of what is not a number. At a whole number either neighbour will do.
  const Vec inside = min(max(position, broadcast(0.0f)), broadcast(size + 2 * kPictureRim - 1.01f));
  const Vec first = nearest(sub(inside, broadcast(0.5f)));
  return {first, sub(inside, first)};
}

// Where pixels lie in the reference: each one's upper left one, in floats, and the part of the way from it, across and
// down.
struct FoundPixels {
  static constexpr int kPlaces = 16;  // at once

  alignas(64) int32_t first[kPlaces * kPlacePixels];
  alignas(64) float part[2][kPlaces * kPlacePixels];
};

// Four pixels of a place that lie in a row, to [channel][kPlacePixels]. line: floats of a row of the picture.
#if defined(__AVX512F__)

SC_INLINE void store_whole(int32_t* target, Vec x) { _mm512_store_si512(target, _mm512_cvttps_epi32(x.v)); }

SC_INLINE __m512 two_pixels(const float* first, const float* second) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(first)), _mm256_loadu_ps(second), 1);
}

SC_INLINE __m512 mixed(__m512 from, __m512 to, __m512 part) {
  return _mm512_fmadd_ps(part, _mm512_sub_ps(to, from), from);
}

SC_INLINE void warp_four(const float* picture, int64_t line, const FoundPixels& found, int at, float* out) {
  const __m512i quarters = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  const __m512i by_channel = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const auto pair = [&](int i) __attribute__((always_inline)) {  // left and right of two pixels, mixed downwards
    const float *first = picture + found.first[i], *second = picture + found.first[i + 1];
    const __m512 down = _mm512_mask_broadcastss_ps(_mm512_set1_ps(found.part[1][i]), 0xFF00,
                                                   _mm_load_ss(found.part[1] + i + 1));
    return mixed(two_pixels(first, second), two_pixels(first + line, second + line), down);
  };
  const __m512 low = pair(at), high = pair(at + 2);
  const __m512 left = _mm512_shuffle_f32x4(low, high, 0x88), right = _mm512_shuffle_f32x4(low, high, 0xDD);
  const __m512 across = _mm512_permutexvar_ps(quarters, _mm512_castps128_ps512(_mm_load_ps(found.part[0] + at)));
  const __m512 channel = _mm512_permutexvar_ps(by_channel, mixed(left, right, across));
  _mm_storeu_ps(out, _mm512_castps512_ps128(channel));
  _mm_storeu_ps(out + kPlacePixels, _mm512_extractf32x4_ps(channel, 1));
  _mm_storeu_ps(out + 2 * kPlacePixels, _mm512_extractf32x4_ps(channel, 2));
  _mm_storeu_ps(out + 3 * kPlacePixels, _mm512_extractf32x4_ps(channel, 3));
}

#else

SC_INLINE void store_whole(int32_t* target, Vec x) {
  float all[kLanes];
  store(all, x);
  for (int i = 0; i < kLanes; ++i) target[i] = static_cast<int32_t>(all[i]);
}

// Four pixels by channel.
SC_INLINE void channels_of(const Pixel (&pixel)[4], Pixel (&channel)[4]) {
  const Pixel low01 = __builtin_shufflevector(pixel[0], pixel[1], 0, 4, 1, 5);
  const Pixel low23 = __builtin_shufflevector(pixel[2], pixel[3], 0, 4, 1, 5);
  const Pixel high01 = __builtin_shufflevector(pixel[0], pixel[1], 2, 6, 3, 7);
  const Pixel high23 = __builtin_shufflevector(pixel[2], pixel[3], 2, 6, 3, 7);
  channel[0] = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
  channel[1] = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
  channel[2] = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
  channel[3] = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
}

SC_INLINE void warp_four(const float* picture, int64_t line, const FoundPixels& found, int at, float* out) {
  Pixel pixel[4];
  for (int j = 0; j < 4; ++j) {
    const float* from = picture + found.first[at + j];
    TwoPixels above, below;
    __builtin_memcpy(&above, from, sizeof above);
    __builtin_memcpy(&below, from + line, sizeof below);
    const TwoPixels mixed = above + found.part[1][at + j] * (below - above);
    const Pixel left = __builtin_shufflevector(mixed, mixed, 0, 1, 2, 3);
    const Pixel right = __builtin_shufflevector(mixed, mixed, 4, 5, 6, 7);
    pixel[j] = left + found.part[0][at + j] * (right - left);
  }
  Pixel channel[4];
  channels_of(pixel, channel);
  for (int c = 0; c < 4; ++c) __builtin_memcpy(out + c * kPlacePixels, &channel[c], sizeof(Pixel));
}

#endif

// One row of places. What is found goes through memory: so that the next places are sought while pixels arrive.
SC_INLINE void warp_row_any(const PictureWarp& call, int frame, int row) {
  const FlowWeights weights;
  const int size[2] = {call.width * kPlace, call.height * kPlace};
  const int64_t line = int64_t{size[0] + 2 * kPictureRim} * 4;
  const float* flow[3];  // of the rows above, here and below
  for (int i = 0; i < 3; ++i) {
    const int y = row + i - 1 < 0 ? 0 : row + i - 1 == call.height ? row : row + i - 1;
    flow[i] = call.flow + (int64_t{frame} * call.height + y) * call.width * 2;
  }
  float* out = call.warped + (int64_t{frame} * call.height + row) * call.width * 4 * kPlacePixels;
  alignas(64) float within[2][kPlacePixels];  // where a pixel lies in its place
  for (int i = 0; i < kPlacePixels; ++i) within[0][i] = i % kPlace, within[1][i] = i / kPlace;
  FoundPixels found;
  const auto find = [&](int column, int at) __attribute__((always_inline)) {
    const int64_t columns[3] = {column == 0 ? 0 : column - 1, column, column + 1 == call.width ? column : column + 1};
    for (int i = 0; i < kPlacePixels; i += kLanes) {
      Vec first[2];
      for (int d = 0; d < 2; ++d) {
        const float corner = (d == 0 ? column : row) * kPlace + kPictureRim;
        Vec position = add(load(within[d] + i), broadcast(corner));
        for (int place = 0; place < 9; ++place) {
          const Vec its = broadcast(flow[place / 3][2 * columns[place % 3] + d]);
          position = fma(load(weights.of[place] + i), its, position);
        }
        const Between way = between(position, size[d]);
        store(found.part[d] + at + i, way.part);
        first[d] = mul(way.first, broadcast(4.0f));
      }
      store_whole(found.first + at + i, fma(first[1], broadcast(static_cast<float>(line / 4)), first[0]));
    }
  };
  for (int begin = 0; begin < call.width; begin += FoundPixels::kPlaces) {
    const int places = min(FoundPixels::kPlaces, call.width - begin);
    for (int i = 0; i < places; ++i) find(begin + i, i * kPlacePixels);
    for (int i = 0; i < places * kPlacePixels; i += kPlace) {
      warp_four(call.picture, line, found, i, out + i / kPlacePixels * 4 * kPlacePixels + i % kPlacePixels);
    }
    out += places * 4 * kPlacePixels;
  }
}

}  // namespace streamchar::SC_ISA
