#include "cache/slot_pool.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace streamchar {
namespace {

constexpr std::size_t kAlignment = 256;

// Blocks from kLarge bytes on come from the system and go back there: between malloc's small blocks they would leave
// holes in a process that opens and closes sessions for hours.
#if defined(__unix__) || defined(__APPLE__)
constexpr std::size_t kLarge = std::size_t{1} << 20;

void* map_pages(std::size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : data;
}

void unmap_pages(void* data, std::size_t bytes) { munmap(data, bytes); }
#else
constexpr std::size_t kLarge = SIZE_MAX;

void* map_pages(std::size_t) { return nullptr; }
void unmap_pages(void*, std::size_t) {}
#endif

void* allocate_host(std::size_t bytes) {
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* data = bytes < kLarge ? std::aligned_alloc(kAlignment, rounded) : map_pages(bytes);
  if (data) std::memset(data, 0, bytes);  // mapped pages, too: they are there before the first chunk
  return data;
}

void release_host(void* data, std::size_t bytes) {
  if (bytes < kLarge) {
    std::free(data);
  } else {
    unmap_pages(data, bytes);
  }
}

}  // namespace

const SlotMemory kHostSlotMemory = {allocate_host, release_host};

std::shared_ptr<SlotPool> SlotPool::make(SlotMemory memory, std::size_t limit) {
  return std::shared_ptr<SlotPool>(new SlotPool(memory, limit));
}

SlotPool::~SlotPool() { trim(); }

Slot* SlotPool::allocate(std::size_t bytes) {
  if (bytes > limit_ - held_) throw std::bad_alloc();
  auto slot = std::make_unique<Slot>();
  slot->data = memory_.allocate(bytes);
  if (!slot->data) throw std::bad_alloc();
  slot->bytes = bytes;
  held_ += bytes;
  return slot.release();
}

std::shared_ptr<Slot> SlotPool::acquire(std::size_t bytes) {
  Slot* slot;
  {
    const std::lock_guard lock(mutex_);
    std::vector<Slot*>& blocks = free_[bytes];
    if (blocks.empty()) blocks.push_back(allocate(bytes));
    slot = blocks.back();
    blocks.pop_back();
  }
  ++slot->generation;
  slot->rows = 0;
  slot->label = 0;
  return std::shared_ptr<Slot>(slot, [pool = shared_from_this()](Slot* block) {
    const std::lock_guard pool_lock(pool->mutex_);
    pool->free_[block->bytes].push_back(block);
  });
}

void SlotPool::reserve(std::size_t bytes, int count) {
  const std::lock_guard lock(mutex_);
  std::vector<Slot*>& blocks = free_[bytes];
  while (static_cast<int>(blocks.size()) < count) blocks.push_back(allocate(bytes));
}

void SlotPool::trim() {
  const std::lock_guard lock(mutex_);
  for (auto& [bytes, blocks] : free_) {
    for (Slot* slot : blocks) {
      memory_.release(slot->data, bytes);
      held_ -= bytes;
      delete slot;
    }
    blocks.clear();
  }
}

std::size_t SlotPool::bytes_held() const {
  const std::lock_guard lock(mutex_);
  return held_;
}

}  // namespace streamchar
