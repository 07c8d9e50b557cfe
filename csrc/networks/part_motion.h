// part_motion: what the parts of a picture do in each frame, read from the code of a latent's movement.
//
// The code is the mean over the 2 x 2 cells, by the parity of rows and columns, of a latent's first channels: number
// (channel * 2 + y % 2) * 2 + x % 2. With fields = read . code, `inputs` of them to a frame,
//   motion = reach * (second . silu(first . fields + first_bias) + second_bias + steady . fields).
#pragma once

#include <cstdint>
#include <vector>

namespace streamchar {

struct PartMotionShape {
  int channels;  // of a latent that hold the code
  int frames;    // of a latent
  int inputs;    // fields of a frame
  int hidden;
  int parts;

  int codes() const { return channels * 4; }
  int outputs() const { return parts * 6; }
};

// Contiguous, (outputs, inputs) as linear layers have them.
struct PartMotionWeights {
  const float* read;         // (frames * inputs, codes)
  const float* first;        // (hidden, inputs)
  const float* first_bias;   // (hidden,)
  const float* second;       // (parts * 6, hidden)
  const float* second_bias;  // (parts * 6,)
  const float* steady;       // (parts * 6, inputs)
};

class PartMotion {
 public:
  // Copies the weights.
  PartMotion(const PartMotionShape& shape, const PartMotionWeights& weights, float reach);

  const PartMotionShape& shape() const { return shape_; }

  // latent: (at least `channels`, height, width) contiguous, both even; motion: (frames, parts, 2, 3) contiguous.
  void apply(const float* latent, int height, int width, float* motion) const;

 private:
  PartMotionShape shape_;
  // (inputs, outputs), so that a row of them goes into all sums at once.
  std::vector<float> read_, first_, second_, steady_;
  std::vector<float> first_bias_, second_bias_;
  float reach_;
};

}  // namespace streamchar
