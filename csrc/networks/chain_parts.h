// Parts that chains have in common, and what they check of them and of the numbers that they look up.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/packed_linear.h"

namespace streamchar {

inline constexpr float kLayerNormEps = 1e-5f;

// Layer norm with a weight of 1 + scale.
struct ShiftedNorm {
  std::vector<float> shift, scale;  // (width,)
};

// Throws std::invalid_argument unless there is a layer of that shape.
inline void check_linear(const std::string& chain, const PackedLinear* linear, int inputs, int outputs) {
  if (!linear || linear->weights().inputs != inputs || linear->weights().outputs != outputs) {
    throw std::invalid_argument("a linear layer of " + chain + " has the wrong shape");
  }
}

// Throws std::invalid_argument unless there are so many numbers.
inline void check_size(const std::string& chain, const std::vector<float>& vector, int size) {
  if (vector.size() != static_cast<std::size_t>(size)) {
    throw std::invalid_argument("a norm or table of " + chain + " has the wrong size");
  }
}

inline void check_norm(const std::string& chain, const ShiftedNorm& norm, int width) {
  check_size(chain, norm.shift, width);
  check_size(chain, norm.scale, width);
}

// Throws std::out_of_range unless `id` is a row of a table (ids, width).
inline void check_id(const char* what, int64_t id, const std::vector<float>& table, int width) {
  const auto ids = static_cast<int64_t>(table.size()) / width;
  if (id < 0 || id >= ids) {
    throw std::out_of_range(std::string(what) + " " + std::to_string(id) + " is not one of " + std::to_string(ids));
  }
}

}  // namespace streamchar
