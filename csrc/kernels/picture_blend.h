// picture_blend: what was drawn, blended with the warped reference, as pixels with straight alpha.
//
// A place is 4 x 4 pixels (picture_warp.h). With w = sigmoid(weight) a pixel is
//   (1 - w) * (drawn + 1/2) + w * warped, premultiplied RGBA;
// alpha is limited to [0, 1], colours are divided by the larger of alpha and 1/255 and limited likewise, and all are
// rounded to 0..255. What is not a number becomes 0.
#pragma once

#include <cstdint>

#include "kernels/picture_warp.h"

namespace streamchar {

struct PictureBlend {
  int frames;
  int height, width;    // in places
  const float* drawn;   // (frames, height, width, 5 * 16) contiguous: R, G, B, A and weight, by pixel of the place
  const float* warped;  // (frames, height, width, 4 * 16) contiguous
  uint8_t* out;         // (frames, height * 4, width * 4, 4) contiguous
};

// Uses ThreadPool::global().
void picture_blend_cpu(const PictureBlend& call);

}  // namespace streamchar
