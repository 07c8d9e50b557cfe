// Races, and the functions that g++'s -fsanitize=thread calls at a kernel's loads and stores.
#include "races.h"

#include <algorithm>

#include "machine.h"

namespace emulated {

void Races::begin(int threads, size_t words) {
  threads_ = threads;
  const size_t agents = box(kBarriers);
  clocks_.assign(threads, Clock(agents, 0));
  for (int i = 0; i < threads; ++i) clocks_[i][i] = 1;
  products_.assign(threads, 0);
  copies_.assign(threads, 0);
  boxes_.assign(kBarriers, 0);
  floors_.assign(threads / 32, {Clock(agents, 0), 0});
  words_.assign(words, {});
}

std::string Races::name(int agent) const {
  if (agent < threads_) return "thread " + std::to_string(agent);
  if (agent < 2 * threads_) return "cp.async of thread " + std::to_string(agent - threads_);
  if (agent < engine(0)) return "the fence of thread " + std::to_string(agent - 2 * threads_);
  if (agent < box(0)) return "products of warp " + std::to_string(agent - engine(0));
  return "bulk copies to barrier " + std::to_string(agent - box(0));
}

void Races::report(uint32_t word, const Epoch& by, const char* what, const Epoch& other, const char* how) {
  if (own_only && std::max(by.agent, other.agent) >= threads_) return;
  if (found++) return;
  first = "shared memory at " + std::to_string(4 * word) + ": " + name(by.agent) + what + name(other.agent) + how;
}

void Races::read(uint32_t word, Epoch by, const Clock& knows, bool async) {
  Word& w = words_[word];
  if (w.write.agent != by.agent && !before(w.write, knows)) {
    report(word, by, " may read before ", w.write, " has written");
  } else if (async && w.write.agent >= 0 && w.write.agent < threads_ && knows[proxy(w.write.agent)] < w.write.time) {
    report(word, by, " may not see what ", w.write, " has written: there is no fence towards the async proxy");
  }
  for (Epoch& e : w.reads) {
    if (e.agent == by.agent) {
      e.time = by.time;
      return;
    }
  }
  w.reads.push_back(by);
}

void Races::write(uint32_t word, Epoch by, const Clock& knows, bool async) {
  Word& w = words_[word];
  if (w.write.agent != by.agent && !before(w.write, knows)) {
    report(word, by, " may write before ", w.write, " has written");
  } else if (async && w.write.agent >= 0 && w.write.agent < threads_ && knows[proxy(w.write.agent)] < w.write.time) {
    report(word, by, " may be overwritten by what ", w.write, " wrote: there is no fence towards the async proxy");
  }
  for (const Epoch& e : w.reads) {
    if (e.agent != by.agent && !before(e, knows)) report(word, by, " may write before ", e, " has read");
  }
  w.write = by;
  w.reads.clear();
}

void Races::access(int thread, uint32_t address, size_t bytes, bool writes) {
  const Epoch by{thread, clocks_[thread][thread]};
  for (uint32_t word = address / 4; word <= (address + bytes - 1) / 4; ++word) {
    writes ? write(word, by, clocks_[thread], false) : read(word, by, clocks_[thread], false);
  }
}

uint32_t Races::copy_begins(int thread, uint32_t address, size_t bytes) {
  const Epoch by{copier(thread), ++copies_[thread]};
  for (uint32_t word = address / 4; word < (address + bytes) / 4; ++word) write(word, by, clocks_[thread], false);
  return by.time;
}

void Races::box_begins(int thread, int barrier, uint32_t address, size_t bytes) {
  const Epoch by{box(barrier), ++boxes_[barrier]};
  for (uint32_t word = address / 4; word < (address + bytes) / 4; ++word) write(word, by, clocks_[thread], true);
}

void Races::products_begin(int thread) {
  Floor& floor = floors_[thread / 32];
  const Clock& mine = clocks_[thread];
  if (floor.came++ % 32 == 0) {
    floor.clock = mine;
  } else {
    for (size_t i = 0; i < mine.size(); ++i) floor.clock[i] = std::min(floor.clock[i], mine[i]);
  }
}

uint32_t Races::product(int thread, const std::vector<uint32_t>& operands) {
  const Epoch by{engine(thread / 32), ++products_[thread]};
  if (thread % 32) return by.time;  // once for a warp
  for (uint32_t address : operands) {
    for (uint32_t word = address / 4; word < address / 4 + 4; ++word) read(word, by, floors_[thread / 32].clock, true);
  }
  return by.time;
}

void Races::copies_end(int thread, uint32_t last) {
  uint32_t& known = clocks_[thread][copier(thread)];
  known = std::max(known, last);
}
void Races::products_end(int thread, uint32_t last) {
  uint32_t& known = clocks_[thread][engine(thread / 32)];
  known = std::max(known, last);
}

void Races::publish(int thread) {
  Clock& mine = clocks_[thread];
  mine[proxy(thread)] = mine[thread]++;
}

void Races::release(int thread, Clock& to) {
  Clock& mine = clocks_[thread];
  if (to.empty()) to.assign(mine.size(), 0);
  for (size_t i = 0; i < mine.size(); ++i) to[i] = std::max(to[i], mine[i]);
  ++mine[thread];
}

void Races::release_arrival(int thread, Clock& to) {
  if (!own_only) return release(thread, to);
  Clock& mine = clocks_[thread];
  if (to.empty()) to.assign(mine.size(), 0);
  for (int i : {thread, copier(thread), proxy(thread), engine(thread / 32)}) to[i] = std::max(to[i], mine[i]);
  ++mine[thread];
}

void Races::acquire(int thread, const Clock& from) {
  Clock& mine = clocks_[thread];
  for (size_t i = 0; i < from.size(); ++i) mine[i] = std::max(mine[i], from[i]);
}

void Races::release_box(int barrier, Clock& to) {
  if (to.empty()) to.assign(clocks_[0].size(), 0);
  to[box(barrier)] = boxes_[barrier];
}

namespace {

void accessed(const void* p, size_t bytes, bool writes) {
  Machine& m = machine();
  const uintptr_t address = reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(m.shared);
  if (address < kShared && m.races.watching()) m.races.access(m.current, static_cast<uint32_t>(address), bytes, writes);
}

}  // namespace
}  // namespace emulated

extern "C" {
#define SC_ACCESS(bytes)                                                                   \
  void __tsan_read##bytes(void* p) { emulated::accessed(p, bytes, false); }                \
  void __tsan_write##bytes(void* p) { emulated::accessed(p, bytes, true); }                \
  void __tsan_unaligned_read##bytes(void* p) { emulated::accessed(p, bytes, false); }      \
  void __tsan_unaligned_write##bytes(void* p) { emulated::accessed(p, bytes, true); }
SC_ACCESS(1)
SC_ACCESS(2)
SC_ACCESS(4)
SC_ACCESS(8)
SC_ACCESS(16)
#undef SC_ACCESS
void __tsan_read_range(void* p, size_t bytes) { emulated::accessed(p, bytes, false); }
void __tsan_write_range(void* p, size_t bytes) { emulated::accessed(p, bytes, true); }
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
