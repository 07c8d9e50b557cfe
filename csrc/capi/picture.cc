// What makes pictures of a video decoder's numbers: the warp of the reference, and the blend.
#include <cmath>
#include <string>

#include "capi/checks.h"
#include "kernels/picture_blend.h"
#include "kernels/picture_warp.h"

using namespace streamchar;
using namespace streamchar::capi;

namespace {

void check_places(int32_t frames, int32_t height, int32_t width) {
  check_range("frames", frames, 1, kMaxCount);
  check_range("height", height, 1, kMaxCount);
  check_range("width", width, 1, kMaxCount);
  check_range("frames * height", int64_t{frames} * height, 1, kMaxCount);
  const int64_t rim = 2 * kPictureRim;
  check_range("(4 * height + 4) * (4 * width + 4)", (int64_t{kPlace} * height + rim) * (int64_t{kPlace} * width + rim),
              1, kMaxPicturePixels);
}

void check_even(const char* name, int32_t value) {
  if (value % 2 == 0) return;
  fail(SC_E_INVALID_ARGUMENT, std::string(name) + " is " + std::to_string(value), "an even number of places");
}

}  // namespace

void sc_picture_warp_call_init(sc_picture_warp_call* call, uint32_t struct_size) {
  init_struct(call, struct_size, {});
}

void sc_picture_blend_call_init(sc_picture_blend_call* call, uint32_t struct_size) {
  init_struct(call, struct_size, {});
}

sc_status sc_picture_warp(const sc_picture_warp_call* given) {
  return guarded([&] {
    const auto call = read_struct("call", given);
    check_places(call.frames, call.height, call.width);
    check_even("height", call.height);
    check_even("width", call.width);
    check_range("parts", call.parts, 1, kMaxParts);
    if (!std::isfinite(call.local)) {
      fail(SC_E_INVALID_ARGUMENT, "local is not finite", "the pixels that the local flow is at most");
    }
    picture_warp_cpu({.frames = call.frames,
                      .height = call.height,
                      .width = call.width,
                      .parts = call.parts,
                      .places = check_pointer("places", call.places),
                      .motion = check_pointer("motion", call.motion),
                      .local = call.local,
                      .picture = check_pointer("picture", call.picture),
                      .flow = check_pointer("flow", call.flow),
                      .warped = check_pointer("warped", call.warped)});
  });
}

sc_status sc_picture_blend(const sc_picture_blend_call* given) {
  return guarded([&] {
    const auto call = read_struct("call", given);
    check_places(call.frames, call.height, call.width);
    picture_blend_cpu({.frames = call.frames,
                       .height = call.height,
                       .width = call.width,
                       .drawn = check_pointer("drawn", call.drawn),
                       .warped = check_pointer("warped", call.warped),
                       .out = check_pointer("out", call.out)});
  });
}
