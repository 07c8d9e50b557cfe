// video_decoder: the frames of a latent, from its numbers, those of the latent before and what is known of a character.
//
// packed_conv, part_motion, picture_warp and picture_blend in a row, in pieces of about the same length: `begin`, then
// `frame` for each. What is drawn depends on the arguments alone, not on the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/packed_conv.h"
#include "networks/part_motion.h"

namespace streamchar {

using SharedConv = std::shared_ptr<const PackedConv>;

// x + second(silu(first(silu(x)))), of as many channels as x.
struct ResidualConvs {
  SharedConv first, second;
};

// A latent is (channels, height, width), and its pictures are 16 times as large.
struct VideoDecoderLayers {
  SharedConv inputs;                 // of the latent and the one before, at 1/16
  std::vector<ResidualConvs> trunk;  // there
  SharedConv split;                  // to the frames, at 1/8
  ResidualConvs middle;              // of a frame, there
  SharedConv flow;                   // of its SiLU: the places of picture_warp
  SharedConv up;                     // to 1/4
  SharedConv warped;                 // of the moved reference; its sum with `up` goes on
  ResidualConvs fine;                // at 1/4
  SharedConv out;                    // of its SiLU: what picture_blend calls drawn
  std::shared_ptr<const PartMotion> motion;
  float local;                       // pixels that the local flow is at most
};

// What is added for a character to `inputs`, `split` and `up`, with channels last, and its picture as picture_warp
// takes it.
struct DecoderCharacter {
  const float* coarse;   // (height, width, channels)
  const float* middle;   // (2 * height, 2 * width, channels)
  const float* fine;     // (4 * height, 4 * width, channels)
  const float* picture;  // (16 * height + 4, 16 * width + 4, 4)
};

class VideoDecoder {
 public:
  explicit VideoDecoder(VideoDecoderLayers layers);
  ~VideoDecoder();
  VideoDecoder(const VideoDecoder&) = delete;
  VideoDecoder& operator=(const VideoDecoder&) = delete;

  const VideoDecoderLayers& layers() const { return layers_; }
  int frames() const { return layers_.split->filters().shape.frames; }
  int latent_channels() const { return layers_.inputs->filters().shape.inputs / 2; }

 private:
  friend class LatentDrawing;
  struct Buffers;

  std::unique_ptr<Buffers> take() const;
  void give(std::unique_ptr<Buffers> buffers) const noexcept;

  const VideoDecoderLayers layers_;
  mutable std::mutex mutex_;
  mutable std::unique_ptr<Buffers> spare_;  // a list: as many as there were drawings side by side
};

// A latent whose frames are being drawn. May end at any time; its buffers go back to the decoder.
class LatentDrawing {
 public:
  // height, width: of the latent, both even. `character` is read by the calls below.
  LatentDrawing(std::shared_ptr<const VideoDecoder> decoder, int height, int width, const DecoderCharacter& character);
  ~LatentDrawing();
  LatentDrawing(const LatentDrawing&) = delete;
  LatentDrawing& operator=(const LatentDrawing&) = delete;

  // What the frames have in common; before any of them. Both (channels, height, width) contiguous.
  void begin(const float* latent, const float* previous);

  // Frame `index`, at most once each, to (16 * height, 16 * width, 4) contiguous, straight alpha. `picture`: what is moved
  // in place of the character's; null: that.
  void frame(int index, uint8_t* out, const float* picture = nullptr);

 private:
  const std::shared_ptr<const VideoDecoder> decoder_;
  const int height_, width_;
  const DecoderCharacter character_;
  std::unique_ptr<VideoDecoder::Buffers> buffers_;
};

}  // namespace streamchar
