// The video decoder, and latents whose frames are being drawn.
#include "networks/video_decoder.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "capi/conv.h"
#include "capi/part_motion.h"
#include "kernels/picture_warp.h"

using namespace streamchar;
using namespace streamchar::capi;

struct sc_video_decoder {
  static constexpr Kind kKind = Kind::kVideoDecoder;
  const Kind kind = kKind;
  std::shared_ptr<const VideoDecoder> decoder;  // shared with its drawings
  int64_t widest;                               // numbers of a row of pixels, for each column of a latent
};

struct sc_latent_drawing {
  static constexpr Kind kKind = Kind::kLatentDrawing;
  const Kind kind = kKind;
  LatentDrawing drawing;
  std::vector<bool> left;  // frames that are still to be drawn
};

namespace {

// Layers as they are checked one after another.
class Layers {
 public:
  // A convolution at `scale` times the latent's columns.
  SharedConv take(const std::string& name, const sc_conv* given, int scale, const ConvShape& wanted) {
    check_pointer(name.c_str(), given);
    const SharedConv& conv = handle(given).conv;
    const ConvShape& shape = conv->filters().shape;
    if (shape.inputs != wanted.inputs || shape.channels != wanted.channels || shape.frames != wanted.frames ||
        shape.shuffle != wanted.shuffle) {
      fail(SC_E_INVALID_ARGUMENT, name + " is " + text(shape), text(wanted));
    }
    widest_ = std::max(widest_, int64_t{scale} * shape.inputs);
    return conv;
  }

  ResidualConvs take(const std::string& name, const sc_conv_pair& given, int scale, int channels) {
    const ConvShape shape{.inputs = channels, .channels = channels, .size = 3};
    return {take(name + ".first", given.first, scale, shape), take(name + ".second", given.second, scale, shape)};
  }

  int64_t widest() const { return widest_; }

 private:
  static std::string text(const ConvShape& shape) {
    return std::to_string(shape.inputs) + " to " + std::to_string(shape.channels) + " channels, " +
           std::to_string(shape.frames) + " frames, shuffled by " + std::to_string(shape.shuffle);
  }

  int64_t widest_ = 0;
};

const ConvShape& shape_of(const char* name, const sc_conv* given) {
  return handle(check_pointer(name, given)).conv->filters().shape;
}

std::pair<VideoDecoderLayers, int64_t> read_layers(const sc_video_decoder_params& params) {
  const std::shared_ptr<const PartMotion>& motion = handle(check_pointer("motion", params.motion)).motion;
  const int given = shape_of("inputs", params.inputs).inputs, a = shape_of("inputs", params.inputs).channels;
  const int b = shape_of("split", params.split).channels, c = shape_of("up", params.up).channels;
  const PartMotionShape& moving = motion->shape();
  if (given % 2 || given / 2 < moving.channels) {
    fail(SC_E_INVALID_ARGUMENT, "inputs takes " + std::to_string(given) + " channels",
         "those of two latents, each of " + std::to_string(moving.channels) + " or more");
  }
  if (!std::isfinite(params.local)) {
    fail(SC_E_INVALID_ARGUMENT, "local is not finite", "the pixels that the local flow is at most");
  }
  check_range("trunk_count", params.trunk_count, 0, kMaxSmall);
  if (params.trunk_count) check_pointer("trunk", params.trunk);
  Layers take;
  VideoDecoderLayers layers{
      .inputs = take.take("inputs", params.inputs, 1, {.inputs = given, .channels = a, .size = 3}),
      .trunk = {},
      .split = take.take("split", params.split, 1,
                         {.inputs = a, .channels = b, .size = 1, .frames = moving.frames, .shuffle = 2}),
      .middle = take.take("middle", params.middle, 2, b),
      .flow = take.take("flow", params.flow, 2, {.inputs = b, .channels = 4 * (moving.parts + 2), .size = 3}),
      .up = take.take("up", params.up, 2, {.inputs = b, .channels = c, .size = 1, .shuffle = 2}),
      .warped = take.take("warped", params.warped, 4, {.inputs = 4 * kPlacePixels, .channels = c, .size = 1}),
      .fine = take.take("fine", params.fine, 4, c),
      .out = take.take("out", params.out, 4, {.inputs = c, .channels = 5 * kPlacePixels, .size = 3}),
      .motion = motion,
      .local = params.local};
  for (int32_t i = 0; i < params.trunk_count; ++i) {
    layers.trunk.push_back(take.take("trunk[" + std::to_string(i) + "]", params.trunk[i], 1, a));
  }
  return {std::move(layers), take.widest()};
}

}  // namespace

void sc_video_decoder_params_init(sc_video_decoder_params* params, uint32_t struct_size) {
  init_struct(params, struct_size, {});
}

void sc_latent_drawing_params_init(sc_latent_drawing_params* params, uint32_t struct_size) {
  init_struct(params, struct_size, {});
}

sc_status sc_video_decoder_create(const sc_video_decoder_params* given, sc_video_decoder** out) {
  return guarded([&] {
    auto [layers, widest] = read_layers(read_struct("params", given));
    check_pointer("out", out);
    *out = new sc_video_decoder{.decoder = std::make_shared<VideoDecoder>(std::move(layers)), .widest = widest};
  });
}

void sc_video_decoder_destroy(sc_video_decoder* decoder) {
  guarded([&] {
    if (decoder) delete &handle(decoder);
  });
}

sc_status sc_latent_drawing_create(const sc_video_decoder* decoder, const sc_latent_drawing_params* given,
                                   sc_latent_drawing** out) {
  return guarded([&] {
    const sc_video_decoder& self = handle(decoder);
    const auto params = read_struct("params", given);
    check_latent(params.height, params.width);
    constexpr int64_t kScale = 4 * kPlace, kRim = 2 * kPictureRim;
    check_range("(16 * height + 4) * (16 * width + 4)",
                (kScale * params.height + kRim) * (kScale * params.width + kRim), 1, kMaxPicturePixels);
    check_range("numbers of a row of pixels", self.widest * params.width, 1, kMaxRowNumbers);
    const DecoderCharacter character{.coarse = check_pointer("coarse", params.coarse),
                                     .middle = check_pointer("middle", params.middle),
                                     .fine = check_pointer("fine", params.fine),
                                     .picture = check_pointer("picture", params.picture)};
    check_pointer("out", out);
    *out = new sc_latent_drawing{.drawing = LatentDrawing(self.decoder, params.height, params.width, character),
                                 .left = std::vector<bool>(self.decoder->frames())};
  });
}

void sc_latent_drawing_destroy(sc_latent_drawing* drawing) {
  guarded([&] {
    if (drawing) delete &handle(drawing);
  });
}

sc_status sc_latent_drawing_begin(sc_latent_drawing* drawing, const float* latent, const float* previous) {
  return guarded([&] {
    sc_latent_drawing& self = handle(drawing);
    self.drawing.begin(check_pointer("latent", latent), check_pointer("previous", previous));
    self.left.assign(self.left.size(), true);
  });
}

sc_status sc_latent_drawing_frame(sc_latent_drawing* drawing, int32_t index, uint8_t* out) {
  return guarded([&] {
    sc_latent_drawing& self = handle(drawing);
    check_range("index", index, 0, static_cast<int64_t>(self.left.size()) - 1);
    if (!self.left[index]) {
      fail(SC_E_INVALID_STATE, "frame " + std::to_string(index) + " is not to be drawn",
           "sc_latent_drawing_begin(), then each frame once");
    }
    self.drawing.frame(index, check_pointer("out", out));
    self.left[index] = false;
  });
}
