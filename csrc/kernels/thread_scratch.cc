#include "kernels/thread_scratch.h"

#include "kernels/aligned_memory.h"

namespace streamchar {
void* thread_scratch(Scratch kind, int64_t bytes) {
  thread_local AlignedMemory buffers[3];
  return buffers[static_cast<int>(kind)].at_least(bytes);
}

}  // namespace streamchar
