#include "cache/context_cache.h"

#include <algorithm>
#include <set>
#include <utility>

namespace streamchar {

std::size_t CacheSpec::planned_bytes(int segment) const {
  const SegmentSpec& s = segments.at(segment);
  return s.slot_bytes * static_cast<std::size_t>(s.retained() + (s.ring ? 1 : 0));
}

std::size_t ContextCache::Snapshot::bytes() const {
  std::size_t total = 0;
  for (const Committed& segment : segments_) {
    for (const SlotRef& slot : segment.slots) total += slot->bytes;
  }
  return total;
}

ContextCache::ContextCache(CacheSpec spec, SlotMemory memory, std::size_t limit)
    : ContextCache(std::move(spec), SlotPool::make(memory, limit)) {
  std::map<std::size_t, int> slots;
  for (const SegmentSpec& s : spec_.segments) slots[s.slot_bytes] += s.retained() + (s.ring ? 1 : 0);
  for (const auto& [bytes, count] : slots) pool_->reserve(bytes, count);
}

ContextCache::ContextCache(CacheSpec spec, std::shared_ptr<SlotPool> pool)
    : spec_(std::move(spec)), pool_(std::move(pool)), segments_(spec_.segments.size()) {}

ContextCache::Segment& ContextCache::at(int segment) { return segments_.at(static_cast<std::size_t>(segment)); }
const ContextCache::Segment& ContextCache::at(int segment) const {
  return segments_.at(static_cast<std::size_t>(segment));
}

bool ContextCache::open(int segment) {
  Segment& s = at(segment);
  if (s.staging) return false;
  s.layer_rows.assign(spec_.layers, 0);
  s.staging = pool_->acquire(spec_.segments[segment].slot_bytes);
  return true;
}

Slot& ContextCache::stage(int segment, int layer, int rows) {
  Segment& s = at(segment);
  const SegmentSpec& spec = spec_.segments[segment];
  if (layer < 0 || layer >= spec_.layers) throw std::out_of_range("layer");
  if (rows < 1 || rows > spec.capacity) throw std::invalid_argument("rows");
  open(segment);
  s.layer_rows[layer] = rows;
  return *s.staging;
}

void ContextCache::commit(int segment, std::optional<int64_t> label) {
  Segment& s = at(segment);
  const SegmentSpec& spec = spec_.segments[segment];
  const auto missing = s.staging ? std::count(s.layer_rows.begin(), s.layer_rows.end(), 0) : spec_.layers;
  if (missing) {
    throw StateError("'" + spec.name + "' has " + std::to_string(spec_.layers - missing) + " of " +
                         std::to_string(spec_.layers) + " layers staged",
                     "append every layer before commit()");
  }
  if (std::set<int>(s.layer_rows.begin(), s.layer_rows.end()).size() != 1) {
    throw StateError("the layers staged for '" + spec.name + "' differ in tokens", "append equal T everywhere");
  }
  std::vector<SlotRef>& slots = s.committed.slots;
  const int64_t newest = slots.empty() ? -1 : slots.back()->label;
  const int64_t chosen = label.value_or(newest + 1);
  if (chosen <= newest) {
    throw StateError("chunk " + std::to_string(chosen) + " is not after chunk " + std::to_string(newest),
                     "labels must rise; rewind() first");
  }
  s.staging->rows = s.layer_rows.front();
  s.staging->label = chosen;
  slots.push_back(std::move(s.staging));
  s.staging = nullptr;
  if (!s.committed.first_label) s.committed.first_label = chosen;
  if (static_cast<int>(slots.size()) > spec.retained()) {
    slots.erase(slots.begin());
    s.committed.lost = true;
  }
  ++s.generation;
}

void ContextCache::drop(int segment) { at(segment).staging = nullptr; }

void ContextCache::rewind(int segment, int64_t label) {
  Segment& s = at(segment);
  std::vector<SlotRef>& slots = s.committed.slots;
  const auto end = std::find_if(slots.begin(), slots.end(), [&](const SlotRef& slot) { return slot->label > label; });
  const bool before_all = !s.committed.first_label || label < *s.committed.first_label;
  if (s.committed.lost && !before_all && end - slots.begin() < spec_.segments[segment].chunks) {
    throw StateError("chunk " + std::to_string(label) + " is no longer held", "make the cache with more history=");
  }
  s.staging = nullptr;
  const bool changes = end != slots.end();
  if (before_all) {
    s.committed = {};
  } else {
    slots.erase(end, slots.end());
  }
  if (changes) ++s.generation;
}

void ContextCache::clear(int segment) {
  Segment& s = at(segment);
  s.staging = nullptr;
  if (!s.committed.slots.empty()) ++s.generation;
  s.committed = {};
}

ContextCache::Snapshot ContextCache::snapshot() const {
  Snapshot result;
  for (const Segment& s : segments_) result.segments_.push_back(s.committed);
  return result;
}

void ContextCache::restore(const Snapshot& snapshot) {
  if (snapshot.segments_.size() != segments_.size()) throw std::invalid_argument("snapshot of another cache");
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    Segment& s = segments_[i];
    s.staging = nullptr;
    if (s.committed.slots != snapshot.segments_[i].slots) ++s.generation;
    s.committed = snapshot.segments_[i];
  }
}

ContextCache ContextCache::fork() const {
  ContextCache child(spec_, pool_);
  child.restore(snapshot());
  return child;
}

int ContextCache::live_count(int segment) const {
  return std::min(spec_.segments.at(segment).chunks, committed_count(segment));
}

const Slot& ContextCache::live(int segment, int age) const {
  if (age < 0 || age >= live_count(segment)) throw std::out_of_range("age");
  return *at(segment).committed.slots.end()[-1 - age];
}

int ContextCache::committed_count(int segment) const { return static_cast<int>(at(segment).committed.slots.size()); }

const Slot& ContextCache::committed(int segment, int index) const {
  return *at(segment).committed.slots.at(static_cast<std::size_t>(index));
}

bool ContextCache::staged(int segment) const { return at(segment).staging != nullptr; }

uint64_t ContextCache::generation(int segment) const { return at(segment).generation; }

}  // namespace streamchar
