// Bookkeeping of what the DiT attends to beside the current chunk. Host integers and shared blocks only: no
// device call, no synchronisation, so it serves CPU and GPU alike and can stand outside a captured graph.
//
// A cache has a few segments. A pinned segment keeps one committed chunk; the ring keeps the newest `chunks`
// for attention (live) and `history` older ones for rewind. A chunk is one slot: the keys and values of all
// layers, `rows` tokens of at most `capacity`. New chunks are written to a slot of their own (staging).
//
// Invariants
//   1. A committed slot is never written again, whoever refers to it; staging is referred to by one cache.
//      So snapshots and forks share slots, and copy nothing.
//   2. Commit, drop, rewind, clear, snapshot, restore and fork move no key or value.
//   3. A segment keeps at most `chunks + history` committed slots (pinned: 1), labels strictly rising.
//   4. Only complete chunks are committed: every layer written, all with the same number of rows, at least 1.
//   5. Live slots are the newest min(chunks, committed) ones; after rewind(c) exactly those that were live
//      right after commit(c), or else nothing has changed and StateError is thrown.
//   6. `generation` of a segment rises whenever its live slots change, and never otherwise; a slot's own
//      generation rises whenever its block is handed out again.
//   7. In steady state no slot is allocated: the constructor reserves the memory plan.
//
// Memory plan: pinned segments one slot each, the ring chunks + history + 1 (staging). A pinned segment that
// is staged again while live takes one more slot until its commit; slots that snapshots or forks alone refer
// to come on top.
//
// Not synchronised: one owner at a time. Forks and snapshots may be used by other threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache/slot_pool.h"

namespace streamchar {

// A call that the present state forbids. `hint` names the remedy.
class StateError : public std::runtime_error {
 public:
  StateError(const std::string& message, std::string hint_text)
      : std::runtime_error(message), hint(std::move(hint_text)) {}
  std::string hint;
};

struct SegmentSpec {
  std::string name;
  int capacity;            // tokens per chunk
  int chunks = 1;          // live at most
  int history = 0;         // kept for rewind beyond them
  bool ring = false;
  std::size_t slot_bytes;  // one chunk of `capacity` tokens, all layers

  int retained() const { return chunks + history; }
};

struct CacheSpec {
  int layers;
  std::vector<SegmentSpec> segments;

  std::size_t planned_bytes(int segment) const;
};

class ContextCache {
  using SlotRef = std::shared_ptr<const Slot>;
  struct Committed {
    std::vector<SlotRef> slots;            // oldest first
    std::optional<int64_t> first_label;    // of the first commit since the segment was empty for good
    bool lost = false;                     // a committed slot has been discarded since then
  };

 public:
  // Committed content at one moment.
  class Snapshot {
   public:
    std::size_t bytes() const;

   private:
    friend class ContextCache;
    std::vector<Committed> segments_;
  };

  // Slots, also those that forks and snapshots alone refer to, take at most `limit` bytes.
  ContextCache(CacheSpec spec, SlotMemory memory, std::size_t limit = SIZE_MAX);

  const CacheSpec& spec() const { return spec_; }

  // Opens staging with no layer in it; false where it is open already. Throws std::out_of_range, std::bad_alloc.
  bool open(int segment);

  // The slot to write `layer`'s rows to; opens staging at the first call. May be repeated for a layer.
  // Throws std::out_of_range or std::invalid_argument on a bad segment, layer or number of rows, std::bad_alloc
  // where a slot cannot be had; nothing has changed then.
  Slot& stage(int segment, int layer, int rows);

  // Makes staging live as chunk `label`, by default one more than the newest. Throws StateError if staging
  // is incomplete or the label does not rise; staging stays as it is then.
  void commit(int segment, std::optional<int64_t> label);

  void drop(int segment);                       // forgets staging
  void rewind(int segment, int64_t label);      // see invariant 5; drops staging
  void clear(int segment);                      // forgets everything

  Snapshot snapshot() const;
  void restore(const Snapshot& snapshot);       // drops staging
  ContextCache fork() const;

  int live_count(int segment) const;
  const Slot& live(int segment, int age) const;         // age 0 is the newest; throws std::out_of_range
  int committed_count(int segment) const;
  const Slot& committed(int segment, int index) const;  // index 0 is the oldest; throws std::out_of_range
  bool staged(int segment) const;
  uint64_t generation(int segment) const;
  std::size_t bytes_held() const { return pool_->bytes_held(); }
  void trim() { pool_->trim(); }

 private:
  struct Segment {
    Committed committed;
    std::shared_ptr<Slot> staging;
    std::vector<int> layer_rows;           // rows written per layer of staging, 0 for none
    uint64_t generation = 0;
  };

  ContextCache(CacheSpec spec, std::shared_ptr<SlotPool> pool);
  Segment& at(int segment);
  const Segment& at(int segment) const;

  CacheSpec spec_;
  std::shared_ptr<SlotPool> pool_;
  std::vector<Segment> segments_;
};

}  // namespace streamchar
