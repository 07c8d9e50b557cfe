// Races, and the functions that g++'s -fsanitize=thread calls at a kernel's loads and stores.
#include "races.h"

#include <algorithm>

#include "machine.h"

namespace emulated {
namespace {

void raise(Times& to, const Times& from) {
  if (to.size() < from.size()) to.resize(from.size(), 0);
  for (size_t i = 0; i < from.size(); ++i) to[i] = std::max(to[i], from[i]);
}

}  // namespace

void Clock::join(const Clock& other) {
  raise(times, other.times);
  for (const auto& [block, theirs] : other.blocks) raise(blocks[block], theirs);
}

void Races::begin_launch() {
  for (Range& range : ranges_) range.words.assign((range.bytes + 3) / 4, {});
  counters_.clear();
}

void Races::begin(unsigned block, int threads, size_t words) {
  block_ = block;
  threads_ = threads;
  const size_t agents = box(kBarriers);
  clocks_.assign(threads, {Times(agents, 0), {}});
  for (int i = 0; i < threads; ++i) clocks_[i].times[i] = 1;
  products_.assign(threads, 0);
  copies_.assign(threads, 0);
  boxes_.assign(kBarriers, 0);
  floors_.assign(threads / 32, {});
  words_.assign(words, {});
}

bool Races::before(const Epoch& e, const Clock& clock) const {
  if (e.agent < 0) return true;
  if (e.block == block_) return e.time <= clock.times[e.agent];
  const auto theirs = clock.blocks.find(e.block);
  return theirs != clock.blocks.end() && e.time <= theirs->second[e.agent];
}

bool Races::published(const Epoch& e, const Clock& clock) const {
  return e.agent < 0 || e.agent >= threads_ || e.time <= clock.times[proxy(e.agent)];
}

std::string Races::name(const Epoch& e) const {
  const std::string block = " of block " + std::to_string(e.block);
  if (e.agent < threads_) return "thread " + std::to_string(e.agent) + block;
  if (e.agent < proxy(0)) return "cp.async of thread " + std::to_string(e.agent - threads_) + block;
  if (e.agent < box(0)) return "products of warp " + std::to_string(e.agent - engine(0)) + block;
  return "bulk copies to barrier " + std::to_string(e.agent - box(0)) + block;
}

void Races::report(const Word& word, const Epoch& by, const char* what, const Epoch& other, const char* how) {
  if (own_only && std::max(by.agent, other.agent) >= threads_) return;
  if (found++) return;
  std::string where;
  if (&word >= words_.data() && &word < words_.data() + words_.size()) {
    where = "shared memory at " + std::to_string(4 * (&word - words_.data()));
  }
  for (size_t i = 0; i < ranges_.size() && where.empty(); ++i) {
    const std::vector<Word>& words = ranges_[i].words;
    if (&word < words.data() || &word >= words.data() + words.size()) continue;
    where = "range " + std::to_string(i) + " of device memory at " + std::to_string(4 * (&word - words.data()));
  }
  first = where + ": " + name(by) + what + name(other) + how;
}

void Races::read(Word& w, Epoch by, const Clock& knows, bool async) {
  if (!same(w.write, by) && !before(w.write, knows)) {
    report(w, by, " may read before ", w.write, " has written");
  } else if (async && !published(w.write, knows)) {
    report(w, by, " may not see what ", w.write, " has written: there is no fence towards the async proxy");
  }
  for (Epoch& e : w.reads) {
    if (same(e, by)) {
      e.time = by.time;
      return;
    }
  }
  w.reads.push_back(by);
}

void Races::write(Word& w, Epoch by, const Clock& knows, bool async) {
  if (!same(w.write, by) && !before(w.write, knows)) {
    report(w, by, " may write before ", w.write, " has written");
  } else if (async && !published(w.write, knows)) {
    report(w, by, " may be overwritten by what ", w.write, " wrote: there is no fence towards the async proxy");
  }
  for (const Epoch& e : w.reads) {
    if (!same(e, by) && !before(e, knows)) report(w, by, " may write before ", e, " has read");
  }
  w.write = by;
  w.reads.clear();
}

void Races::access(int thread, uint32_t address, size_t bytes, bool writes) {
  for (uint32_t i = address / 4; i <= (address + bytes - 1) / 4; ++i) {
    writes ? write(words_[i], now(thread), clocks_[thread], false) : read(words_[i], now(thread), clocks_[thread], false);
  }
}

void Races::access_ranges(int thread, const char* p, size_t bytes, bool writes) {
  for (Range& range : ranges_) {
    const auto offset = static_cast<size_t>(p - range.first);
    if (offset >= range.bytes) continue;
    for (size_t i = offset / 4; i <= (offset + bytes - 1) / 4; ++i) {
      Word& word = range.words[i];
      writes ? write(word, now(thread), clocks_[thread], false) : read(word, now(thread), clocks_[thread], false);
    }
  }
}

uint32_t Races::copy_begins(int thread, uint32_t address, size_t bytes) {
  const Epoch by = now(copier(thread), ++copies_[thread]);
  for (uint32_t i = address / 4; i < (address + bytes) / 4; ++i) write(words_[i], by, clocks_[thread], false);
  return by.time;
}

void Races::box_begins(int thread, int barrier, uint32_t address, size_t bytes) {
  const Epoch by = now(box(barrier), ++boxes_[barrier]);
  for (uint32_t i = address / 4; i < (address + bytes) / 4; ++i) write(words_[i], by, clocks_[thread], true);
}

void Races::products_begin(int thread) {
  Floor& floor = floors_[thread / 32];
  if (floor.came++ % 32 == 0) floor.clock = clocks_[thread];
  const Times& mine = clocks_[thread].times;
  for (size_t i = 0; i < mine.size(); ++i) floor.clock.times[i] = std::min(floor.clock.times[i], mine[i]);
}

uint32_t Races::product(int thread, const std::vector<uint32_t>& operands) {
  const Epoch by = now(engine(thread / 32), ++products_[thread]);
  if (thread % 32) return by.time;  // once for a warp
  for (uint32_t address : operands) {
    for (uint32_t i = address / 4; i < address / 4 + 4; ++i) read(words_[i], by, floors_[thread / 32].clock, true);
  }
  return by.time;
}

void Races::copies_end(int thread, uint32_t last) {
  uint32_t& known = clocks_[thread].times[copier(thread)];
  known = std::max(known, last);
}
void Races::products_end(int thread, uint32_t last) {
  uint32_t& known = clocks_[thread].times[engine(thread / 32)];
  known = std::max(known, last);
}

void Races::publish(int thread) {
  Times& mine = clocks_[thread].times;
  mine[proxy(thread)] = mine[thread]++;
}

void Races::release(int thread, Clock& to) {
  to.join(clocks_[thread]);
  ++clocks_[thread].times[thread];
}

void Races::release_arrival(int thread, Clock& to) {
  if (!own_only) return release(thread, to);
  Times& mine = clocks_[thread].times;
  Clock own{Times(mine.size(), 0), {}};
  own.times[thread] = mine[thread]++;
  to.join(own);
}

void Races::release_box(int barrier, Clock& to) {
  to.join({Times(clocks_[0].times.size(), 0), {}});
  to.times[box(barrier)] = boxes_[barrier];
}

void Races::arrive_in_memory(int thread, const void* counter, bool orders) {
  access_device(thread, counter, 4, false);  // arrivals do not race with each other
  if (!orders) return;
  Clock& clock = clocks_[thread];
  Clock& at = counters_[counter];
  clock.join(at);
  at.join({{}, clock.blocks});
  raise(at.blocks[block_], clock.times);
  ++clock.times[thread];
}

namespace {

void accessed(const void* p, size_t bytes, bool writes) {
  Machine& m = machine();
  if (!m.races.watching()) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(m.shared);
  if (address < kShared) {
    m.races.access(m.current, static_cast<uint32_t>(address), bytes, writes);
  } else {
    m.races.access_device(m.current, p, bytes, writes);
  }
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
