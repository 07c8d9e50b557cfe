// picture_blend of a row of places, for the instruction set of this translation unit.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/picture_blend.h"

namespace streamchar::SC_ISA {

// To [0, 1]; what is not a number becomes 0.
SC_INLINE Vec limited(Vec x) { return min(max(x, broadcast(0.0f)), broadcast(1.0f)); }

SC_INLINE void blend_row_any(const PictureBlend& call, int frame, int row) {
  constexpr float kSlope = -1.44269504f;
  const int64_t place = (int64_t{frame} * call.height + row) * call.width;
  const float* drawn = call.drawn + place * 5 * kPlacePixels;
  const float* warped = call.warped + place * 4 * kPlacePixels;
  const int64_t line = int64_t{call.width} * kPlace * 4;
  uint8_t* out = call.out + place * kPlacePixels * 4;
  for (int column = 0; column < call.width; ++column) {
    alignas(64) float bytes[4][kPlacePixels];
    for (int i = 0; i < kPlacePixels; i += kLanes) {
      const Vec e = exp2(min(mul(load(drawn + 4 * kPlacePixels + i), broadcast(kSlope)), broadcast(126.0f)));
      const Vec weight = div(broadcast(1.0f), add(e, broadcast(1.0f)));
      Vec colour[4];
      for (int c = 0; c < 4; ++c) {
        const Vec own = add(load(drawn + c * kPlacePixels + i), broadcast(0.5f));
        colour[c] = fma(weight, sub(load(warped + c * kPlacePixels + i), own), own);
      }
      const Vec alpha = limited(colour[3]);
      const Vec inverse = div(broadcast(1.0f), max(alpha, broadcast(1.0f / 255.0f)));
      for (int c = 0; c < 4; ++c) {
        const Vec value = c == 3 ? alpha : limited(mul(colour[c], inverse));
        store(bytes[c] + i, fma(value, broadcast(255.0f), broadcast(0.5f)));
      }
    }
    alignas(64) uint32_t pixels[kPlacePixels];
    for (int i = 0; i < kPlacePixels; ++i) {
      const auto byte = [&](int c) __attribute__((always_inline)) {
        return static_cast<uint32_t>(static_cast<int32_t>(bytes[c][i]));
      };
      pixels[i] = byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
    }
    for (int y = 0; y < kPlace; ++y) __builtin_memcpy(out + y * line, pixels + y * kPlace, 4 * kPlace);
    drawn += 5 * kPlacePixels;
    warped += 4 * kPlacePixels;
    out += kPlace * 4;
  }
}

}  // namespace streamchar::SC_ISA
