// What the parts of a picture do, from the code of a latent's movement.
#include "capi/part_motion.h"

#include <cmath>
#include <string>

#include "kernels/picture_warp.h"

using namespace streamchar;
using namespace streamchar::capi;

namespace streamchar::capi {

void check_latent(int32_t height, int32_t width) {
  check_range("height", height, 2, kMaxCount);
  check_range("width", width, 2, kMaxCount);
  check_range("height * width", int64_t{height} * width, 4, kMaxCount);
  if (height % 2 == 0 && width % 2 == 0) return;
  fail(SC_E_INVALID_ARGUMENT, "a latent is " + std::to_string(height) + " x " + std::to_string(width),
       "even numbers of rows and columns");
}

}  // namespace streamchar::capi

void sc_part_motion_params_init(sc_part_motion_params* params, uint32_t struct_size) {
  sc_part_motion_params defaults{};
  defaults.reach = 1.0f;
  init_struct(params, struct_size, defaults);
}

sc_status sc_part_motion_create(const sc_part_motion_params* given, sc_part_motion** out) {
  return guarded([&] {
    const auto params = read_struct("params", given);
    check_range("channels", params.channels, 1, kMaxSmall);
    check_range("frames", params.frames, 1, kMaxSmall);
    check_range("inputs", params.inputs, 1, kMaxWidth);
    check_range("frames * inputs", int64_t{params.frames} * params.inputs, 1, kMaxWidth);
    check_range("hidden", params.hidden, 1, kMaxWidth);
    check_range("parts", params.parts, 1, kMaxParts);
    if (!std::isfinite(params.reach)) fail(SC_E_INVALID_ARGUMENT, "reach is not finite", "a number of pixels");
    const PartMotionShape shape{.channels = params.channels,
                                .frames = params.frames,
                                .inputs = params.inputs,
                                .hidden = params.hidden,
                                .parts = params.parts};
    const auto weights = [](const char* name, const float* data, int64_t count) {
      check_finite(name, check_pointer(name, data), count);
      return data;
    };
    const PartMotionWeights all{
        .read = weights("read", params.read, int64_t{shape.frames} * shape.inputs * shape.codes()),
        .first = weights("first", params.first, int64_t{shape.hidden} * shape.inputs),
        .first_bias = weights("first_bias", params.first_bias, shape.hidden),
        .second = weights("second", params.second, int64_t{shape.outputs()} * shape.hidden),
        .second_bias = weights("second_bias", params.second_bias, shape.outputs()),
        .steady = weights("steady", params.steady, int64_t{shape.outputs()} * shape.inputs)};
    check_pointer("out", out);
    *out = new sc_part_motion{.motion = std::make_shared<PartMotion>(shape, all, params.reach)};
  });
}

void sc_part_motion_destroy(sc_part_motion* motion) {
  guarded([&] {
    if (motion) delete &handle(motion);
  });
}

sc_status sc_part_motion_apply(const sc_part_motion* motion, const float* latent, int32_t height, int32_t width,
                               float* out) {
  return guarded([&] {
    const PartMotion& self = *handle(motion).motion;
    check_latent(height, width);
    self.apply(check_pointer("latent", latent), height, width, check_pointer("out", out));
  });
}
