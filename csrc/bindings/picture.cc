// picture_warp and picture_blend.
#include "bindings/bindings.h"
#include "kernels/picture_blend.h"
#include "kernels/picture_warp.h"

namespace streamchar::bindings {
namespace {

void picture_warp(int frames, int height, int width, int parts, Address places, Address motion, float local,
                  Address picture, Address flow, Address warped) {
  picture_warp_cpu({.frames = frames,
                    .height = height,
                    .width = width,
                    .parts = parts,
                    .places = floats(places),
                    .motion = floats(motion),
                    .local = local,
                    .picture = floats(picture),
                    .flow = writable_floats(flow),
                    .warped = writable_floats(warped)});
}

void picture_blend(int frames, int height, int width, Address drawn, Address warped, Address out) {
  picture_blend_cpu({.frames = frames,
                     .height = height,
                     .width = width,
                     .drawn = floats(drawn),
                     .warped = floats(warped),
                     .out = reinterpret_cast<uint8_t*>(out)});
}

}  // namespace

void bind_picture(pybind11::module_& module) {
  using NoGil = pybind11::call_guard<pybind11::gil_scoped_release>;
  module.attr("max_picture_parts") = kMaxParts;
  module.attr("max_picture_pixels") = kMaxPicturePixels;
  module.def("picture_warp", &picture_warp, NoGil());
  module.def("picture_blend", &picture_blend, NoGil());
}

}  // namespace streamchar::bindings
