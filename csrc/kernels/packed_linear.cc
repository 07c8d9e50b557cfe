#include "kernels/packed_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/aligned_memory.h"
#include "kernels/bfloat16.h"

namespace streamchar {

struct PackedLinear::Memory {
  explicit Memory(int64_t bytes, int outputs)
      : data(bytes),
        bias(static_cast<std::size_t>(outputs)),
        scale(static_cast<std::size_t>(outputs)),
        sum128(static_cast<std::size_t>(outputs)) {
    std::memset(data.data(), 0, static_cast<std::size_t>(bytes));
  }

  const AlignedMemory data;
  std::vector<float> bias, scale;
  std::vector<int32_t> sum128;
};

PackedLinear::PackedLinear(const float* weight, const float* bias, int outputs, int inputs, LinearStorage storage)
    : weights_{.storage = storage,
               .outputs = outputs,
               .inputs = inputs,
               .padded_inputs = (inputs + 63) / 64 * 64,
               .tiles = (outputs + 2 * kTileOutputs - 1) / (2 * kTileOutputs) * 2,
               .data = nullptr,
               .bias = nullptr,
               .scale = nullptr,
               .sum128 = nullptr} {
  memory_ = std::make_unique<Memory>(weights_.tiles * weights_.tile_bytes(), weights_.tiles * kTileOutputs);
  if (bias) std::copy(bias, bias + outputs, memory_->bias.begin());
  for (int n = 0; n < outputs; ++n) {
    const float* row = weight + int64_t{n} * inputs;
    if (storage == LinearStorage::kFloat32) {
      auto* target = static_cast<float*>(memory_->data.data());
      for (int k = 0; k < inputs; ++k) target[weights_.offset(n, k)] = row[k];
      continue;
    }
    if (storage == LinearStorage::kBFloat16) {
      auto* target = static_cast<uint16_t*>(memory_->data.data());
      for (int k = 0; k < inputs; ++k) target[weights_.offset(n, k)] = static_cast<uint16_t>(to_bf16(row[k]));
      continue;
    }
    float largest = 0.0f;
    for (int k = 0; k < inputs; ++k) largest = std::max(largest, std::fabs(row[k]));
    const bool any = largest >= 1e-35f;  // below it the inverse would overflow
    const float scale = any ? largest / 127.0f : 0.0f, inverse = any ? 127.0f / largest : 0.0f;
    auto* target = static_cast<int8_t*>(memory_->data.data());
    int32_t sum = 0;
    for (int k = 0; k < inputs; ++k) {
      const float rounded = std::nearbyint(std::clamp(row[k] * inverse, -127.0f, 127.0f));
      target[weights_.offset(n, k)] = static_cast<int8_t>(rounded);
      sum += static_cast<int32_t>(rounded);
    }
    memory_->scale[n] = scale;
    memory_->sum128[n] = 128 * sum;
  }
  weights_.data = memory_->data.data();
  weights_.bias = memory_->bias.data();
  weights_.scale = memory_->scale.data();
  weights_.sum128 = memory_->sum128.data();
}

PackedLinear::~PackedLinear() = default;

int64_t PackedLinear::bytes() const {
  return memory_->data.bytes() + static_cast<int64_t>(memory_->bias.size()) * (2 * sizeof(float) + sizeof(int32_t));
}

void PackedLinear::read(float* weight) const {
  const auto* fp32 = static_cast<const float*>(weights_.data);
  const auto* bf16 = static_cast<const uint16_t*>(weights_.data);
  const auto* int8 = static_cast<const int8_t*>(weights_.data);
  for (int n = 0; n < weights_.outputs; ++n) {
    for (int k = 0; k < weights_.inputs; ++k) {
      const int64_t at = weights_.offset(n, k);
      *weight++ = weights_.storage == LinearStorage::kFloat32    ? fp32[at]
                  : weights_.storage == LinearStorage::kBFloat16 ? from_bf16(bf16[at])
                                                                 : int8[at] * weights_.scale[n];
    }
  }
}

}  // namespace streamchar
