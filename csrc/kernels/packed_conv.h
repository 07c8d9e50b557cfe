// packed_conv: y = conv(silu(x)) + added, of pictures with channels last, 1x1 or 3x3 with a rim of zeros, with weights
// packed once as int8.
//
// Weights are rounded to -127..127 with one scale per output; the inputs of each row of pixels, after SiLU where asked
// for, to 0..255 with one scale per row at the call: 255 steps from the least to the largest, zero between them
// included and exact. Products of a filter's row are summed exactly (up to 66000 in 32-bit integers; where a machine has
// no products of such numbers, up to 518 in float32), so with scale_x the largest of the rows that a place sees
//   |y - exact| <= scale_x / 2 * sum |w| + scale_w / 2 * sum |x| + taps * scale_x * scale_w / 4, but for rounding.
// A row that holds an infinity or NaN makes NaN of all that sees it.
//
// A picture of y depends on that picture of x alone: not on the other pictures, their number, or the number of threads.
#pragma once

#include <cstdint>
#include <memory>

namespace streamchar {

// Outputs of a convolution may become several pictures, and several pixels of them: output
// ((frame * shuffle + dy) * shuffle + dx) * channels + c at (y, x) is channel c at (y * shuffle + dy, x * shuffle + dx)
// of that frame.
struct ConvShape {
  int inputs;
  int channels;     // of a pixel of y
  int size;         // 1 or 3
  int frames = 1;
  int shuffle = 1;

  int parts() const { return frames * shuffle * shuffle; }
  int outputs() const { return parts() * channels; }
};

// Weights lie in tiles of 16 channels of one part. A tile is [size rows][size * padded inputs / 4][16][4]: what
// VPDPBUSD takes as a vector, beside the bytes of neighbouring pixels as they lie in memory.
inline constexpr int kConvTile = 16;

struct PackedFilters {
  ConvShape shape;
  int padded_inputs;   // a multiple of 4; the added ones are zero
  int part_tiles;      // tiles of a part
  int tiles;
  const int8_t* data;
  const float* bias;   // (tiles * 16,)
  const float* scale;  // (tiles * 16,)
  const int32_t* sum;  // (size, tiles * 16): an output's weights of one filter row, summed

  int row_words() const { return shape.size * padded_inputs / 4; }  // groups of four in a filter row
  int64_t tile_bytes() const { return int64_t{shape.size} * row_words() * 4 * kConvTile; }
};

class PackedConv {
 public:
  // weight: (outputs, inputs, size, size) contiguous, finite, outputs in the order of ConvShape; bias: (outputs,) or
  // null.
  PackedConv(const float* weight, const float* bias, const ConvShape& shape);
  ~PackedConv();
  PackedConv(const PackedConv&) = delete;
  PackedConv& operator=(const PackedConv&) = delete;

  const PackedFilters& filters() const { return filters_; }
  int64_t bytes() const;

  // The weights as they are multiplied, (outputs, inputs, size, size) contiguous.
  void read(float* weight) const;

 private:
  struct Memory;

  PackedFilters filters_;
  std::unique_ptr<Memory> memory_;
};

// (batch, height, width, channels) contiguous but for the pictures' stride, in elements; 0 shares one picture.
struct ConvInput {
  const float* data;
  int channels;
  int64_t picture_stride;
};
inline constexpr int kMaxConvInputs = 3;

struct ConvCall {
  int batch;
  int height;
  int width;
  ConvInput inputs[kMaxConvInputs];  // their channels, one after another, are the convolution's
  int input_count;
  bool silu;             // of the inputs
  float* out;            // (batch * frames, height * shuffle, width * shuffle, channels) contiguous; no input
  const float* added;    // null, or like `out`; may be `out`
  int64_t added_stride;  // of its pictures; 0 shares one
};

// Uses ThreadPool::global().
void packed_conv_cpu(const PackedConv& conv, const ConvCall& call);

}  // namespace streamchar
