#include "networks/part_motion.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace streamchar {
namespace {

std::vector<float> transposed(const float* matrix, int rows, int columns) {
  std::vector<float> out(static_cast<std::size_t>(rows) * columns);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) out[static_cast<std::size_t>(c) * rows + r] = matrix[int64_t{r} * columns + c];
  }
  return out;
}

// sums += matrix . x, with the matrix transposed.
void add_products(const std::vector<float>& matrix, const float* x, int inputs, float* sums, int outputs) {
  const float* row = matrix.data();
  for (int i = 0; i < inputs; ++i, row += outputs) {
    for (int n = 0; n < outputs; ++n) sums[n] += x[i] * row[n];
  }
}

}  // namespace

PartMotion::PartMotion(const PartMotionShape& shape, const PartMotionWeights& weights, float reach)
    : shape_(shape),
      read_(transposed(weights.read, shape.frames * shape.inputs, shape.codes())),
      first_(transposed(weights.first, shape.hidden, shape.inputs)),
      second_(transposed(weights.second, shape.outputs(), shape.hidden)),
      steady_(transposed(weights.steady, shape.outputs(), shape.inputs)),
      first_bias_(weights.first_bias, weights.first_bias + shape.hidden),
      second_bias_(weights.second_bias, weights.second_bias + shape.outputs()),
      reach_(reach) {}

void PartMotion::apply(const float* latent, int height, int width, float* motion) const {
  std::vector<float> code(shape_.codes()), fields(static_cast<std::size_t>(shape_.frames) * shape_.inputs);
  for (int c = 0; c < shape_.channels; ++c) {
    double cells[4] = {};
    for (int y = 0; y < height; ++y) {
      const float* row = latent + (int64_t{c} * height + y) * width;
      for (int x = 0; x < width; ++x) cells[y % 2 * 2 + x % 2] += row[x];
    }
    for (int i = 0; i < 4; ++i) code[c * 4 + i] = static_cast<float>(cells[i] / (0.25 * height * width));
  }
  add_products(read_, code.data(), shape_.codes(), fields.data(), shape_.frames * shape_.inputs);
  std::vector<float> hidden(shape_.hidden);
  for (int frame = 0; frame < shape_.frames; ++frame) {
    const float* own = fields.data() + std::ptrdiff_t{frame} * shape_.inputs;
    float* out = motion + std::ptrdiff_t{frame} * shape_.outputs();
    std::copy(first_bias_.begin(), first_bias_.end(), hidden.begin());
    add_products(first_, own, shape_.inputs, hidden.data(), shape_.hidden);
    for (float& h : hidden) h /= 1.0f + std::exp(-h);
    std::copy(second_bias_.begin(), second_bias_.end(), out);
    add_products(second_, hidden.data(), shape_.hidden, out, shape_.outputs());
    add_products(steady_, own, shape_.inputs, out, shape_.outputs());
    for (int n = 0; n < shape_.outputs(); ++n) out[n] *= reach_;
  }
}

}  // namespace streamchar
