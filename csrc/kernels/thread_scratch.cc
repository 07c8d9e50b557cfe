#include "kernels/thread_scratch.h"

#include <new>

namespace streamchar {
namespace {

class Buffer {
 public:
  ~Buffer() { release(); }

  void* at_least(int64_t bytes) {
    if (bytes > bytes_) {
      release();
      data_ = operator new(static_cast<std::size_t>(bytes), kAlignment);
      bytes_ = bytes;
    }
    return data_;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};

  void release() {
    if (data_) operator delete(data_, kAlignment);
    data_ = nullptr;
    bytes_ = 0;
  }

  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace

void* thread_scratch(Scratch kind, int64_t bytes) {
  thread_local Buffer buffers[3];
  return buffers[static_cast<int>(kind)].at_least(bytes);
}

}  // namespace streamchar
