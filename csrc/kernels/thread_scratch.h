// Working memory of the calling thread that outlives the call: kernels ask for it instead of allocating.
#pragma once

#include <cstdint>

namespace streamchar {

// `kCaller` is for the thread that starts a parallel run, `kItem` for the work items (which may run on it too), and
// `kChain` for work items that run several kernels one after the other.
enum class Scratch { kCaller, kItem, kChain };

// At least `bytes` bytes, aligned to 64, with any content. Valid until this thread asks for the same kind again.
void* thread_scratch(Scratch kind, int64_t bytes);

}  // namespace streamchar
