// A GPU in a process: the threads of a block are coroutines in one thread, scheduled at random, and blocks run one
// after another in random order. What the kernels' instruction wrappers do is said in ptx.cuh and hopper.cuh beside
// this, from the PTX ISA. It computes what a GPU would, up to rounding, and notices waits that never end and accesses to
// memory that nothing orders (races.h); work that a GPU does asynchronously is done as late as it may be, copies
// that only a barrier announces as early as they may be.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "races.h"

// What is no part of a kernel; for speed, or since it is no access of the thread that runs.
#define SC_UNWATCHED __attribute__((no_sanitize("thread")))

namespace emulated {

struct Dim {
  unsigned x = 0;
};

// Asynchronous work in groups, oldest first; the last one is open.
struct Group {
  std::vector<std::function<void()>> work;
  uint32_t last = 0;  // as Races counts
};
using Groups = std::deque<Group>;

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done = false;
  int turn = 0;  // which of its two posts it used last
  Groups copies, products;
};

// Those of one warp, or of a named barrier, that meet.
struct Meeting {
  int arrived = 0;
  uint64_t generation = 0;
  Clock gathered, met;  // of the meeting under way, and of the last one

  void complete() {
    arrived = 0;
    ++generation;
    met = std::exchange(gathered, {});
  }
};

struct Barrier {  // an mbarrier
  int count = 0, pending = 0;
  int64_t bytes = 0;
  uint32_t parity = 0;
  bool missed = false;  // the phase that ended last, by everybody so far
  int index = 0;
  Clock gathered, ended;  // of the phase under way, and of that which ended last
  // False if the phase before the one that ends now went by with nobody waiting for it.
  bool settle() {
    if (pending || bytes) return true;
    const bool sound = !missed;
    pending = count;
    parity ^= 1;
    missed = true;
    ended = std::exchange(gathered, {});
    return sound;
  }
};

// What a lane shows the others of its warp. There are two by turns, so that one meeting is enough: nobody writes one
// again before all have read it.
struct Post {
  uint32_t words[6] = {};
};

constexpr int kStack = 256 * 1024;
// Meetings: named barriers, and from here on what else there is.
enum Order { kWarps = 1000, kWarpgroups = 2000, kSyncWarps = 3000, kPublish = 4000, kCounters = 4001, kBarriers = 5000 };
constexpr int kShared = 232448;  // most that a block may have on sm_90

struct Machine {
  std::mt19937 random{1};
  std::vector<Thread> threads;
  int current = 0;
  Dim block, block_dim;
  ucontext_t scheduler;
  std::vector<unsigned char> storage = std::vector<unsigned char>(kShared + 1024);
  unsigned char* shared = nullptr;
  std::map<uint32_t, Barrier> barriers;
  std::map<int, Meeting> meetings;
  Post posts[2][1024];
  uint64_t progress = 0;  // something has happened that others may wait for
  const char* fault = nullptr;
  Races races;
  std::set<int> ignored;  // what orders accesses without the races being told: kBarriers and an index, or another Order

  int lane() const { return current % 32; }
  int warp() const { return current / 32; }

  void yield() { swapcontext(&threads[current].context, &scheduler); }

  template <typename Ready>
  void wait_until(const Ready& ready) {
    while (!ready()) yield();
    ++progress;
  }

  bool told(int what) const { return races.watching() && !ignored.count(what); }

  // `orders`: what was done before is done for all that meet.
  void meet(int id, int size, bool orders) {
    Meeting& m = meetings[id];
    const uint64_t mine = m.generation;
    arrive(id, size, orders);
    if (m.generation == mine) wait_until([&] { return m.generation != mine; });
    if (orders && told(id)) races.acquire(current, m.met);
  }
  // Counts for those who meet, and does not wait for them.
  void arrive(int id, int size, bool orders) {
    Meeting& m = meetings[id];
    ++progress;
    if (orders && told(id)) races.release(current, m.gathered);
    if (++m.arrived == size) m.complete();
  }
  // To exchange registers, which orders nothing in memory.
  void meet_warp() { meet(kWarps + warp(), 32, false); }

  // Shows `mine`, and gives the posts of the warp's 32 lanes.
  const Post* posted(const Post& mine) {
    const int turn = threads[current].turn ^= 1;
    posts[turn][current] = mine;
    meet_warp();
    return posts[turn] + warp() * 32;
  }

  template <typename T>
  T exchanged(T mine, int from) {
    static_assert(sizeof(T) == 4);
    Post post;
    std::memcpy(post.words, &mine, 4);
    T theirs;
    std::memcpy(&theirs, posted(post)[from].words, 4);
    return theirs;
  }
};

SC_UNWATCHED inline Machine& machine() {
  static Machine one;
  return one;
}

inline std::function<void()>& body() {
  static std::function<void()> one;
  return one;
}

inline void thread_main() {
  body()();
  Machine& m = machine();
  m.threads[m.current].done = true;
  ++m.progress;
  swapcontext(&m.threads[m.current].context, &m.scheduler);
}

inline void run_block(unsigned block, int threads) {
  Machine& m = machine();
  m.block.x = block;
  m.block_dim.x = static_cast<unsigned>(threads);
  m.shared = m.storage.data() + (1024 - reinterpret_cast<uintptr_t>(m.storage.data()) % 1024);
  for (int i = 0; i < kShared; i += 4) {  // what nobody wrote is NaN, as float32, bfloat16 and float16
    const uint32_t poison = 0x7FFF7FFF;
    std::memcpy(m.shared + i, &poison, 4);
  }
  m.barriers.clear();
  m.meetings.clear();
  m.fault = nullptr;
  m.races.begin(block, threads, kShared / 4);
  if (m.threads.size() < static_cast<size_t>(threads)) m.threads.resize(static_cast<size_t>(threads));
  for (int i = 0; i < threads; ++i) {
    Thread& t = m.threads[i];
    if (!t.stack) t.stack.reset(new char[kStack]);
    t.done = false;
    t.turn = 0;
    t.copies.assign(1, {});
    t.products.assign(1, {});
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack.get();
    t.context.uc_stack.ss_size = kStack;
    t.context.uc_link = nullptr;
    makecontext(&t.context, thread_main, 0);
  }
  std::vector<int> order(threads);
  for (int i = 0; i < threads; ++i) order[i] = i;
  for (int left = threads; left > 0;) {
    const uint64_t before = m.progress;
    std::shuffle(order.begin(), order.begin() + left, m.random);
    for (int i = 0; i < left;) {
      m.current = order[i];
      swapcontext(&m.scheduler, &m.threads[m.current].context);
      if (m.fault) throw std::runtime_error(m.fault);
      if (m.threads[m.current].done) {
        order[i] = order[--left];
      } else {
        ++i;
      }
    }
    if (left > 0 && m.progress == before) {
      throw std::runtime_error(std::to_string(left) + " threads of block " + std::to_string(block) + " wait for ever");
    }
  }
  m.races.end();
}

template <typename Kernel, typename Call>
void launch(Kernel kernel, int grid, int threads, int shared, const Call& call) {
  if (shared > kShared || threads > 1024) std::abort();
  std::vector<unsigned> order(static_cast<size_t>(grid));
  for (int i = 0; i < grid; ++i) order[i] = static_cast<unsigned>(i);
  std::shuffle(order.begin(), order.end(), machine().random);
  body() = [kernel, &call] { kernel(call); };
  machine().races.begin_launch();
  for (unsigned block : order) run_block(block, threads);
}

SC_UNWATCHED inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
SC_UNWATCHED inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

SC_UNWATCHED inline float from_half(uint32_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, mantissa = half & 0x3FFu;
  if (exponent == 0) return float_of(sign | bits_of(std::ldexp(static_cast<float>(mantissa), -24)));
  if (exponent == 31) return float_of(sign | 0x7F800000u | mantissa << 13);
  return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}
inline uint32_t to_half(float x) {
  const uint32_t sign = bits_of(x) >> 16 & 0x8000u;
  const float size = std::fabs(x);
  if (std::isnan(x)) return sign | 0x7FFFu;
  if (size >= 65520.0f) return sign | 0x7C00u;
  if (size < 6.103515625e-5f) return sign | static_cast<uint32_t>(std::nearbyint(std::ldexp(size, 24)));
  const uint32_t bits = bits_of(size);
  return sign | ((bits + 0xFFFu + (bits >> 13 & 1)) >> 13) - (112u << 10);
}

// The element of a packed word as a float, `half`: as float16, else as bfloat16.
SC_UNWATCHED inline float element(uint32_t word, int index, bool half) {
  const uint32_t bits = word >> 16 * index & 0xFFFFu;
  return half ? from_half(bits) : float_of(bits << 16);
}
// Shared memory as the emulation itself reads and writes it, which is no access of the thread that runs.
SC_UNWATCHED inline void peek(void* to, uint32_t address, size_t bytes) { std::memcpy(to, machine().shared + address, bytes); }
SC_UNWATCHED inline void poke(uint32_t address, const void* from, size_t bytes) {
  static const char zeros[16] = {};
  std::memcpy(machine().shared + address, from ? from : zeros, bytes);
}

SC_UNWATCHED inline float shared_element(uint32_t address, bool half) {
  uint16_t bits;
  peek(&bits, address, 2);
  return element(bits, 0, half);
}

}  // namespace emulated
