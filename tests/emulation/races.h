// Finds unordered accesses to memory, whatever order the threads happened to run in: two accesses to a word, one of them
// a write, of which neither happens before the other by the barriers between them. Vector clocks, as FastTrack (Flanagan
// and Freund, PLDI 2009) and ThreadSanitizer have them.
//
// Who accesses memory is an agent: a thread; the asynchronous units on behalf of one (cp.async), of a warp (wgmma) or of a
// barrier (bulk copies), whose work lies between its start and what announces its end. A fence towards the async proxy
// is an agent, too: it says up to where a thread's ordinary stores are visible to wgmma and bulk copies.
//
// Watched are a block's shared memory, and ranges of the device's, where arrivals at counters order blocks. Meetings that
// only exchange registers (shuffles, votes, matrix instructions) order nothing, as in the PTX memory model.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace emulated {

using Times = std::vector<uint32_t>;  // by agent

// What is known to have been done: in this block, and in others.
struct Clock {
  Times times;  // an empty one knows of nothing
  std::map<unsigned, Times> blocks;

  void join(const Clock& other);
};

class Races {
 public:
  void watch(const void* first, size_t bytes) {
    ranges_.push_back({static_cast<const char*>(first), bytes, {}});
    low_ = std::min(low_, ranges_.back().first);
    high_ = std::max(high_, ranges_.back().first + bytes);
  }
  void begin_launch();
  void watch_nothing() {
    ranges_.clear();
    low_ = reinterpret_cast<const char*>(UINTPTR_MAX);
    high_ = nullptr;
  }
  void begin(unsigned block, int threads, size_t words);
  void end() { threads_ = 0; }
  bool watching() const { return threads_ > 0; }

  // -- accesses, in bytes from the start of shared memory
  void access(int thread, uint32_t address, size_t bytes, bool writes);
  void access_device(int thread, const void* p, size_t bytes, bool writes) {
    if (p >= low_ && p < high_) access_ranges(thread, static_cast<const char*>(p), bytes, writes);
  }
  // By an asynchronous unit; the first one is of cp.async, and the last of bulk copies that `barrier` announces.
  uint32_t copy_begins(int thread, uint32_t address, size_t bytes);
  void box_begins(int thread, int barrier, uint32_t address, size_t bytes);
  // A thread comes to a product; all of its warp do before one begins it. `operands`: addresses, of 16 bytes each.
  void products_begin(int thread);
  uint32_t product(int thread, const std::vector<uint32_t>& operands);

  // -- order
  void copies_end(int thread, uint32_t last);    // up to that which copy_begins() called so
  void products_end(int thread, uint32_t last);  // of product()
  void publish(int thread);                      // to the async proxy
  void release(int thread, Clock& to);
  void release_arrival(int thread, Clock& to);   // at an mbarrier
  void acquire(int thread, const Clock& from) { clocks_[thread].join(from); }
  void release_box(int barrier, Clock& to);      // all that the barrier's copies wrote so far
  void arrive_in_memory(int thread, const void* counter, bool orders);

  size_t found = 0;
  std::string first;  // what was found first
  // Arrivals at mbarriers announce what the arriving thread did alone, and not what it knows of others; and what
  // asynchronous units do is left out. compute-sanitizer's racecheck seems to go by that.
  bool own_only = false;

 private:
  struct Epoch {
    int agent = -1;
    uint32_t time = 0;
    unsigned block = 0;
  };
  struct Word {
    Epoch write;
    std::vector<Epoch> reads;  // since then
  };
  struct Range {  // of the device's memory
    const char* first;
    size_t bytes;
    std::vector<Word> words;
  };
  struct Floor {  // what all threads of a warp know
    Clock clock;
    int came = 0;
  };

  int copier(int thread) const { return threads_ + thread; }
  int proxy(int thread) const { return 2 * threads_ + thread; }
  int engine(int warp) const { return 3 * threads_ + warp; }
  int box(int barrier) const { return 3 * threads_ + threads_ / 32 + barrier; }
  std::string name(const Epoch& e) const;

  Epoch now(int agent, uint32_t time) const { return {agent, time, block_}; }
  Epoch now(int thread) const { return now(thread, clocks_[thread].times[thread]); }
  bool same(const Epoch& a, const Epoch& b) const { return a.agent == b.agent && a.block == b.block; }
  bool before(const Epoch& e, const Clock& clock) const;
  bool published(const Epoch& e, const Clock& clock) const;
  void access_ranges(int thread, const char* p, size_t bytes, bool writes);
  // `async`: through the async proxy, to which ordinary stores must have been published.
  void read(Word& word, Epoch by, const Clock& knows, bool async);
  void write(Word& word, Epoch by, const Clock& knows, bool async);
  void report(const Word& word, const Epoch& by, const char* what, const Epoch& other, const char* how);

  static constexpr int kBarriers = 64;
  unsigned block_ = 0;
  int threads_ = 0;
  std::vector<Clock> clocks_;        // of threads
  std::vector<uint32_t> products_;   // begun, by thread
  std::vector<uint32_t> copies_;
  std::vector<uint32_t> boxes_;      // by barrier
  std::vector<Floor> floors_;        // by warp
  std::vector<Word> words_;          // of shared memory
  std::vector<Range> ranges_;
  const char *low_ = reinterpret_cast<const char*>(UINTPTR_MAX), *high_ = nullptr;  // all of them lie between
  std::map<const void*, Clock> counters_;
};

}  // namespace emulated
