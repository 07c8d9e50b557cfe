#include "networks/video_decoder.h"

#include <utility>

#include "kernels/aligned_memory.h"
#include "kernels/picture_blend.h"
#include "kernels/picture_warp.h"

namespace streamchar {
namespace {

struct Grid {
  int height, width;

  int64_t places() const { return int64_t{height} * width; }
  Grid times(int factor) const { return {height * factor, width * factor}; }
};

// One picture, contiguous with its channels last.
void convolve(const PackedConv& conv, Grid grid, const float* x, bool silu, const float* added, float* out) {
  const int channels = conv.filters().shape.inputs;
  packed_conv_cpu(conv, {.batch = 1,
                         .height = grid.height,
                         .width = grid.width,
                         .inputs = {{x, channels, 0}},
                         .input_count = 1,
                         .silu = silu,
                         .out = out,
                         .added = added,
                         .added_stride = 0});
}

// x becomes the block's result; `inside` is as large.
void residual(const ResidualConvs& block, Grid grid, float* x, float* inside) {
  convolve(*block.first, grid, x, true, nullptr, inside);
  convolve(*block.second, grid, inside, true, x, x);
}

int channels(const SharedConv& conv) { return conv->filters().shape.channels; }

// A latent's numbers, channel after channel, into every `stride`-th run of them.
void channels_last(const float* planes, int count, int64_t places, int stride, float* out) {
  for (int64_t p = 0; p < places; ++p) {
    for (int c = 0; c < count; ++c) out[p * stride + c] = planes[c * places + p];
  }
}

}  // namespace

// Memory that a drawing leaves to the next one: fresh memory is slow at first touch.
struct VideoDecoder::Buffers {
  void fit(const VideoDecoderLayers& layers, Grid latent) {
    const int64_t coarse_places = latent.places(), middle_places = 4 * coarse_places, fine_places = 16 * coarse_places;
    const int frames = layers.split->filters().shape.frames;
    const std::pair<float**, int64_t> parts[] = {
        {&given, coarse_places * layers.inputs->filters().shape.inputs},
        {&motion, int64_t{frames} * layers.motion->shape().outputs()},
        {&coarse, coarse_places * channels(layers.inputs)},
        {&coarse_inside, coarse_places * channels(layers.inputs)},
        {&middle, frames * middle_places * channels(layers.split)},
        {&middle_inside, middle_places * channels(layers.split)},
        {&places, middle_places * channels(layers.flow)},
        {&flow, fine_places * 2},
        {&warped, fine_places * 4 * kPlacePixels},
        {&fine, fine_places * channels(layers.up)},
        {&fine_inside, fine_places * channels(layers.up)},
        {&drawn, fine_places * 5 * kPlacePixels},
    };
    const auto padded = [](int64_t floats) { return (floats + kLine - 1) / kLine * kLine; };
    int64_t total = 0;
    for (const auto& [place, floats] : parts) total += padded(floats);
    auto* next = static_cast<float*>(memory_.at_least(total * static_cast<int64_t>(sizeof(float))));
    for (const auto& [place, floats] : parts) {
      *place = next;
      next += padded(floats);
    }
  }

  std::unique_ptr<Buffers> next;
  float *given, *motion, *coarse, *coarse_inside, *middle, *middle_inside, *places, *flow, *warped, *fine, *fine_inside,
      *drawn;

 private:
  static constexpr int64_t kLine = AlignedMemory::kAlignment / sizeof(float);

  AlignedMemory memory_;
};

VideoDecoder::VideoDecoder(VideoDecoderLayers layers) : layers_(std::move(layers)) {}
VideoDecoder::~VideoDecoder() = default;

std::unique_ptr<VideoDecoder::Buffers> VideoDecoder::take() const {
  {
    const std::lock_guard lock(mutex_);
    if (spare_) {
      std::unique_ptr<Buffers> buffers = std::move(spare_);
      spare_ = std::move(buffers->next);
      return buffers;
    }
  }
  return std::make_unique<Buffers>();
}

void VideoDecoder::give(std::unique_ptr<Buffers> buffers) const noexcept {
  const std::lock_guard lock(mutex_);
  buffers->next = std::move(spare_);
  spare_ = std::move(buffers);
}

LatentDrawing::LatentDrawing(std::shared_ptr<const VideoDecoder> decoder, int height, int width,
                             const DecoderCharacter& character)
    : decoder_(std::move(decoder)),
      height_(height),
      width_(width),
      character_(character),
      buffers_(decoder_->take()) {
  buffers_->fit(decoder_->layers(), {height, width});
}

LatentDrawing::~LatentDrawing() { decoder_->give(std::move(buffers_)); }

void LatentDrawing::begin(const float* latent, const float* previous) {
  const VideoDecoderLayers& layers = decoder_->layers();
  const Grid grid{height_, width_};
  const int count = decoder_->latent_channels();
  VideoDecoder::Buffers& at = *buffers_;
  channels_last(latent, count, grid.places(), 2 * count, at.given);
  channels_last(previous, count, grid.places(), 2 * count, at.given + count);
  layers.motion->apply(latent, height_, width_, at.motion);
  convolve(*layers.inputs, grid, at.given, false, character_.coarse, at.coarse);
  for (const ResidualConvs& block : layers.trunk) residual(block, grid, at.coarse, at.coarse_inside);
  convolve(*layers.split, grid, at.coarse, false, character_.middle, at.middle);
}

void LatentDrawing::frame(int index, uint8_t* out, const float* picture) {
  const VideoDecoderLayers& layers = decoder_->layers();
  const Grid latent{height_, width_}, half = latent.times(2), whole = latent.times(4);
  VideoDecoder::Buffers& at = *buffers_;
  float* x = at.middle + index * half.places() * channels(layers.split);
  residual(layers.middle, half, x, at.middle_inside);
  convolve(*layers.flow, half, x, true, nullptr, at.places);
  picture_warp_cpu({.frames = 1,
                    .height = whole.height,
                    .width = whole.width,
                    .parts = layers.motion->shape().parts,
                    .places = at.places,
                    .motion = at.motion + std::ptrdiff_t{index} * layers.motion->shape().outputs(),
                    .local = layers.local,
                    .picture = picture ? picture : character_.picture,
                    .flow = at.flow,
                    .warped = at.warped});
  convolve(*layers.up, half, x, false, character_.fine, at.fine);
  convolve(*layers.warped, whole, at.warped, false, at.fine, at.fine);
  residual(layers.fine, whole, at.fine, at.fine_inside);
  convolve(*layers.out, whole, at.fine, true, nullptr, at.drawn);
  picture_blend_cpu({.frames = 1,
                     .height = whole.height,
                     .width = whole.width,
                     .drawn = at.drawn,
                     .warped = at.warped,
                     .out = out});
}

}  // namespace streamchar
