// Memory of cache slots: fixed-size blocks that are handed out, shared by reference and used again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace streamchar {

// How a device gives and takes memory. `allocate` returns zeroed memory aligned to 256 bytes, or null.
struct SlotMemory {
  void* (*allocate)(std::size_t bytes);
  void (*release)(void* data, std::size_t bytes);
};

extern const SlotMemory kHostSlotMemory;

// One chunk of one segment, all layers. Written while staged, immutable once committed.
struct Slot {
  void* data = nullptr;
  std::size_t bytes = 0;
  uint64_t generation = 0;  // rises every time the block is handed out
  int rows = 0;             // tokens stored
  int64_t label = 0;        // the chunk's number
};

// Thread-safe: a cache, its forks and its snapshots share one pool and may live on different threads.
class SlotPool : public std::enable_shared_from_this<SlotPool> {
 public:
  // Holds at most `limit` bytes.
  static std::shared_ptr<SlotPool> make(SlotMemory memory, std::size_t limit);
  ~SlotPool();

  // A block of `bytes`, freed or new; it returns to the pool when the last reference goes. The pool outlives
  // its blocks. Throws std::bad_alloc, also where the limit would be passed.
  std::shared_ptr<Slot> acquire(std::size_t bytes);

  // Makes sure that `count` blocks of `bytes` are free, so that a stream in steady state never allocates.
  void reserve(std::size_t bytes, int count);

  // Gives free blocks back to the device.
  void trim();

  std::size_t bytes_held() const;  // free blocks included

 private:
  SlotPool(SlotMemory memory, std::size_t limit) : memory_(memory), limit_(limit) {}
  Slot* allocate(std::size_t bytes);

  const SlotMemory memory_;
  const std::size_t limit_;
  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<Slot*>> free_;
  std::size_t held_ = 0;
};

}  // namespace streamchar
