#include "kernels/istft_overlap_add.h"

#include <cmath>
#include <map>
#include <mutex>
#include <numbers>
#include <vector>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/inverse_fft.h"
#include "kernels/thread_pool.h"
#include "kernels/thread_scratch.h"

namespace streamchar {
namespace {

// e^{2 pi i k / size} for k < size / 2, made once per size and kept.
const float* turns_of(int size) {
  static std::mutex mutex;
  static auto& kept = *new std::map<int, std::vector<float>>;
  const std::lock_guard lock(mutex);
  std::vector<float>& turns = kept[size];
  if (turns.empty()) {
    for (int k = 0; k < size / 2; ++k) {
      const double angle = 2.0 * std::numbers::pi * k / size;
      turns.push_back(static_cast<float>(std::cos(angle)));
      turns.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return turns.data();
}

}  // namespace

bool istft_size_supported(int size) {
  return size >= kMinInverseFft && size <= kMaxInverseFft && (size & (size - 1)) == 0;
}

void istft_overlap_add_cpu(const IstftOverlapAdd& call) {
  const CpuKernels& kernels = cpu_kernels();
  const int lanes = kernels.lanes, groups = (call.frame_count + lanes - 1) / lanes;
  const float* turns = turns_of(call.size);
  const int64_t per_batch = int64_t{groups} * lanes * call.size;
  auto* pieces = static_cast<float*>(thread_scratch(Scratch::kCaller, call.batch * per_batch * 4));
  ThreadPool& pool = ThreadPool::global();
  pool.run(call.batch * groups, [&](int item) noexcept {
    const int64_t bytes = int64_t{2} * (call.size + 2) * lanes * 4;
    auto* scratch = static_cast<float*>(thread_scratch(Scratch::kItem, bytes));
    kernels.istft_transform(call, turns, item / groups, item % groups * lanes, scratch,
                            pieces + int64_t{item} * lanes * call.size);
  });
  const int blocks = call.frame_count + (call.size - 1) / call.hop;
  pool.run(call.batch * blocks, [&](int item) noexcept {
    kernels.istft_add(call, pieces + item / blocks * per_batch, item / blocks, item % blocks);
  });
}

}  // namespace streamchar
