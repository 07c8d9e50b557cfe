#include "kernels/cpu/cpu_kernels.h"
#include "kernels/thread_pool.h"

namespace streamchar {

void picture_warp_cpu(const PictureWarp& call) {
  const CpuKernels& kernels = cpu_kernels();
  const auto share = [&](int rows, auto body) {
    ThreadPool::global().run(call.frames * rows, [&](int item) noexcept { body(call, item / rows, item % rows); });
  };
  share(call.height / 2, kernels.flow_row);  // of two rows of places
  share(call.height, kernels.warp_row);
}

}  // namespace streamchar
