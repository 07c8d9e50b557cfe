// PartMotion, VideoDecoder, and LatentDrawing: a latent whose frames are being drawn.
#include <pybind11/stl.h>

#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "networks/video_decoder.h"

namespace streamchar::bindings {
namespace {

namespace py = pybind11;

using Conv = std::shared_ptr<PackedConv>;
using Pair = std::pair<Conv, Conv>;

ResidualConvs residual(const Pair& pair) { return {pair.first, pair.second}; }

std::shared_ptr<PartMotion> motion(int channels, int frames, int inputs, int hidden, int parts, Address read,
                                   Address first, Address first_bias, Address second, Address second_bias,
                                   Address steady, float reach) {
  const PartMotionShape shape{
      .channels = channels, .frames = frames, .inputs = inputs, .hidden = hidden, .parts = parts};
  return std::make_shared<PartMotion>(shape,
                                      PartMotionWeights{.read = floats(read),
                                                        .first = floats(first),
                                                        .first_bias = floats(first_bias),
                                                        .second = floats(second),
                                                        .second_bias = floats(second_bias),
                                                        .steady = floats(steady)},
                                      reach);
}

std::shared_ptr<VideoDecoder> decoder(Conv inputs, const std::vector<Pair>& trunk, Conv split, const Pair& middle,
                                      Conv flow, Conv up, Conv warped, const Pair& fine, Conv out,
                                      std::shared_ptr<PartMotion> motion, float local) {
  VideoDecoderLayers layers{.inputs = std::move(inputs),
                            .trunk = {},
                            .split = std::move(split),
                            .middle = residual(middle),
                            .flow = std::move(flow),
                            .up = std::move(up),
                            .warped = std::move(warped),
                            .fine = residual(fine),
                            .out = std::move(out),
                            .motion = std::move(motion),
                            .local = local};
  for (const Pair& pair : trunk) layers.trunk.push_back(residual(pair));
  return std::make_shared<VideoDecoder>(std::move(layers));
}

// Addresses of what is added at 1/16, 1/8 and 1/4, and of the picture.
using Character = std::tuple<Address, Address, Address, Address>;

std::unique_ptr<LatentDrawing> drawing(std::shared_ptr<VideoDecoder> decoder, int height, int width,
                                       const Character& character) {
  const auto& [coarse, middle, fine, picture] = character;
  return std::make_unique<LatentDrawing>(
      std::move(decoder), height, width,
      DecoderCharacter{.coarse = floats(coarse),
                       .middle = floats(middle),
                       .fine = floats(fine),
                       .picture = floats(picture)});
}

}  // namespace

void bind_video_decoder(py::module_& module) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<PartMotion, std::shared_ptr<PartMotion>>(module, "PartMotion")
      .def(py::init(&motion))
      .def("apply", [](const PartMotion& self, Address latent, int height, int width, Address motion) {
        self.apply(floats(latent), height, width, writable_floats(motion));
      });
  py::class_<VideoDecoder, std::shared_ptr<VideoDecoder>>(module, "VideoDecoder").def(py::init(&decoder));
  py::class_<LatentDrawing>(module, "LatentDrawing")
      .def(py::init(&drawing))
      .def(
          "begin",
          [](LatentDrawing& self, Address latent, Address previous) { self.begin(floats(latent), floats(previous)); },
          NoGil())
      .def(
          "frame",
          [](LatentDrawing& self, int index, Address out, Address picture) {
            self.frame(index, reinterpret_cast<uint8_t*>(out), floats(picture));
          },
          NoGil());
}

}  // namespace streamchar::bindings
