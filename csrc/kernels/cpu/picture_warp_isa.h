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
  for (int column = 0; column < half; ++column, given += numbers) {
    alignas(64) float power[(kMaxParts + 2) * 4 + 16] = {};
    float largest[4] = {given[0], given[1], given[2], given[3]};
    for (int n = 1; n < parts; ++n) {
      for (int i = 0; i < 4; ++i) largest[i] = given[n * 4 + i] > largest[i] ? given[n * 4 + i] : largest[i];
    }
    for (int n = 0; n < parts; ++n) {
      for (int i = 0; i < 4; ++i) power[n * 4 + i] = (given[n * 4 + i] - largest[i]) * kLog2E;
    }
    for (int i = parts * 4; i < numbers; ++i) power[i] = given[i] * (2.0f * kLog2E);
    exponentials(power, numbers);
    float sum[4] = {}, mixed[6][4] = {};
    for (int n = 0; n < parts; ++n) {
      for (int i = 0; i < 4; ++i) sum[i] += power[n * 4 + i];
      for (int m = 0; m < 6; ++m) {
        for (int i = 0; i < 4; ++i) mixed[m][i] += motion[n * 6 + m] * power[n * 4 + i];
      }
    }
    for (int i = 0; i < 4; ++i) {
      const int y = 2 * row + i / 2, x = 2 * column + i % 2;
      const float at_x = x * step_x - 1.0f, at_y = y * step_y - 1.0f;
      float* flow = call.flow + ((int64_t{frame} * call.height + y) * call.width + x) * 2;
      for (int d = 0; d < 2; ++d) {
        const float moved = (mixed[3 * d][i] * at_x + mixed[3 * d + 1][i] * at_y + mixed[3 * d + 2][i]) / sum[i];
        const float tanh = 1.0f - 2.0f / (1.0f + power[(parts + d) * 4 + i]);
        flow[d] = moved + call.local * tanh;
      }
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

// One row of places.
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
  for (int column = 0; column < call.width; ++column, out += 4 * kPlacePixels) {
    const int64_t columns[3] = {column == 0 ? 0 : column - 1, column, column + 1 == call.width ? column : column + 1};
    alignas(64) float pixels[kPlacePixels], part[2][kPlacePixels];  // each one's upper left pixel, and the way from it
    for (int i = 0; i < kPlacePixels; i += kLanes) {
      Between found[2];
      for (int d = 0; d < 2; ++d) {
        const float corner = (d == 0 ? column : row) * kPlace + kPictureRim;
        Vec position = add(load(within[d] + i), broadcast(corner));
        for (int place = 0; place < 9; ++place) {
          const Vec its = broadcast(flow[place / 3][2 * columns[place % 3] + d]);
          position = fma(load(weights.of[place] + i), its, position);
        }
        found[d] = between(position, size[d]);
        store(part[d] + i, found[d].part);
      }
      store(pixels + i, fma(found[1].first, broadcast(static_cast<float>(line / 4)), found[0].first));
    }
    for (int first = 0; first < kPlacePixels; first += 4) {
      Pixel pixel[4];
      for (int j = 0; j < 4; ++j) {
        const int i = first + j;
        const float* from = call.picture + int64_t{static_cast<int32_t>(pixels[i])} * 4;
        TwoPixels above, below;
        __builtin_memcpy(&above, from, sizeof above);
        __builtin_memcpy(&below, from + line, sizeof below);
        const TwoPixels mixed = above + part[1][i] * (below - above);
        const Pixel left = __builtin_shufflevector(mixed, mixed, 0, 1, 2, 3);
        const Pixel right = __builtin_shufflevector(mixed, mixed, 4, 5, 6, 7);
        pixel[j] = left + part[0][i] * (right - left);
      }
      Pixel channel[4];
      channels_of(pixel, channel);
      for (int c = 0; c < 4; ++c) __builtin_memcpy(out + c * kPlacePixels + first, &channel[c], sizeof(Pixel));
    }
  }
}

}  // namespace streamchar::SC_ISA
