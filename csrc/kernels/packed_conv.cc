#include "kernels/packed_conv.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/aligned_memory.h"

namespace streamchar {

struct PackedConv::Memory {
  Memory(int64_t bytes, int outputs, int rows)
      : data(bytes),
        bias(static_cast<std::size_t>(outputs)),
        scale(static_cast<std::size_t>(outputs)),
        sum(static_cast<std::size_t>(outputs * rows)) {
    std::memset(data.data(), 0, static_cast<std::size_t>(bytes));
  }

  const AlignedMemory data;
  std::vector<float> bias, scale;
  std::vector<int32_t> sum;
};

namespace {

// Where an output's channel lies among the tiles' outputs.
int padded_output(const PackedFilters& filters, int output) {
  const int part = output / filters.shape.channels, channel = output % filters.shape.channels;
  return part * filters.part_tiles * kConvTile + channel;
}

// Bytes from the start of the data.
int64_t offset(const PackedFilters& filters, int padded_output, int row, int column, int input) {
  const int64_t word = int64_t{row} * filters.row_words() + (column * filters.padded_inputs + input) / 4;
  return padded_output / kConvTile * filters.tile_bytes() + (word * kConvTile + padded_output % kConvTile) * 4 +
         input % 4;
}

}  // namespace

PackedConv::PackedConv(const float* weight, const float* bias, const ConvShape& shape)
    : filters_{.shape = shape,
               .padded_inputs = (shape.inputs + 3) / 4 * 4,
               .part_tiles = (shape.channels + kConvTile - 1) / kConvTile,
               .tiles = 0,
               .data = nullptr,
               .bias = nullptr,
               .scale = nullptr,
               .sum = nullptr} {
  filters_.tiles = shape.parts() * filters_.part_tiles;
  const int outputs = filters_.tiles * kConvTile, size = shape.size, taps = shape.inputs * size * size;
  memory_ = std::make_unique<Memory>(filters_.tiles * filters_.tile_bytes(), outputs, size);
  auto* data = static_cast<int8_t*>(memory_->data.data());
  for (int n = 0; n < shape.outputs(); ++n) {
    const float* own = weight + int64_t{n} * taps;
    float largest = 0.0f;
    for (int k = 0; k < taps; ++k) largest = std::max(largest, std::fabs(own[k]));
    const bool any = largest >= 1e-35f;  // below it the inverse would overflow
    const float scale = any ? largest / 127.0f : 0.0f, inverse = any ? 127.0f / largest : 0.0f;
    const int target = padded_output(filters_, n);
    for (int k = 0; k < taps; ++k) {
      const int input = k / (size * size), row = k / size % size, column = k % size;
      const float rounded = std::nearbyint(std::clamp(own[k] * inverse, -127.0f, 127.0f));
      data[offset(filters_, target, row, column, input)] = static_cast<int8_t>(rounded);
      memory_->sum[row * outputs + target] += static_cast<int32_t>(rounded);
    }
    memory_->scale[target] = scale;
    if (bias) memory_->bias[target] = bias[n];
  }
  filters_.data = data;
  filters_.bias = memory_->bias.data();
  filters_.scale = memory_->scale.data();
  filters_.sum = memory_->sum.data();
}

PackedConv::~PackedConv() = default;

int64_t PackedConv::bytes() const {
  return memory_->data.bytes() + static_cast<int64_t>(memory_->bias.size()) * (2 * sizeof(float)) +
         static_cast<int64_t>(memory_->sum.size() * sizeof(int32_t));
}

void PackedConv::read(float* weight) const {
  const int size = filters_.shape.size;
  for (int n = 0; n < filters_.shape.outputs(); ++n) {
    const int source = padded_output(filters_, n);
    for (int k = 0; k < filters_.shape.inputs * size * size; ++k) {
      const int input = k / (size * size), row = k / size % size, column = k % size;
      *weight++ = filters_.data[offset(filters_, source, row, column, input)] * filters_.scale[source];
    }
  }
}

}  // namespace streamchar
