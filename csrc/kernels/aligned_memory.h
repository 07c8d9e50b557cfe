// Memory aligned to a cache line, for weights and working memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace streamchar {

class AlignedMemory {
 public:
  static constexpr std::size_t kAlignment = 64;

  AlignedMemory() = default;
  explicit AlignedMemory(int64_t bytes) { at_least(bytes); }
  AlignedMemory(const AlignedMemory&) = delete;
  AlignedMemory& operator=(const AlignedMemory&) = delete;
  ~AlignedMemory() { release(); }

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

  // The memory, with any content. Where it is too small it is let go first, and what it held is lost.
  void* at_least(int64_t bytes) {
    if (bytes > bytes_) {
      release();
      data_ = operator new(static_cast<std::size_t>(bytes), std::align_val_t{kAlignment});
      bytes_ = bytes;
    }
    return data_;
  }

 private:
  void release() {
    if (data_) operator delete(std::exchange(data_, nullptr), std::align_val_t{kAlignment});
    bytes_ = 0;
  }

  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace streamchar
