/* streamchar.h - the native core of streamchar_rt from C: the context cache, a DiT's blocks, a language model's layers,
 * a video decoder and the ops of them, on the CPU. ABI 1.2. C99 and C++17.
 *
 * Rules that hold for every function here
 *  - sc_status: 0 is done, below 0 is an error; after an error nothing has changed, and sc_last_error_message() says
 *    what was wrong and what to do.
 *  - Nothing throws, ends the process or prints.
 *  - A struct that starts with struct_size is prepared by its *_init() (which zeroes it and sets the defaults named
 *    here); later versions add fields at its end only. Structs without struct_size never change.
 *  - Out handles are written on SC_OK alone; destroy(NULL) does nothing. A handle of another kind is refused; using a
 *    destroyed one is undefined.
 *  - Arrays belong to the caller: they are read or written during the call, and none is kept, unless it says so below.
 *    Strides count elements and may be 0 or negative. Channels are contiguous. Outputs overlap no input, unless a
 *    function says that they may.
 *  - Ops run on the calling thread and this library's pool (sc_set_threads) and may be called from any number of
 *    threads. A context has one user at a time; different contexts, also forks of one another, are independent.
 */
#ifndef STREAMCHAR_H_
#define STREAMCHAR_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#  if defined(SC_BUILDING_LIBRARY)
#    define SC_API __declspec(dllexport)
#  else
#    define SC_API __declspec(dllimport)
#  endif
#  define SC_CALL __cdecl
#else
#  define SC_API __attribute__((visibility("default")))
#  define SC_CALL
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define SC_ABI_MAJOR 1u
#define SC_ABI_MINOR 2u

/* ---- status and version ------------------------------------------------------------------------------------------ */
typedef int32_t sc_status;
enum {
  SC_OK = 0,
  SC_E_INVALID_ARGUMENT = -1, /* NULL, a size or index out of range, a handle of another kind                       */
  SC_E_INVALID_STATE = -2,    /* the context's present state forbids the call                                       */
  SC_E_ABI_MISMATCH = -3,     /* a struct of another version of this header                                         */
  SC_E_UNSUPPORTED = -6,      /* no kernel for this size, storage or instruction set                                */
  SC_E_HOST_MEMORY = -9,      /* the memory limit, or the machine's memory, is used up                              */
  SC_E_INTERNAL = -99
};

/* Version of the library's ABI, major << 16 | minor. Usable with this header: equal major, and no lesser minor. */
SC_API uint32_t SC_CALL sc_abi_version(void);
/* The release, "0.1.0". The string is static: never free it. */
SC_API const char *SC_CALL sc_version_string(void);
/* "SC_E_INVALID_STATE"; "unknown" for any other number. The string is static: never free it. */
SC_API const char *SC_CALL sc_status_name(sc_status status);
/* Copies the message of the last error on this thread into the caller's buffer, at most `capacity` bytes with the
 * ending NUL, in UTF-8: "what was wrong; try: the remedy". Returns the whole message's length without NUL (0 if there
 * was no error yet); `buffer` may be NULL to ask for that alone. */
SC_API size_t SC_CALL sc_last_error_message(char *buffer, size_t capacity);

/* ---- machine ----------------------------------------------------------------------------------------------------- */
/* The instruction set in use: "generic", "avx2", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16" or "amx". At first the
 * fastest that the machine runs, or what STREAMCHAR_ISA names in the environment. The string is static: never free it. */
SC_API const char *SC_CALL sc_isa(void);
/* Instruction set number `index` that this build has and this machine runs, slowest first; NULL past the last. The
 * string is static: never free it. */
SC_API const char *SC_CALL sc_available_isa(int32_t index);
/* Uses another instruction set from the next op on, in the whole process. `name` is borrowed for the call. */
SC_API sc_status SC_CALL sc_set_isa(const char *name);
/* Threads that ops use, the caller included. At first the usable CPUs, or STREAMCHAR_THREADS in the environment. */
SC_API int32_t SC_CALL sc_threads(void);
/* Changes it, 1 to 1024, for the whole process; waits for a running op. Takes no ownership of the caller's threads. */
SC_API sc_status SC_CALL sc_set_threads(int32_t threads);

/* ---- what tokens are --------------------------------------------------------------------------------------------- */
/* How numbers are kept: keys and values, and weights of a linear layer. INT8 keys have a step each and head, values one
 * for each channel of 64 tokens; attention to them is within 1.5e-2 for normally distributed numbers, and what
 * attends to one that is not finite becomes NaN. INT8 weights have a step for each output. */
enum { SC_F32 = 0, SC_BF16 = 1, SC_INT8 = 2 };

/* (tokens, heads, head_dim) float32. */
typedef struct sc_token_view {
  const float *data;
  int64_t token_stride, head_stride;
} sc_token_view;

/* RMSNorm per head: tokens bounds[g] to bounds[g + 1] are scaled by weight[g * head_dim ...]. weight NULL: no norm. */
typedef struct sc_head_norm {
  const float *weight;   /* (groups, head_dim)                                                                      */
  const int32_t *bounds; /* groups + 1 token indices that never fall, from 0 to the number of tokens                */
  int32_t groups;
  float eps;             /* positive; 1e-6 is usual                                                                 */
} sc_head_norm;

/* Cosine and sine of every rotated channel pair: table[t][i] = (cos, sin) of the sum over positions[t][axes[i]] *
 * freqs[i]. Pair i is channels 2i and 2i + 1. One token at (distance, 0, 0) is what `shift` below takes. All arrays
 * are borrowed for the call.
 *   positions (tokens, 3): time, y, x;  freqs (pairs,);  axes (pairs,) of 0, 1 or 2;  table (tokens, pairs, 2) */
SC_API sc_status SC_CALL sc_rope_table(int32_t tokens, const double *positions, int32_t pairs, const double *freqs,
                                       const int32_t *axes, float *table);

/* ---- context cache ----------------------------------------------------------------------------------------------- */
/* Per layer, keys and values of what a denoiser attends to beside the current chunk. A pinned segment keeps one
 * committed chunk, a ring the newest `chunks` for attention and `history` older ones for rewind. New rows go to a
 * segment's staging and are seen from commit on. Committed rows are never rewritten or moved: commit, rewind, snapshot,
 * restore and fork copy nothing. In a steady stream nothing is allocated. */
typedef struct sc_context sc_context;
typedef struct sc_snapshot sc_snapshot;

typedef struct sc_segment {
  const char *name;  /* for messages                                                                                */
  int32_t capacity;  /* tokens of a chunk, at most                                                                  */
  int32_t chunks;    /* that attention sees, at most; 1 if pinned                                                   */
  int32_t history;   /* kept beyond them; 0 if pinned                                                               */
  int32_t ring;      /* 0: pinned                                                                                   */
} sc_segment;

typedef struct sc_context_params {
  uint32_t struct_size;
  int32_t layers, heads;
  int32_t head_dim;           /* 64 or 128                                                                          */
  int32_t storage;            /* SC_F32 (default), SC_BF16 or SC_INT8                                               */
  int32_t segment_count;
  const sc_segment *segments; /* copied, with their names                                                           */
  uint64_t memory_limit;      /* bytes that the context, its forks and snapshots hold together; 0 (default): none   */
} sc_context_params;
SC_API void SC_CALL sc_context_params_init(sc_context_params *params, uint32_t struct_size);

/* Bytes that sc_context_create() will reserve. Nothing is kept. */
SC_API sc_status SC_CALL sc_context_plan(const sc_context_params *params, uint64_t *bytes);
/* Makes an empty context and reserves its memory. The caller owns it and gives it to sc_context_destroy(). A limit is
 * wise where the operating system would rather end a process than refuse it memory. */
SC_API sc_status SC_CALL sc_context_create(const sc_context_params *params, sc_context **out);
/* Takes the context back. Its snapshots and forks live on. */
SC_API void SC_CALL sc_context_destroy(sc_context *context);
/* A second context with the same committed content (staging stays behind); both share memory until they differ. The
 * caller owns it and gives it to sc_context_destroy(). */
SC_API sc_status SC_CALL sc_context_fork(const sc_context *context, sc_context **out);

/* New tokens of one layer: raw projections, borrowed for the call. */
typedef struct sc_tokens {
  uint32_t struct_size;
  int32_t count;
  sc_token_view q, k, v;        /* q may be NULL where it is not used                                               */
  sc_head_norm q_norm, k_norm;  /* eps 1e-6 by default                                                              */
  const float *rope;            /* (count, head_dim / 2, 2), see sc_rope_table(); NULL: rotated already             */
} sc_tokens;
SC_API void SC_CALL sc_tokens_init(sc_tokens *tokens, uint32_t struct_size);

/* Normalizes, rotates and stores one layer's keys and values in a segment's staging; the same layer may be appended
 * again. The context keeps a copy of the rows; the arrays stay the caller's. */
SC_API sc_status SC_CALL sc_context_append(sc_context *context, int32_t layer, int32_t segment,
                                           const sc_tokens *tokens);

#define SC_NO_SEGMENT (-1)
/* One live chunk to attend to. `shift` (head_dim / 2, 2) turns the queries once more by how much later than the chunk
 * the tokens are, see sc_rope_table(); NULL: not at all. */
typedef struct sc_read {
  int32_t segment;
  int32_t age;        /* 0: the segment's newest chunk                                                              */
  const float *shift;
} sc_read;

/* One softmax of the tokens' queries over the chunks in `reads` and the tokens' own keys, all read in place. With
 * `store` (or SC_NO_SEGMENT) their keys and values also become `layer`'s staging of that segment. Reads and arrays are
 * borrowed for the call; out (count, heads, head_dim) is contiguous and the caller's. */
SC_API sc_status SC_CALL sc_context_attend(sc_context *context, int32_t layer, const sc_tokens *tokens,
                                           const sc_read *reads, int32_t read_count, int32_t store, float *out);

#define SC_NEXT_LABEL INT64_MIN
/* Makes a segment's staging its newest chunk, numbered `label` (SC_NEXT_LABEL: one after the newest, from 0). Every
 * layer must have been appended, with equal counts, and labels rise; else SC_E_INVALID_STATE, and staging stays. The
 * context owns the chunk. */
SC_API sc_status SC_CALL sc_context_commit(sc_context *context, int32_t segment, int64_t label);
/* Forgets a segment's staging, if there is one. The context keeps its memory. */
SC_API sc_status SC_CALL sc_context_drop(sc_context *context, int32_t segment);
/* Puts a segment back to what it was right after the commit of `label` (before the first one: empty), without staging.
 * SC_E_INVALID_STATE if that needs a chunk that is no longer kept. The context keeps the memory of the chunks. */
SC_API sc_status SC_CALL sc_context_rewind(sc_context *context, int32_t segment, int64_t label);
/* Empties a segment. The context keeps its memory. */
SC_API sc_status SC_CALL sc_context_clear(sc_context *context, int32_t segment);

/* The committed content at this moment. The caller owns it and gives it to sc_snapshot_destroy(). */
SC_API sc_status SC_CALL sc_context_snapshot(const sc_context *context, sc_snapshot **out);
/* Puts a context made with equal parameters to the snapshot's content; drops staging. The snapshot stays the caller's,
 * to be restored again or elsewhere. */
SC_API sc_status SC_CALL sc_context_restore(sc_context *context, const sc_snapshot *snapshot);
/* Takes the snapshot back. */
SC_API void SC_CALL sc_snapshot_destroy(sc_snapshot *snapshot);

typedef struct sc_segment_info {
  uint32_t struct_size;
  int32_t live;          /* chunks that attention sees                                                              */
  int32_t live_rows;     /* tokens in them                                                                          */
  int32_t committed;     /* chunks kept, history included                                                           */
  int32_t staged;        /* 1 if there is staging                                                                   */
  int32_t reserved;
  uint64_t generation;   /* rises whenever the live chunks change                                                   */
  uint64_t chunk_bytes;
} sc_segment_info;
SC_API void SC_CALL sc_segment_info_init(sc_segment_info *info, uint32_t struct_size);
/* Facts of a segment, into the caller's struct. */
SC_API sc_status SC_CALL sc_context_segment_info(const sc_context *context, int32_t segment, sc_segment_info *info);
/* Label and tokens of committed chunk `index` (0 is the oldest), into the caller's variables; either may be NULL. */
SC_API sc_status SC_CALL sc_context_chunk(const sc_context *context, int32_t segment, int32_t index, int64_t *label,
                                          int32_t *rows);
/* Copies one layer of a committed chunk into the caller's arrays, each (rows, heads, head_dim) float32. */
SC_API sc_status SC_CALL sc_context_read(const sc_context *context, int32_t segment, int32_t index, int32_t layer,
                                         float *key, float *value);
/* Bytes that the context, its forks and snapshots hold together, free ones included, into the caller's variable. */
SC_API sc_status SC_CALL sc_context_bytes(const sc_context *context, uint64_t *bytes);
/* Gives free memory back to the machine. Committed and staged chunks stay. */
SC_API sc_status SC_CALL sc_context_trim(sc_context *context);

/* ---- attention without a context --------------------------------------------------------------------------------- */
/* Keys and values of one layer lie in panels: memory of the caller, aligned to 64 bytes, that sc_kv_append() fills and
 * sc_segment_attention() reads in place. What is inside depends on the storage, and on nothing else. */

/* Size of panels for `capacity` tokens, into the caller's variable. */
SC_API sc_status SC_CALL sc_panels_bytes(int32_t heads, int32_t head_dim, int32_t capacity, int32_t storage,
                                         uint64_t *bytes);

typedef struct sc_kv_append_call {
  uint32_t struct_size;
  int32_t tokens, heads, head_dim;
  int32_t storage;       /* of the panels: SC_F32 (default), SC_BF16 or SC_INT8                                     */
  int32_t capacity;      /* that the panels are made for, at least `tokens`                                         */
  sc_token_view k, v;
  sc_head_norm norm;     /* eps 1e-6 by default                                                                     */
  const float *rope;     /* (tokens, head_dim / 2, 2); NULL: rotated already                                        */
  void *panels;
} sc_kv_append_call;
SC_API void SC_CALL sc_kv_append_call_init(sc_kv_append_call *call, uint32_t struct_size);
/* Normalizes and rotates keys and writes them with their values to the panels, from token 0 on. All memory is borrowed
 * for the call. */
SC_API sc_status SC_CALL sc_kv_append(const sc_kv_append_call *call);
/* Copies `tokens` tokens out of panels into the caller's arrays, each (tokens, heads, head_dim) float32. */
SC_API sc_status SC_CALL sc_kv_read(int32_t heads, int32_t head_dim, int32_t capacity, int32_t storage,
                                    const void *panels, int32_t tokens, float *key, float *value);

typedef struct sc_panels {
  const void *data;
  int32_t capacity;     /* that they are made for                                                                   */
  int32_t rows;         /* tokens to attend to, from token 0 on; may be 0                                           */
  const float *shift;   /* see sc_read                                                                              */
} sc_panels;

typedef struct sc_segment_attention_call {
  uint32_t struct_size;
  int32_t tokens, heads, head_dim;
  int32_t storage;            /* of all panels: SC_F32 (default), SC_BF16 or SC_INT8                                */
  int32_t segment_count;
  const sc_panels *segments;
  sc_token_view q;
  sc_head_norm norm;          /* eps 1e-6 by default                                                                */
  const float *rope;          /* (tokens, head_dim / 2, 2); NULL: rotated already                                   */
  float *out;                 /* (tokens, heads, head_dim) contiguous; zero where there is no key at all            */
  float *lse;                 /* (tokens, heads) natural logarithm of the softmax's denominator; may be NULL        */
} sc_segment_attention_call;
SC_API void SC_CALL sc_segment_attention_call_init(sc_segment_attention_call *call, uint32_t struct_size);
/* One softmax of every query over the keys of all segments. All memory is borrowed for the call. The bytes of `out` do
 * not depend on the number of threads. */
SC_API sc_status SC_CALL sc_segment_attention(const sc_segment_attention_call *call);

/* ---- what surrounds it in a block -------------------------------------------------------------------------------- */
/* (batch, tokens, width) float32; a stride of 0 shares one row among all batches or tokens. */
typedef struct sc_row_view {
  const float *data;
  int64_t batch_stride, token_stride;
} sc_row_view;

typedef struct sc_adaln_modulate_call {
  uint32_t struct_size;
  int32_t batch, tokens, width;
  float eps;                    /* 1e-5 by default                                                                  */
  int32_t reserved;
  sc_row_view x, shift, scale;
  float *out;                   /* (batch, tokens, width) contiguous; may be x                                      */
} sc_adaln_modulate_call;
SC_API void SC_CALL sc_adaln_modulate_call_init(sc_adaln_modulate_call *call, uint32_t struct_size);
/* out = layer_norm(x) * (1 + scale) + shift. All memory is borrowed for the call. */
SC_API sc_status SC_CALL sc_adaln_modulate(const sc_adaln_modulate_call *call);

typedef struct sc_gated_residual_call {
  uint32_t struct_size;
  int32_t batch, tokens, width;
  sc_row_view x, gate, update;
  float *out;                   /* (batch, tokens, width) contiguous; may be x or update                            */
} sc_gated_residual_call;
SC_API void SC_CALL sc_gated_residual_call_init(sc_gated_residual_call *call, uint32_t struct_size);
/* out = x + gate * update. All memory is borrowed for the call. */
SC_API sc_status SC_CALL sc_gated_residual(const sc_gated_residual_call *call);

/* A linear layer whose weights are packed once. Immutable: any number of threads may apply it at once. */
typedef struct sc_linear sc_linear;
/* Packs a copy of weight (outputs, inputs) and bias (outputs,), which may be NULL; both finite. `storage` is SC_F32
 * (as they are), SC_BF16 (relative error about 2e-3) or SC_INT8 (about 1e-2, of at most 131072 inputs). The caller owns
 * it and gives it to sc_linear_destroy(). */
SC_API sc_status SC_CALL sc_linear_create(const float *weight, const float *bias, int32_t outputs, int32_t inputs,
                                          int32_t storage, sc_linear **out);
/* Takes the layer back. What was made of it lives on. */
SC_API void SC_CALL sc_linear_destroy(sc_linear *linear);
/* Copies the weights as they are multiplied into the caller's array (outputs, inputs). */
SC_API sc_status SC_CALL sc_linear_read(const sc_linear *linear, float *weight);

/* One vector for each batch of rows; a stride of 0 shares one. data NULL: not there. */
typedef struct sc_batch_vector {
  const float *data;
  int64_t stride;
} sc_batch_vector;

enum { SC_NO_ACTIVATION = 0, SC_GELU_TANH = 1 };
typedef struct sc_linear_apply_call {
  uint32_t struct_size;
  int32_t rows;
  int32_t rows_per_batch;        /* of the vectors below; 1 by default                                              */
  int32_t activation;
  float eps;                     /* of the modulation; 1e-5 by default                                              */
  int32_t reserved;
  const float *x;                /* (rows, inputs)                                                                  */
  int64_t x_stride;
  float *y;                      /* (rows, outputs)                                                                 */
  int64_t y_stride;
  sc_batch_vector shift, scale;  /* (inputs,), both or neither: x is modulated first, see sc_adaln_modulate()       */
  sc_batch_vector gate;          /* (outputs,), with a residual: y becomes residual + gate * y                      */
  const float *residual;         /* (rows, outputs); may be y                                                       */
  int64_t residual_stride;
} sc_linear_apply_call;
SC_API void SC_CALL sc_linear_apply_call_init(sc_linear_apply_call *call, uint32_t struct_size);
/* y = activation(x W^T + bias), with what is asked for around it. All memory is borrowed for the call. A row's bytes
 * depend on that row alone, not on the other rows or the number of threads. */
SC_API sc_status SC_CALL sc_linear_apply(const sc_linear *linear, const sc_linear_apply_call *call);

/* ---- blocks of a joint transformer, as one call ------------------------------------------------------------------ */
/* Two kinds of tokens, video and audio, each with linear layers of its own, and one attention over both and a context.
 * Of each block, for tokens x of either kind and m = modulation + the kind's table, (6, width):
 *   q, k, v = qkv(adaln(x, m[0], m[1]))                            adaln(x, shift, scale), see sc_adaln_modulate()
 *   x      += m[2] * out(attention(q, k, v))                       see sc_context_attend(); block i is layer i
 *   x      += m[5] * contract(gelu(expand(adaln(x, m[3], m[4]))))
 * width is heads * head_dim. Epsilons are 1e-5 of adaln and 1e-6 of the norms of queries and keys. */
typedef struct sc_joint_half {
  const sc_linear *qkv;       /* width to 3 * width: queries, keys, values; head after head                         */
  const sc_linear *out;       /* width to width                                                                     */
  const sc_linear *expand;    /* width to as many as contract takes                                                 */
  const sc_linear *contract;  /* those to width                                                                     */
  const float *table;         /* (6, width)                                                                         */
  const float *q_norm;        /* (head_dim,)                                                                        */
  const float *k_norm;
} sc_joint_half;

typedef struct sc_joint_block {
  sc_joint_half video, audio;
} sc_joint_block;

/* Immutable: any number of threads may run it at once, over different contexts. */
typedef struct sc_joint_blocks sc_joint_blocks;
/* Makes a transformer of `block_count` blocks. Tables and norms, which are finite, are copied; the linear layers are
 * shared, not copied: it keeps them as long as it needs them, and the caller may destroy the sc_linear handles right
 * after. The caller owns it and gives it to sc_joint_blocks_destroy(). */
SC_API sc_status SC_CALL sc_joint_blocks_create(int32_t heads, int32_t head_dim, const sc_joint_block *blocks,
                                                int32_t block_count, sc_joint_blocks **out);
/* Takes the blocks back. */
SC_API void SC_CALL sc_joint_blocks_destroy(sc_joint_blocks *blocks);

/* One stream: its context, and what it reads, see sc_context_attend(). */
typedef struct sc_joint_stream {
  sc_context *context;        /* with as many layers as there are blocks, and as many heads of as many channels     */
  const sc_read *reads;
  int32_t read_count;
  int32_t reserved;
} sc_joint_stream;

typedef struct sc_joint_blocks_run_call {
  uint32_t struct_size;
  int32_t stream_count;
  const sc_joint_stream *streams;  /* each with a context of its own                                                */
  int32_t video_tokens;            /* of each stream; one of these may be 0                                         */
  int32_t audio_tokens;
  float *video;                    /* (stream_count, video_tokens, width) contiguous; the results take their place  */
  float *audio;                    /* likewise; either may be NULL without tokens                                   */
  const float *modulation;         /* (6, width) of each stream, contiguous                                         */
  int64_t modulation_stride;       /* from a stream's to the next one's; 0 (default): one for all                   */
  const float *rope;               /* (video_tokens + audio_tokens, head_dim / 2, 2); NULL: nothing is rotated      */
  int32_t store;                   /* the segment whose staging keys and values become; SC_NO_SEGMENT by default    */
  int32_t reserved;
} sc_joint_blocks_run_call;
SC_API void SC_CALL sc_joint_blocks_run_call_init(sc_joint_blocks_run_call *call, uint32_t struct_size);
/* Takes the tokens of all streams through all blocks. A stream's tokens, video before audio, attend to its reads and to
 * one another. With `store`, all layers of that segment's staging are written, of every stream; it wants
 * sc_context_commit(). After an error tokens and contexts are as before, though contexts may hold more free memory. All
 * memory is borrowed for the call. A stream's bytes do not depend on the other streams or the number of threads. */
SC_API sc_status SC_CALL sc_joint_blocks_run(const sc_joint_blocks *blocks, const sc_joint_blocks_run_call *call);

/* ---- a language model, as one call ------------------------------------------------------------------------------- */
/* The layers of a Qwen3 model: embeddings in, states out. Of each layer, for the tokens x of a sequence:
 *   q, k, v = qkv(norm(x))                    norm(x) = x / rms(x) * weight
 *   x      += out(attention(q, k, v))         each head's queries and keys normalized, then rotated; a token sees those
 *                                             before it and itself; head h shares key head h * kv_heads / heads
 *   x      += down(silu(gate) * up)           gate, up = gate_up(norm(x))
 * and a norm at the end. */
typedef struct sc_decoder_layer {
  const sc_linear *qkv;       /* width to (heads + 2 * kv_heads) * head_dim: queries, keys, values; head after head */
  const sc_linear *out;       /* heads * head_dim to width                                                          */
  const sc_linear *gate_up;   /* width to twice as many as down takes                                               */
  const sc_linear *down;      /* those to width                                                                     */
  const float *input_norm;    /* (width,), before attention                                                         */
  const float *hidden_norm;   /* (width,), before the feed-forward                                                  */
  const float *q_norm;        /* (head_dim,)                                                                        */
  const float *k_norm;
} sc_decoder_layer;

/* Immutable: any number of threads may run it at once. */
typedef struct sc_language_model sc_language_model;

typedef struct sc_language_model_params {
  uint32_t struct_size;
  int32_t width;
  int32_t heads;
  int32_t kv_heads;                /* that heads are a multiple of                                                  */
  int32_t head_dim;                /* 64 or 128                                                                     */
  float eps;                       /* of every norm; 1e-6 by default                                                */
  int32_t layer_count;
  int32_t reserved;
  const sc_decoder_layer *layers;
  const float *final_norm;         /* (width,)                                                                      */
} sc_language_model_params;
SC_API void SC_CALL sc_language_model_params_init(sc_language_model_params *params, uint32_t struct_size);
/* Makes a language model. Norms, which are finite, are copied; the linear layers are shared, not copied: it keeps them
 * as long as it needs them, and the caller may destroy the sc_linear handles right after. The caller owns it and gives
 * it to sc_language_model_destroy(). */
SC_API sc_status SC_CALL sc_language_model_create(const sc_language_model_params *params, sc_language_model **out);
/* Takes the model back. */
SC_API void SC_CALL sc_language_model_destroy(sc_language_model *model);

typedef struct sc_language_model_run_call {
  uint32_t struct_size;
  int32_t batch;
  int32_t tokens;           /* of each sequence                                                                     */
  int32_t reserved;
  const float *x;           /* (batch, tokens, width) contiguous                                                    */
  const uint8_t *present;   /* (batch, tokens): 0 where there is no token, which none sees; NULL: all are there     */
  const float *rope;        /* (tokens, head_dim / 2, 2), see sc_rope_table(): pair i is channels i and             */
                            /* i + head_dim / 2 here; NULL: nothing is rotated                                      */
  float *out;               /* (batch, tokens, width) contiguous, zero where there is no token; may be x            */
} sc_language_model_run_call;
SC_API void SC_CALL sc_language_model_run_call_init(sc_language_model_run_call *call, uint32_t struct_size);
/* Takes the tokens of all sequences through all layers. All memory is borrowed for the call. A sequence's bytes do not
 * depend on the other sequences or the number of threads. */
SC_API sc_status SC_CALL sc_language_model_run(const sc_language_model *model, const sc_language_model_run_call *call);

/* ---- pictures ---------------------------------------------------------------------------------------------------- */
/* A convolution, 1x1 or 3x3 with a rim of zeros, whose weights are packed once as int8 with a step for each output;
 * inputs are rounded to 256 steps a row of pixels (relative error about 1e-2). Immutable: any number of threads may
 * apply it at once. */
typedef struct sc_conv sc_conv;

typedef struct sc_conv_params {
  uint32_t struct_size;
  int32_t inputs;        /* channels of a pixel of x; at most 66000, of 3x3 22000                                   */
  int32_t channels;      /* of a pixel of y                                                                         */
  int32_t size;          /* 1 (default) or 3                                                                        */
  int32_t frames;        /* pictures that come of one; 1 by default                                                 */
  int32_t shuffle;       /* pixels that come of one, across and down; 1 by default                                  */
  const float *weight;   /* (frames, shuffle down, shuffle across, channels, inputs, size, size) contiguous, finite */
  const float *bias;     /* (frames, shuffle down, shuffle across, channels), finite; may be NULL                   */
} sc_conv_params;
SC_API void SC_CALL sc_conv_params_init(sc_conv_params *params, uint32_t struct_size);
/* Packs a copy of weight and bias. The caller owns the convolution and gives it to sc_conv_destroy(). */
SC_API sc_status SC_CALL sc_conv_create(const sc_conv_params *params, sc_conv **out);
/* Takes the convolution back. What was made of it lives on. */
SC_API void SC_CALL sc_conv_destroy(sc_conv *conv);
/* Copies the weights as they are multiplied into the caller's array, shaped like params.weight. */
SC_API sc_status SC_CALL sc_conv_read(const sc_conv *conv, float *weight);

/* Pictures (batch, height, width, channels), each contiguous. */
typedef struct sc_conv_input {
  const float *data;
  int64_t picture_stride;       /* from one picture to the next; 0 shares one                                       */
  int32_t channels;
  int32_t reserved;
} sc_conv_input;

typedef struct sc_conv_apply_call {
  uint32_t struct_size;
  int32_t batch, height, width;
  int32_t input_count;          /* 1 to 3                                                                           */
  int32_t silu;                 /* 1: of the inputs first; 0 (default): as they are                                 */
  const sc_conv_input *inputs;  /* their channels, one after another, are x's                                       */
  float *out;                   /* (batch * frames, height * shuffle, width * shuffle, channels) contiguous         */
  const float *added;           /* pictures like out's; may be out; NULL: nothing is added                          */
  int64_t added_stride;         /* from one picture of it to the next; 0 shares one                                 */
} sc_conv_apply_call;
SC_API void SC_CALL sc_conv_apply_call_init(sc_conv_apply_call *call, uint32_t struct_size);
/* out = conv(silu(x)) + added. A row of pixels may hold 4194304 numbers. All memory is borrowed for the call. A
 * picture's bytes depend on that picture alone, not on the other pictures or the number of threads; a row that holds an
 * infinity or NaN makes NaN of all that sees it. */
SC_API sc_status SC_CALL sc_conv_apply(const sc_conv *conv, const sc_conv_apply_call *call);

/* Sizes below count places of 4 x 4 pixels. With a rim of two pixels a picture has at most 16777216. */
typedef struct sc_picture_warp_call {
  uint32_t struct_size;
  int32_t frames;
  int32_t height, width;   /* both even                                                                             */
  int32_t parts;           /* 1 to 32                                                                               */
  float local;             /* pixels that the local flow is at most                                                 */
  const float *places;     /* (frames, height / 2, width / 2, (parts + 2) * 4) contiguous: number 4 n + 2 dy + dx   */
                           /* is score n, then x and y of the local flow, of place (2 y + dy, 2 x + dx)             */
  const float *motion;     /* (frames, parts, 2, 3) contiguous, pixels                                              */
  const float *picture;    /* (height * 4 + 4, width * 4 + 4, 4) contiguous: with a rim of two zero pixels          */
  float *flow;             /* (frames, height, width, 2): x and y in pixels, from a place to where it is shown from */
  float *warped;           /* (frames, height, width, 4, 16): of each place by channel, then by pixel               */
} sc_picture_warp_call;
SC_API void SC_CALL sc_picture_warp_call_init(sc_picture_warp_call *call, uint32_t struct_size);
/* A picture moved by the flow of parts that move rigidly. A place's flow is local * tanh of its local flow, plus what
 * the parts do there, motion[part] (x, y, 1), each weighted by the softmax of its scores; x and y go from -1 to 1 over
 * the places, ends included. Between places the flow is interpolated linearly, and so is the picture, which is zero
 * beyond its edges; flow that is not a number shows nothing. All memory is borrowed for the call. Bytes do not depend
 * on the number of threads. */
SC_API sc_status SC_CALL sc_picture_warp(const sc_picture_warp_call *call);

typedef struct sc_picture_blend_call {
  uint32_t struct_size;
  int32_t frames;
  int32_t height, width;
  const float *drawn;      /* (frames, height, width, 5, 16) contiguous: R, G, B, A and weight, by pixel            */
  const float *warped;     /* (frames, height, width, 4, 16) contiguous, see sc_picture_warp()                      */
  uint8_t *out;            /* (frames, height * 4, width * 4, 4) contiguous: RGBA with straight alpha               */
} sc_picture_blend_call;
SC_API void SC_CALL sc_picture_blend_call_init(sc_picture_blend_call *call, uint32_t struct_size);
/* With w = sigmoid(weight), the premultiplied pixel (1 - w) * (drawn + 1/2) + w * warped, its colours divided by alpha
 * (at least 1/255), limited to 0 to 255 and rounded; what is not a number becomes 0. All memory is borrowed for the
 * call. Bytes do not depend on the number of threads. */
SC_API sc_status SC_CALL sc_picture_blend(const sc_picture_blend_call *call);

/* ---- a video decoder, frame by frame ----------------------------------------------------------------------------- */
/* What the parts of a picture do in each frame of a latent, from the code of its movement: the mean over the 2 x 2
 * cells, by the parity of rows and columns, of its first channels. Number (channel * 2 + y % 2) * 2 + x % 2 of the code
 * is that of a cell. With fields = read . code, `inputs` of them to a frame,
 *   motion = reach * (second . silu(first . fields + first_bias) + second_bias + steady . fields).
 * Immutable: any number of threads may apply it at once. */
typedef struct sc_part_motion sc_part_motion;

typedef struct sc_part_motion_params {
  uint32_t struct_size;
  int32_t channels;           /* of a latent that hold the code                                                     */
  int32_t frames;             /* of a latent                                                                        */
  int32_t inputs;             /* fields of a frame                                                                  */
  int32_t hidden;
  int32_t parts;              /* 1 to 32                                                                            */
  float reach;                /* 1 by default                                                                       */
  int32_t reserved;
  const float *read;          /* (frames * inputs, channels * 4)                                                    */
  const float *first;         /* (hidden, inputs)                                                                   */
  const float *first_bias;    /* (hidden,)                                                                          */
  const float *second;        /* (parts * 6, hidden)                                                                */
  const float *second_bias;   /* (parts * 6,)                                                                       */
  const float *steady;        /* (parts * 6, inputs)                                                                */
} sc_part_motion_params;
SC_API void SC_CALL sc_part_motion_params_init(sc_part_motion_params *params, uint32_t struct_size);
/* Copies the weights, which are finite. The caller owns it and gives it to sc_part_motion_destroy(). */
SC_API sc_status SC_CALL sc_part_motion_create(const sc_part_motion_params *params, sc_part_motion **out);
/* Takes it back. Decoders made of it live on. */
SC_API void SC_CALL sc_part_motion_destroy(sc_part_motion *motion);
/* Of a latent (`channels` or more, height, width), contiguous, both even, into the caller's array
 * (frames, parts, 2, 3): what sc_picture_warp() takes as motion. All memory is borrowed for the call. */
SC_API sc_status SC_CALL sc_part_motion_apply(const sc_part_motion *motion, const float *latent, int32_t height,
                                              int32_t width, float *out);

/* x + second(silu(first(silu(x)))), of as many channels as x. */
typedef struct sc_conv_pair {
  const sc_conv *first;
  const sc_conv *second;
} sc_conv_pair;

/* A latent (channels, height, width), the one before and a character to frames, 16 times as high and wide:
 *   x      = trunk(inputs(latent, previous) + coarse)          at 1/16 of the picture
 *   x      = middle(split(x) + middle of the character)        of each frame, at 1/8
 *   warped = sc_picture_warp() of the character's picture by flow(silu(x)) and the parts' motion
 *   y      = fine(up(x) + fine of the character + warped(warped))      at 1/4
 * and sc_picture_blend() of out(silu(y)) and warped. */
typedef struct sc_video_decoder sc_video_decoder;

typedef struct sc_video_decoder_params {
  uint32_t struct_size;
  int32_t trunk_count;            /* may be 0                                                                       */
  const sc_conv *inputs;          /* 2 * channels to a                                                              */
  const sc_conv_pair *trunk;      /* a to a each                                                                    */
  const sc_conv *split;           /* a to b, in the motion's frames, shuffle 2                                      */
  sc_conv_pair middle;            /* b to b                                                                         */
  const sc_conv *flow;            /* b to (parts + 2) * 4                                                           */
  const sc_conv *up;              /* b to c, shuffle 2                                                              */
  const sc_conv *warped;          /* 64 to c                                                                        */
  sc_conv_pair fine;              /* c to c                                                                         */
  const sc_conv *out;             /* c to 80                                                                        */
  const sc_part_motion *motion;
  float local;                    /* pixels that the local flow is at most                                          */
  int32_t reserved;
} sc_video_decoder_params;
SC_API void SC_CALL sc_video_decoder_params_init(sc_video_decoder_params *params, uint32_t struct_size);
/* Makes a decoder, immutable: any number of threads may draw with it at once. The convolutions and the motion are
 * shared, not copied: it keeps them as long as it needs them, and the caller may destroy their handles right after. The
 * caller owns it and gives it to sc_video_decoder_destroy(). */
SC_API sc_status SC_CALL sc_video_decoder_create(const sc_video_decoder_params *params, sc_video_decoder **out);
/* Takes the decoder back. Its drawings live on. */
SC_API void SC_CALL sc_video_decoder_destroy(sc_video_decoder *decoder);

/* A latent whose frames are being drawn; has one user at a time. */
typedef struct sc_latent_drawing sc_latent_drawing;

typedef struct sc_latent_drawing_params {
  uint32_t struct_size;
  int32_t height, width;   /* of the latent, both even; with a rim of two pixels a picture has at most 16777216     */
  int32_t reserved;
  const float *coarse;     /* (height, width, a) contiguous: what is added for a character, see above               */
  const float *middle;     /* (2 * height, 2 * width, b) contiguous                                                 */
  const float *fine;       /* (4 * height, 4 * width, c) contiguous                                                 */
  const float *picture;    /* (16 * height + 4, 16 * width + 4, 4) contiguous: with a rim of two zero pixels        */
} sc_latent_drawing_params;
SC_API void SC_CALL sc_latent_drawing_params_init(sc_latent_drawing_params *params, uint32_t struct_size);
/* Makes a drawing, with the memory of one that was destroyed where there is any. It keeps the addresses of the
 * character's arrays, which stay the caller's and must be there until it is destroyed. The caller owns it and gives it
 * to sc_latent_drawing_destroy(), at any time. */
SC_API sc_status SC_CALL sc_latent_drawing_create(const sc_video_decoder *decoder,
                                                  const sc_latent_drawing_params *params, sc_latent_drawing **out);
/* Takes the drawing back. */
SC_API void SC_CALL sc_latent_drawing_destroy(sc_latent_drawing *drawing);
/* What the frames have in common, of a latent and the one before, (channels, height, width) contiguous each, borrowed
 * for the call. A drawing may begin again with another latent. */
SC_API sc_status SC_CALL sc_latent_drawing_begin(sc_latent_drawing *drawing, const float *latent,
                                                 const float *previous);
/* Draws frame `index` into the caller's array (16 * height, 16 * width, 4), RGBA with straight alpha. Once each after
 * begin, in any order; else SC_E_INVALID_STATE. Bytes do not depend on the number of threads. */
SC_API sc_status SC_CALL sc_latent_drawing_frame(sc_latent_drawing *drawing, int32_t index, uint8_t *out);

/* ---- sound ------------------------------------------------------------------------------------------------------- */
typedef struct sc_istft_overlap_add_call {
  uint32_t struct_size;
  int32_t batch, frame_count;
  int32_t size;                 /* of the transform: a power of two, 16 to 8192                                     */
  int32_t hop;                  /* samples from one frame to the next, 1 to size                                    */
  float floor;                  /* least divisor, positive; 1e-3 by default                                         */
  const float *frames;          /* (batch, size / 2 + 1, frame_count) pairs of real and imaginary part              */
  int64_t batch_stride;         /* of frames, in floats, like the next two                                          */
  int64_t bin_stride;
  int64_t frame_stride;
  const float *window;          /* (size,)                                                                          */
  const float *tail;            /* (batch, size - hop) contiguous; zeros before the first frame. NULL if hop = size */
  const float *weight;          /* (size - hop,), likewise                                                          */
  float *samples;               /* (batch, frame_count * hop) contiguous; may be NULL without frames                */
  float *next_tail;             /* like tail: what to pass to the next call                                         */
  float *next_weight;
} sc_istft_overlap_add_call;
SC_API void SC_CALL sc_istft_overlap_add_call_init(sc_istft_overlap_add_call *call, uint32_t struct_size);
/* The samples that the next frames of a stream of spectra complete: inverse FFT, window, overlap-add, divided by the
 * sum of squared windows. A stream cut into calls anywhere gives the same bytes. All memory is borrowed for the call.
 */
SC_API sc_status SC_CALL sc_istft_overlap_add(const sc_istft_overlap_add_call *call);

#ifdef __cplusplus
}
#endif
#endif /* STREAMCHAR_H_ */
