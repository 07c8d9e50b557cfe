// What the producer and the consumers of segment_attention_sm90.cu share: tile shapes, shared memory, barriers.
#pragma once

#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/hopper_layout.h"
#include "kernels/cuda/key_walk.cuh"

namespace streamchar::cuda::hopper_attention {

using hopper::kBlockColumns;
using hopper::kBlockRowBytes;

inline constexpr int kKeys = 128;  // per tile

// Tiles of keys of one segment that one part of the work meets in a row, with the same queries.
struct Visit {
  enum Kind { kEmpty, kTiles, kEnd };  // a part without a key; as usual; nothing is left

  Kind kind;
  int opens;         // the part
  int stream;        // of the part, as are the next two
  int head;
  int query_block;
  int part;          // its note, for the consumers
  int tiles;
  int listed;        // the segment, in the call's list
  int first;         // the first tile's first key within it
};

// What the producer tells the consumers of a tile of keys, beside its stage.
struct TileNote {
  enum Flags { kNewQueries = 1, kNewPart = 2, kEnd = 4 };  // kEnd: there is no such tile, and none after it

  uint32_t word;
  float value_unit;  // what narrow values are multiples of

  __device__ __forceinline__ static TileNote of(int flags, int keys, int part, float value_unit) {
    return {static_cast<uint32_t>(flags | keys << 4 | part << 16), value_unit};
  }
  __device__ __forceinline__ bool is(Flags flag) const { return word & flag; }
  __device__ __forceinline__ int keys() const { return static_cast<int>(word >> 4 & 0xFFF); }
  __device__ __forceinline__ int part() const { return static_cast<int>(word >> 16); }  // its note
};

// A note in shared memory, as the warp's first lane reads it, which is the one that says when it may be overwritten. So
// ptxas also knows that branches on it do not diverge.
template <typename Note>
__device__ __forceinline__ Note told(const Note& note, int lane) {
  constexpr int kWords = sizeof(Note) / 4;
  union {
    Note note;
    uint32_t words[kWords];
  } copy;
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    copy.words[i] = __shfl_sync(~0u, lane == 0 ? reinterpret_cast<const uint32_t*>(&note)[i] : 0u, 0);
  }
  return copy.note;
}

// How many notes are kept. Results of a part are written at the first tile of the next one, when the producer may be as
// many parts ahead as there are stages, and have planned one more.
inline constexpr int kNotedParts = 8, kNotedVisits = 4;

// Goes over the visits of a thread block. Its state may lie in shared memory.
struct Planner {
  uint32_t next;     // step of the next part
  int part;          // the note of the part under way
  int done;          // its tiles that have been given out
  int all;           // of these

  __device__ __forceinline__ void begin() {
    next = 0;
    part = done = all = 0;
  }

  // `parts`: a ring of kParts notes, one for each part with keys.
  template <int kParts>
  __device__ __forceinline__ void advance(const SegmentAttention& call, const Split& split, WorkPart* parts,
                                          Visit& visit) {
    visit.opens = done == all;
    const int note = visit.opens ? (part + 1) % kParts : part;
    if (visit.opens) {
      if (next >= split.steps(blockIdx.x)) {
        visit.kind = Visit::kEnd;
        return;
      }
      const WorkPart begun = split.part(blockIdx.x, next);
      parts[note] = begun;
      next = split.after(next, begun);
      all = begun.end - begun.begin;
      done = 0;
    }
    const WorkPart& of = parts[note];
    visit.stream = of.stream;
    visit.head = of.head;
    visit.query_block = of.query_block;
    visit.part = note;
    const AttentionStream& stream = call.streams[of.stream];
    int at = of.key_block(of.begin + done);
    visit.listed = stream.first_segment;
    for (; visit.listed < stream.first_segment + stream.segment_count; ++visit.listed) {
      const int tiles = (call.segments[visit.listed].rows + kKeys - 1) / kKeys;
      if (at < tiles) {
        visit.kind = Visit::kTiles;
        visit.first = at * kKeys;
        visit.tiles = min(tiles - at, all - done);
        done += visit.tiles;
        part = note;
        return;
      }
      at -= tiles;
    }
    visit.kind = Visit::kEmpty;
    visit.tiles = 0;
    done = all;
  }
};

template <int kDim, bool kNarrow>
struct Shape {
  static constexpr int kGroups = 2;                               // consumer warpgroups
  static constexpr int kStages = kDim == 128 ? 2 : 3;
  static constexpr int kRows = 64 * kGroups;                      // queries per tile
  static constexpr int kThreads = 128 * (kGroups + 1);

  static constexpr int kQueryTiles = 2;                           // the visit's under way, and the next one's
  static constexpr int kMakers = kNarrow ? 4 : 3;                 // warps of the producer that make queries

  // Shared memory, in bytes from its start. Tiles begin at multiples of 1024.
  static constexpr uint32_t kGroupTile = 64 * kDim * 2;           // one warpgroup's queries
  static constexpr uint32_t kQueryTile = kGroups * kGroupTile;
  static constexpr uint32_t kTile = kKeys * kDim * 2;
  static constexpr uint32_t kKeyTiles = kQueryTiles * kQueryTile;
  static constexpr uint32_t kValueTiles = kKeyTiles + kStages * kTile;
  static constexpr uint32_t kBase = kValueTiles + kStages * kTile;  // the part's queries before they are turned
  static constexpr uint32_t kBarriers = kBase + kQueryTile;
  static constexpr uint32_t kTileNotes = kBarriers + 2 * (2 * kStages + kQueryTiles + kNotedVisits + 1) * 8;
  static constexpr uint32_t kVisitNotes = kTileNotes + kStages * sizeof(TileNote);
  static constexpr uint32_t kPartNotes = kVisitNotes + kNotedVisits * sizeof(Visit);
  static constexpr uint32_t kPlanner = kPartNotes + kNotedParts * sizeof(WorkPart);
  static constexpr uint32_t kBytes = kPlanner + sizeof(Planner);
  static_assert(kBytes <= 232448 && kStages + 3 <= kNotedParts);
};

struct Problem {
  CUtensorMap keys[kMaxListed];  // of bfloat16 segments
  CUtensorMap values[kMaxListed];
  SegmentAttention call;
  Split split;
};

template <int kDim, bool kNarrow>
struct Registers {
  // Either role does without spills.
  static constexpr int kProducer = kDim == 128 && !kNarrow ? 88 : 104;
  static constexpr int kConsumer = kDim == 128 && !kNarrow ? 208 : 200;
  // What the block starts with is all there is to share out: asking for more would wait for ever.
  using S = Shape<kDim, kNarrow>;
  static_assert(128 * (kProducer + S::kGroups * kConsumer) <= 65536 / S::kThreads / 8 * 8 * S::kThreads);
};

// `full` and `empty` of every stage.
template <typename S>
struct Barriers {
  uint32_t first;
  __device__ uint32_t key_full(int stage) const { return first + stage * 16; }
  __device__ uint32_t key_empty(int stage) const { return key_full(stage) + 8; }
  __device__ uint32_t value_full(int stage) const { return first + (S::kStages + stage) * 16; }
  __device__ uint32_t value_empty(int stage) const { return value_full(stage) + 8; }
  __device__ uint32_t query_full(int tile) const { return first + (2 * S::kStages + tile) * 16; }
  __device__ uint32_t query_empty(int tile) const { return query_full(tile) + 8; }
  __device__ uint32_t visit_full(int note) const { return first + (2 * S::kStages + S::kQueryTiles + note) * 16; }
  __device__ uint32_t visit_empty(int note) const { return visit_full(note) + 8; }
  // By every thread of the consumers: the thread block's first queries, and their base.
  __device__ uint32_t first_made() const { return first + (2 * S::kStages + S::kQueryTiles + kNotedVisits) * 16; }
};

// Place in a ring of stages, and the parity of its phase.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Where a tile of queries is made ahead, or met: tile 0 is the consumers' own first, so tile 1 comes first here.
struct QueryRing : Ring<2> {
  __device__ __forceinline__ int tile() const { return stage ^ 1; }
  // Of the phase in which it was met before, for makers. A barrier that has not been used yet lets parity 1 pass.
  __device__ __forceinline__ uint32_t emptied() const { return parity ^ (stage == 0); }
};

// The notes in shared memory.
template <typename S>
struct Notes {
  unsigned char* memory;
  __device__ __forceinline__ TileNote* tiles() const { return reinterpret_cast<TileNote*>(memory + S::kTileNotes); }
  __device__ __forceinline__ Visit* visits() const { return reinterpret_cast<Visit*>(memory + S::kVisitNotes); }
  __device__ __forceinline__ WorkPart* parts() const { return reinterpret_cast<WorkPart*>(memory + S::kPartNotes); }
  __device__ __forceinline__ Planner& planner() const { return *reinterpret_cast<Planner*>(memory + S::kPlanner); }
};

}  // namespace streamchar::cuda::hopper_attention
