// picture_warp: a reference picture moved by the flow of parts that move rigidly, each place choosing among them.
//
// A place is 4 x 4 pixels. Its flow is the sum over parts of softmax(scores)[part] * motion[part] (x, y, 1), plus
// local * tanh of two more numbers; x and y go from -1 to 1 over the places, ends included. Between places the flow is
// interpolated linearly, and the picture as well; beyond its edges the picture is zero, and the flow that of the edge.
// Flow that is not a number shows nothing.
#pragma once

#include <cstdint>

namespace streamchar {

inline constexpr int kPlace = 4;                         // pixels across a place, and down
inline constexpr int kPlacePixels = kPlace * kPlace;
inline constexpr int kPictureRim = 2;
inline constexpr int kMaxParts = 32;
inline constexpr int64_t kMaxPicturePixels = 1 << 24;    // rim included: counted in float32

struct PictureWarp {
  int frames;
  int height, width;  // in places, both even
  int parts;          // at most kMaxParts
  // (frames, height / 2, width / 2, (parts + 2) * 4) contiguous: number 4 n + 2 dy + dx is score n (then x and y of the
  // local flow) of place (2 y + dy, 2 x + dx).
  const float* places;
  const float* motion;   // (frames, parts, 2, 3) contiguous, pixels
  float local;           // pixels
  const float* picture;  // (height * 4 + 4, width * 4 + 4, 4) contiguous: with a rim of two zero pixels
  float* flow;           // (frames, height, width, 2): x and y in pixels, from each place to where the picture shows it
  float* warped;         // (frames, height, width, 4 * 16): by channel, then by pixel of the place
};

// Uses ThreadPool::global().
void picture_warp_cpu(const PictureWarp& call);

}  // namespace streamchar
