/*
 * A host program in C: compiles a pattern once, runs it at several lengths on strided memory, and decodes token by
 * token in memory that is allocated once.
 *
 *     cargo build --release -p attnc-c
 *     crates/attnc-c/install.sh /usr/local
 *     cc examples/embed.c $(pkg-config --cflags --libs attnc) -lm -o embed && ./embed
 */
#include <attnc.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 4, KV_HEADS = 2, DIM = 32, WINDOW = 16 };

static const char *PATTERN =
    "param width = 1024\n"
    "\n"
    "attention streaming {\n"
    "  align = end\n"
    "  attend causal & (q - k in 0 .. width | k in 0 .. 4)\n"
    "}\n";

/* Ends the program with what the library says. */
static void check(attnc_status status) {
  if (status != ATTNC_OK) {
    fprintf(stderr, "%s", attnc_last_error());
    exit(1);
  }
}

/* Numbers that stand for the host's activations. */
static void fill(float *data, size_t count, float phase) {
  for (size_t i = 0; i < count; i++) data[i] = sinf((float)i * 0.37f + phase);
}

/* [1, heads, tokens, dim] in memory laid out [tokens, heads, dim]. */
static DLTensor tensor(float *data, int64_t shape[4], int64_t strides[4], int64_t heads, int64_t tokens) {
  int64_t extents[4] = {1, heads, tokens, DIM}, steps[4] = {0, DIM, heads * DIM, 1};
  memcpy(shape, extents, sizeof extents);
  memcpy(strides, steps, sizeof steps);
  DLTensor t = {data, {1, 0}, 4, {2, 32, 1}, shape, strides, 0};
  return t;
}

/* One element of the output by the definition. */
static double expected(const float *q, const float *k, const float *v, int head, int row, int col) {
  double top = -INFINITY, sum = 0, value = 0;
  for (int pass = 0; pass < 2; pass++) {
    for (int key = 0; key <= row; key++) {
      if (row - key >= WINDOW && key >= 4) continue;
      double s = 0;
      for (int d = 0; d < DIM; d++)
        s += (double)q[(row * HEADS + head) * DIM + d] * k[(key * KV_HEADS + head / 2) * DIM + d];
      s /= sqrt(DIM);
      if (pass == 0) {
        top = fmax(top, s);
      } else {
        sum += exp(s - top);
        value += exp(s - top) * v[(key * KV_HEADS + head / 2) * DIM + col];
      }
    }
  }
  return value / sum;
}

static double prefill(const attnc_kernel *kernel, int tokens) {
  float *q = malloc(sizeof(float) * tokens * HEADS * DIM), *out = malloc(sizeof(float) * tokens * HEADS * DIM);
  float *k = malloc(sizeof(float) * tokens * KV_HEADS * DIM), *v = malloc(sizeof(float) * tokens * KV_HEADS * DIM);
  fill(q, (size_t)tokens * HEADS * DIM, 0);
  fill(k, (size_t)tokens * KV_HEADS * DIM, 1);
  fill(v, (size_t)tokens * KV_HEADS * DIM, 2);
  int64_t shapes[4][4], strides[4][4];
  DLTensor tq = tensor(q, shapes[0], strides[0], HEADS, tokens);
  DLTensor tk = tensor(k, shapes[1], strides[1], KV_HEADS, tokens);
  DLTensor tv = tensor(v, shapes[2], strides[2], KV_HEADS, tokens);
  DLTensor to = tensor(out, shapes[3], strides[3], HEADS, tokens);
  attnc_problem problem = {
      .size = sizeof problem, .q = &tq, .k = &tk, .v = &tv, .out = &to, .q_start = ATTNC_UNSET, .k_start = ATTNC_UNSET};
  check(attnc_run(kernel, &problem));
  double worst = 0;
  for (int row = 0; row < tokens; row += 7)
    for (int head = 0; head < HEADS; head++)
      worst = fmax(worst, fabs(out[(row * HEADS + head) * DIM + 5] - expected(q, k, v, head, row, 5)));
  free(q), free(k), free(v), free(out);
  return worst;
}

/* One query at a time against a cache that grows; the memory to work in is the host's. */
static void decode(const attnc_kernel *kernel, const attnc_threads *threads, int steps) {
  attnc_shape shape = {.size = sizeof shape, .batch = 1, .heads = HEADS, .queries = 1, .keys = steps, .dim = DIM,
                       .dim_v = DIM, .element = sizeof(float), .threads = 1};
  size_t bytes = 0;
  check(attnc_workspace_bytes(kernel, &shape, &bytes));
  void *workspace = malloc(bytes);
  float q[HEADS * DIM], out[HEADS * DIM], *k = malloc(sizeof(float) * steps * KV_HEADS * DIM);
  fill(k, (size_t)steps * KV_HEADS * DIM, 1);
  for (int step = 0; step < steps; step++) {
    fill(q, HEADS * DIM, (float)step);
    int64_t shapes[3][4], strides[3][4];
    DLTensor tq = tensor(q, shapes[0], strides[0], HEADS, 1), to = tensor(out, shapes[1], strides[1], HEADS, 1);
    DLTensor tk = tensor(k, shapes[2], strides[2], KV_HEADS, step + 1);
    attnc_problem problem = {.size = sizeof problem, .q = &tq, .k = &tk, .v = &tk, .out = &to, .q_start = ATTNC_UNSET,
                             .k_start = ATTNC_UNSET, .workspace = workspace, .workspace_bytes = bytes, .threads = threads};
    check(attnc_run(kernel, &problem));
  }
  printf("%d steps of decoding, %zu bytes of workspace\n", steps, bytes);
  free(workspace), free(k);
}

int main(void) {
  attnc_setting set = {.size = sizeof set, .name = "width", .value = "16"};
  attnc_options options = {.size = sizeof options, .set = &set, .set_count = 1, .cache = ""};
  attnc_module *module = NULL;
  attnc_kernel *kernel = NULL;
  attnc_threads *threads = NULL;
  check(attnc_compile_text(PATTERN, strlen(PATTERN), &options, &module));
  check(attnc_module_kernel(module, NULL, 0, 0, &kernel));
  check(attnc_threads_new(1, &threads));

  attnc_shape shape = {.size = sizeof shape, .batch = 1, .heads = HEADS, .queries = 1000, .keys = 1000, .dim = DIM,
                       .dim_v = DIM, .element = sizeof(float), .threads = 1};
  attnc_cost cost = {.size = sizeof cost};
  check(attnc_count(kernel, &shape, NULL, &cost));
  printf("attnc %s: 1000 tokens are %llu pairs\n", attnc_version(), (unsigned long long)cost.entries);

  int lengths[] = {1, 50, 300};
  for (int i = 0; i < 3; i++) {
    double worst = prefill(kernel, lengths[i]);
    printf("%d tokens: %s\n", lengths[i], worst < 1e-5 ? "as defined" : "WRONG");
    if (!(worst < 1e-5)) return 1;
  }
  decode(kernel, threads, 40);

  attnc_threads_free(threads);
  attnc_kernel_free(kernel);
  attnc_module_free(module);
  return 0;
}
