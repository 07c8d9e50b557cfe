#include "kernels/cpu/cpu_kernels.h"
#include "kernels/thread_pool.h"

namespace streamchar {

void picture_blend_cpu(const PictureBlend& call) {
  const CpuKernels& kernels = cpu_kernels();
  ThreadPool::global().run(call.frames * call.height, [&](int item) noexcept {
    kernels.blend_row(call, item / call.height, item % call.height);
  });
}

}  // namespace streamchar
