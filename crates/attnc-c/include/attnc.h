/*
 * attnc: kernels of sparse attention patterns.
 *
 * Every function that can fail returns a status; attnc_last_error() and attnc_last_error_json() then say what was wrong,
 * on the thread that called. Handles may be used from several threads at once; a handle that was freed, or is none,
 * is an error and not a crash. Structures begin with their size, which the caller sets to sizeof: a later library reads
 * no more than that. Memory of tensors and texts stays the caller's.
 *
 * Made by cbindgen; do not edit.
 */

#ifndef ATTNC_H
#define ATTNC_H

#include <stddef.h>
#include <stdint.h>

/* Tensors are those of DLPack. Include dlpack.h before this file where a program uses both. */
#ifndef DLPACK_DLPACK_H_
typedef struct {
  int32_t device_type; /* 1 is memory of the CPU */
  int32_t device_id;
} DLDevice;

typedef struct {
  uint8_t code; /* 2 float, 4 bfloat */
  uint8_t bits;
  uint16_t lanes; /* 1 */
} DLDataType;

typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides; /* of elements; NULL is row-major */
  uint64_t byte_offset;
} DLTensor;
#endif

/*
 A number that is not given.
 */
#define ATTNC_UNSET INT64_MIN

/*
 One attention, or one layer of a model, compiled for every length.
 */
typedef struct attnc_kernel attnc_kernel;

/*
 A checked file.
 */
typedef struct attnc_module attnc_module;

/*
 Levels, scores and selections that a launch has handed back.
 */
typedef struct attnc_returned attnc_returned;

/*
 Threads to run kernels on.
 */
typedef struct attnc_threads attnc_threads;

/*
 What a function returns.
 */
typedef int32_t attnc_status;

/*
 A param and its value, as it would stand in the file.
 */
typedef struct {
  /*
   sizeof(attnc_setting), the same for all of a list.
   */
  size_t size;
  /*
   Its name.
   */
  const char *name;
  /*
   Its value.
   */
  const char *value;
} attnc_setting;

/*
 How to compile.
 */
typedef struct {
  /*
   sizeof(attnc_options)
   */
  size_t size;
  /*
   "cpu", "cpu:scalar", "cpu:avx2", "cpu:avx512" or "oracle"; NULL is "cpu".
   */
  const char *target;
  /*
   Values of params.
   */
  const attnc_setting *set;
  /*
   How many.
   */
  size_t set_count;
  /*
   Where compiled kernels are kept for other processes: a directory, or "" for the user's own ($ATTNC_CACHE, else
   attnc in the user's directory for caches). NULL keeps nothing.
   */
  const char *cache;
} attnc_options;

/*
 Lengths and counts.
 */
typedef struct {
  /*
   sizeof(attnc_shape)
   */
  size_t size;
  /*
   Batch items.
   */
  int64_t batch;
  /*
   Query heads.
   */
  int64_t heads;
  /*
   Queries.
   */
  int64_t queries;
  /*
   Keys.
   */
  int64_t keys;
  /*
   Dimension of queries and keys.
   */
  int64_t dim;
  /*
   Dimension of values.
   */
  int64_t dim_v;
  /*
   Bytes of an element.
   */
  int64_t element;
  /*
   Threads.
   */
  int64_t threads;
} attnc_shape;

/*
 A name and a number.
 */
typedef struct {
  /*
   sizeof(attnc_size), the same for all of a list.
   */
  size_t size;
  /*
   Its name in the file.
   */
  const char *name;
  /*
   Its value.
   */
  int64_t value;
} attnc_size;

/*
 A map of the file: bytes of pairs, or compressed rows.
 */
typedef struct {
  /*
   sizeof(attnc_map), the same for all of a list.
   */
  size_t size;
  /*
   Its name in the file.
   */
  const char *name;
  /*
   Row-major bytes, 0 is not in the set; NULL of a map that is csr.
   */
  const uint8_t *data;
  /*
   Extents of data: rows and columns, with heads before them if the map has heads.
   */
  const size_t *shape;
  /*
   Number of extents.
   */
  size_t ndim;
  /*
   Offsets of compressed rows.
   */
  const int64_t *indptr;
  /*
   How many.
   */
  size_t indptr_count;
  /*
   Columns of compressed rows.
   */
  const int64_t *indices;
  /*
   How many.
   */
  size_t indices_count;
} attnc_map;

/*
 A tensor of the file.
 */
typedef struct {
  /*
   sizeof(attnc_reals), the same for all of a list.
   */
  size_t size;
  /*
   Its name in the file.
   */
  const char *name;
  /*
   Row-major elements.
   */
  const float *data;
  /*
   Extents.
   */
  const size_t *shape;
  /*
   Number of extents.
   */
  size_t ndim;
} attnc_reals;

/*
 A level ("g.k"), a score or a selection of the file: row-major, of four axes: batch, heads, rows, and dimension,
 candidates or slots.
 */
typedef struct {
  /*
   sizeof(attnc_supplied), the same for all of a list.
   */
  size_t size;
  /*
   Its name in the file.
   */
  const char *name;
  /*
   Elements of a level or a score; NULL of a selection.
   */
  const float *data;
  /*
   Elements of a selection: slots, and -1 behind the last of a row; NULL of a level or a score.
   */
  const int32_t *slots;
  /*
   Extents.
   */
  const size_t *shape;
  /*
   Number of extents: 4.
   */
  size_t ndim;
} attnc_supplied;

/*
 What a kernel is given.
 */
typedef struct {
  /*
   sizeof(attnc_problem)
   */
  size_t size;
  /*
   [batch, heads, queries, dim], or without the batch; float32, float16 or bfloat16, of any strides.
   */
  const DLTensor *q;
  /*
   [batch, kv_heads, keys, dim]
   */
  const DLTensor *k;
  /*
   [batch, kv_heads, keys, dim_v]
   */
  const DLTensor *v;
  /*
   [batch, heads, queries, dim_v]: written.
   */
  const DLTensor *out;
  /*
   [batch, heads, queries] of float32: written; NULL if it is not wanted.
   */
  const DLTensor *lse;
  /*
   Position of the first query, or ATTNC_UNSET.
   */
  int64_t q_start;
  /*
   Position of the first key, or ATTNC_UNSET.
   */
  int64_t k_start;
  /*
   Sizes that the file declares.
   */
  const attnc_size *sizes;
  /*
   How many.
   */
  size_t sizes_count;
  /*
   Where documents begin, and the end of the last.
   */
  const int64_t *docs;
  /*
   How many offsets.
   */
  size_t docs_count;
  /*
   Maps that the file declares.
   */
  const attnc_map *maps;
  /*
   How many.
   */
  size_t maps_count;
  /*
   Tensors that the file declares.
   */
  const attnc_reals *tensors;
  /*
   How many.
   */
  size_t tensors_count;
  /*
   Queries and keys of each batch item where it is padded: two numbers an item.
   */
  const int64_t *lengths;
  /*
   How many items; 0 if none is padded.
   */
  size_t lengths_count;
  /*
   Memory to work in, see attnc_workspace_bytes; NULL allocates it.
   */
  void *workspace;
  /*
   Bytes of it.
   */
  size_t workspace_bytes;
  /*
   Threads to run on; NULL is as many as there are cores.
   */
  const attnc_threads *threads;
  /*
   Levels, scores and selections that are given instead of being computed.
   */
  const attnc_supplied *supplied;
  /*
   How many.
   */
  size_t supplied_count;
} attnc_problem;

/*
 What a launch will do, counted before it runs.
 */
typedef struct {
  /*
   sizeof(attnc_cost)
   */
  size_t size;
  /*
   Pairs of query and key.
   */
  uint64_t entries;
  /*
   Operations of both products on these.
   */
  uint64_t useful_flops;
  /*
   Operations of both products that are executed.
   */
  uint64_t executed_flops;
  /*
   Full tiles.
   */
  uint64_t full_tiles;
  /*
   Partial tiles.
   */
  uint64_t partial_tiles;
  /*
   Rows without keys.
   */
  uint64_t empty_rows;
  /*
   Keys of the longest row.
   */
  uint64_t max_row;
  /*
   Bytes that are read and written once.
   */
  uint64_t bytes_min;
  /*
   Bytes that are read and written tile by tile.
   */
  uint64_t bytes_tiles;
} attnc_cost;

/*
 Done.
 */
#define ATTNC_OK 0

/*
 Something is wrong with a source file.
 */
#define ATTNC_COMPILE 1

/*
 An argument is null where it may not be, a handle that was freed, or a structure of an unknown size.
 */
#define ATTNC_ARGUMENT 2

/*
 This machine lacks the target.
 */
#define ATTNC_TARGET 3

/*
 What a kernel was given does not fit; nothing was written.
 */
#define ATTNC_RUN 4

/*
 A mistake of this library.
 */
#define ATTNC_INTERNAL 101

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 The version of the library, as in "0.1.0".
 */
const char *attnc_version(void);

/*
 What the last function that failed on this thread said, as the command line draws it; "" if none did. It lives until
 the next call on this thread.
 */
const char *attnc_last_error(void);

/*
 The same as JSON of schema "attnc.diagnostics/1": code, severity, message, help and places of each diagnostic.
 */
const char *attnc_last_error_json(void);

/*
 Compiles a file and all that it imports. `options` may be NULL.

 # Safety
 `path` is a string that ends with a zero, `options` NULL or a structure of the size that it says, `out` a place for a
 handle.
 */
attnc_status attnc_compile_file(const char *path,
                                const attnc_options *options,
                                attnc_module **out);

/*
 Compiles a text of `length` bytes, which imports from "std" only. `options` may be NULL.

 # Safety
 `source` has `length` bytes; the others are as for attnc_compile_file.
 */
attnc_status attnc_compile_text(const char *source,
                                size_t length,
                                const attnc_options *options,
                                attnc_module **out);

/*
 Makes a kernel of a pattern, an attention, or a layer of a model. A `name` of NULL is the only one that the file has.

 # Safety
 `name` is NULL or a string that ends with a zero, `out` a place for a handle.
 */
attnc_status attnc_module_kernel(const attnc_module *module,
                                 const char *name,
                                 int64_t layer,
                                 int64_t step,
                                 attnc_kernel **out);

/*
 Starts threads to run kernels on.

 # Safety
 `out` is a place for a handle.
 */
attnc_status attnc_threads_new(size_t count, attnc_threads **out);

/*
 Frees a module; kernels made of it live on. NULL and what was freed before are left alone.
 */
void attnc_module_free(attnc_module *module);

/*
 Frees a kernel; a launch that runs it is not disturbed.
 */
void attnc_kernel_free(attnc_kernel *kernel);

/*
 Ends threads, when no launch runs on them any more.
 */
void attnc_threads_free(attnc_threads *threads);

/*
 Bytes of working memory with which attnc_run allocates none for it.

 # Safety
 `shape` is a structure of the size that it says, `out` a place for a number.
 */
attnc_status attnc_workspace_bytes(const attnc_kernel *kernel,
                                   const attnc_shape *shape,
                                   size_t *out);

/*
 Counts what a launch of these lengths will do. What a pattern reads beside them is given in `problem`, of which the
 tensors are not looked at; it may be NULL. `out->size` is sizeof(attnc_cost).

 # Safety
 Structures are of the sizes that they say, and what they point to lives as long as the call.
 */
attnc_status attnc_count(const attnc_kernel *kernel,
                         const attnc_shape *shape,
                         const attnc_problem *problem,
                         attnc_cost *out);

/*
 Computes attention: writes `out`, and `lse` unless it is NULL. Nothing is written unless ATTNC_OK is returned.

 # Safety
 The structure is of the size that it says. Tensors have as many extents as they say, and their memory may be read, and
 that of `out` and `lse` written, while the function runs; nobody else writes it meanwhile.
 */
attnc_status attnc_run(const attnc_kernel *kernel,
                       const attnc_problem *problem);

/*
 As attnc_run, and hands back the levels ("g.k"), scores and selections of these names: attnc_returned_get says where
 they lie, in the form in which `problem->supplied` takes them. Free what is handed back with attnc_returned_free.

 # Safety
 As for attnc_run; `names` are `count` strings that end with a zero, `out` is a place for a handle.
 */
attnc_status attnc_run_returning(const attnc_kernel *kernel,
                                 const attnc_problem *problem,
                                 const char *const *names,
                                 size_t count,
                                 attnc_returned **out);

/*
 Where the level, score or selection of the name number `index` lies, until it is freed. `out->size` is
 sizeof(attnc_supplied).

 # Safety
 `out` is a structure of the size that it says.
 */
attnc_status attnc_returned_get(const attnc_returned *returned,
                                size_t index,
                                attnc_supplied *out);

/*
 Frees what was handed back. NULL and what was freed before are left alone.
 */
void attnc_returned_free(attnc_returned *returned);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ATTNC_H */
