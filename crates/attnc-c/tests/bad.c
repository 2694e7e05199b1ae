/* Bad input: every call fails with a status and a sentence that names the argument, and nothing is written. */
#include <attnc.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed = 0;

static void expect(int line, attnc_status status, attnc_status wanted, const char *says) {
  const char *text = attnc_last_error(), *json = attnc_last_error_json();
  if (status != wanted || !strstr(text, says) || !strstr(json, "\"schema\":\"attnc.diagnostics/1\"")) {
    printf("line %d: status %d, expected %d; expected to read \"%s\" in:\n%s\n%s\n", line, status, wanted, says, text, json);
    failed = 1;
  }
}

#define EXPECT(call, status, says) expect(__LINE__, (call), (status), (says))

static const char *LOCAL = "pattern local = q - k in 0 .. 4\n";

int main(void) {
  attnc_module *module = NULL, *none = NULL;
  attnc_kernel *kernel = NULL, *no_kernel = NULL;
  attnc_threads *threads = NULL;

  EXPECT(attnc_compile_text("pattern p = windw\n", 18, NULL, &none), ATTNC_COMPILE, "windw");
  EXPECT(attnc_compile_text("pattern p = \xff\n", 14, NULL, &none), ATTNC_ARGUMENT, "`source` is not UTF-8");
  EXPECT(attnc_compile_text(NULL, 5, NULL, &none), ATTNC_ARGUMENT, "`source` is null");
  EXPECT(attnc_compile_text(LOCAL, strlen(LOCAL), NULL, NULL), ATTNC_ARGUMENT, "`out` is null");
  EXPECT(attnc_compile_file("no/such.attn", NULL, &none), ATTNC_COMPILE, "no/such.attn");
  EXPECT(attnc_compile_file(NULL, NULL, &none), ATTNC_ARGUMENT, "`path` is null");
  attnc_options options = {.size = 3};
  EXPECT(attnc_compile_text(LOCAL, strlen(LOCAL), &options, &none), ATTNC_ARGUMENT, "`options` has a size of 3");
  options.size = sizeof options;
  options.set_count = 1;
  EXPECT(attnc_compile_text(LOCAL, strlen(LOCAL), &options, &none), ATTNC_ARGUMENT, "`options.set` is null");
  options.set_count = 0, options.cache = "\xff";
  EXPECT(attnc_compile_text(LOCAL, strlen(LOCAL), &options, &none), ATTNC_ARGUMENT, "`options.cache` is not UTF-8");
  options.set_count = 1, options.cache = NULL;
  attnc_setting set = {2, "width", NULL};
  options.set = &set;
  EXPECT(attnc_compile_text(LOCAL, strlen(LOCAL), &options, &none), ATTNC_ARGUMENT, "`options.set` has a size of 2");
  set.size = sizeof set;
  options.set = &set;
  EXPECT(attnc_compile_text(LOCAL, strlen(LOCAL), &options, &none), ATTNC_ARGUMENT, "`options.set` has no value");
  set.value = "3";
  EXPECT(attnc_compile_text(LOCAL, strlen(LOCAL), &options, &none), ATTNC_COMPILE, "no param `width`");
  options.set_count = 0;
  options.target = "gpux";
  EXPECT(attnc_compile_text(LOCAL, strlen(LOCAL), &options, &none), ATTNC_ARGUMENT, "`options.target`");
  if (none) return 2;

  if (attnc_compile_text(LOCAL, strlen(LOCAL), NULL, &module)) return 2;
  EXPECT(attnc_module_kernel(module, "far", 0, 0, &no_kernel), ATTNC_COMPILE, "far");
  EXPECT(attnc_module_kernel(module, NULL, -1, 0, &no_kernel), ATTNC_RUN, "layer -1");
  EXPECT(attnc_module_kernel(NULL, NULL, 0, 0, &no_kernel), ATTNC_ARGUMENT, "`module` is no module");
  EXPECT(attnc_module_kernel((attnc_module *)&failed, NULL, 0, 0, &no_kernel), ATTNC_ARGUMENT, "`module` is no module");
  if (attnc_module_kernel(module, "local", 0, 0, &kernel)) return 2;
  EXPECT(attnc_module_kernel((attnc_module *)kernel, NULL, 0, 0, &no_kernel), ATTNC_ARGUMENT, "`module` is no module");
  EXPECT(attnc_threads_new(0, &threads), ATTNC_ARGUMENT, "`count`");

  float data[4][80], lse_data[20];
  for (int i = 0; i < 4 * 80; i++) data[i / 80][i % 80] = 0.5f;
  int64_t shape[4] = {1, 2, 5, 8}, lse_shape[3] = {1, 2, 5};
  DLTensor t[4], lse = {lse_data, {1, 0}, 3, {2, 32, 1}, lse_shape, NULL, 0};
  for (int i = 0; i < 4; i++) {
    DLTensor plain = {data[i], {1, 0}, 4, {2, 32, 1}, shape, NULL, 0};
    t[i] = plain;
  }
  attnc_problem good = {.size = sizeof good, .q = &t[0], .k = &t[1], .v = &t[2], .out = &t[3], .lse = &lse,
                        .q_start = ATTNC_UNSET, .k_start = ATTNC_UNSET};
  attnc_problem p = good;
  EXPECT(attnc_run(NULL, &p), ATTNC_ARGUMENT, "`kernel` is no kernel");
  EXPECT(attnc_run(kernel, NULL), ATTNC_ARGUMENT, "`problem` is null");
  p.size = 8;
  EXPECT(attnc_run(kernel, &p), ATTNC_ARGUMENT, "`problem` has a size of 8");
  p = good, p.v = NULL;
  EXPECT(attnc_run(kernel, &p), ATTNC_ARGUMENT, "`v` is null");

  DLTensor bad = t[1];
  p = good, p.k = &bad;
  bad.device.device_type = 2, bad.device.device_id = 1;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`k` is on device cuda:1");
  bad = t[1], bad.dtype.bits = 64;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`k` has elements of float64");
  bad = t[1], bad.ndim = 2;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`k` has 2 axes");
  bad = t[1], bad.ndim = -1;
  EXPECT(attnc_run(kernel, &p), ATTNC_ARGUMENT, "`k` has no shape");
  bad = t[1], bad.data = NULL;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`k` has no memory");
  bad = t[1], bad.byte_offset = 2;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`k` cannot be used where it lies");
  int64_t negative[4] = {1, 2, -5, 8}, huge[4] = {1, INT64_MAX / 2, INT64_MAX / 2, 8};
  bad = t[1], bad.shape = negative;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`k` has an extent of -5");
  bad = t[1], bad.shape = huge;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`k` cannot be used where it lies");
  int64_t narrow[4] = {1, 2, 5, 7};
  bad = t[1], bad.shape = narrow;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`k`");

  int64_t overlap[4] = {80, 0, 8, 1};
  p = good, p.out = &bad, bad = t[3], bad.strides = overlap;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`out` cannot be used where it lies");
  p = good, p.out = &t[0];
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`out` shares memory with `q`");
  p = good, bad = lse, bad.data = data[3], p.lse = &bad;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`lse` shares memory with `out`");
  p = good, p.threads = (attnc_threads *)kernel;
  EXPECT(attnc_run(kernel, &p), ATTNC_ARGUMENT, "`problem.threads`");
  char small[16];
  p = good, p.workspace = small, p.workspace_bytes = sizeof small;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "working memory");
  p = good, p.workspace = data[2], p.workspace_bytes = 16;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`workspace` shares memory with `v`");
  p = good, p.workspace = lse_data, p.workspace_bytes = 16;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`workspace` shares memory with `lse`");
  int64_t dense_shape[2] = {5, 5};
  attnc_map map = {.size = sizeof map, .name = "keep", .data = (const uint8_t *)data[3], .shape = (const size_t *)dense_shape, .ndim = 2};
  p = good, p.maps = &map, p.maps_count = 1;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`out` shares memory with `keep`");
  map.data = (const uint8_t *)data[2];
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "no map named `keep`");
  bad = t[1], bad.dtype.lanes = 2;
  p = good, p.k = &bad;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`k` has elements of");
  int64_t three[4] = {1, 3, 5, 8};
  bad = t[3], bad.shape = three;
  p = good, p.out = NULL;
  EXPECT(attnc_run(kernel, &p), ATTNC_ARGUMENT, "`out` is null");
  bad = t[3], bad.device.device_type = 2;
  p = good, p.out = &bad;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "`out` is on device cuda:0");
  bad = lse, bad.dtype.bits = 16;
  p = good, p.lse = &bad;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "lse");
  p = good, p.docs = (const int64_t *)data[0], p.docs_count = SIZE_MAX / 2;
  EXPECT(attnc_run(kernel, &p), ATTNC_ARGUMENT, "`problem.docs` is longer than any memory");
  attnc_size two[2] = {{sizeof two[0], "n", 1}, {sizeof two[0] + 8, "n", 1}};
  p = good, p.sizes = two, p.sizes_count = 2;
  EXPECT(attnc_run(kernel, &p), ATTNC_ARGUMENT, "`problem.sizes` has elements of several sizes");
  p = good, p.docs_count = 3;
  EXPECT(attnc_run(kernel, &p), ATTNC_ARGUMENT, "`problem.docs` is null");
  int64_t lengths[2] = {6, 5};
  p = good, p.lengths = lengths, p.lengths_count = 1;
  EXPECT(attnc_run(kernel, &p), ATTNC_RUN, "batch item 0 has 6 queries");

  attnc_shape s = {.size = sizeof s, .batch = 1, .heads = 1, .queries = 5, .keys = 5, .dim = 8, .dim_v = 8, .element = 4, .threads = 1};
  attnc_cost cost = {.size = 1};
  size_t bytes = 0;
  EXPECT(attnc_count(kernel, &s, NULL, &cost), ATTNC_ARGUMENT, "`out` is too small");
  EXPECT(attnc_count(kernel, &s, NULL, NULL), ATTNC_ARGUMENT, "`out` is null");
  EXPECT(attnc_workspace_bytes(kernel, &s, NULL), ATTNC_ARGUMENT, "`out` is null");
  cost.size = sizeof cost + 8;
  s.batch = 0;
  EXPECT(attnc_count(kernel, &s, NULL, &cost), ATTNC_ARGUMENT, "`shape`");
  s.batch = 1, s.heads = (int64_t)1 << 45;
  EXPECT(attnc_workspace_bytes(kernel, &s, &bytes), ATTNC_RUN, "35184372088832 heads");
  EXPECT(attnc_count(kernel, &s, NULL, &cost), ATTNC_RUN, "heads");
  s.heads = 1, s.queries = -1;
  EXPECT(attnc_workspace_bytes(kernel, &s, &bytes), ATTNC_ARGUMENT, "`shape.queries` is negative");
  s.size = 0;
  EXPECT(attnc_workspace_bytes(kernel, &s, &bytes), ATTNC_ARGUMENT, "`shape` has a size of 0");

  for (int i = 0; i < 80; i++)
    if (data[3][i] != 0.5f) printf("written by a refused call\n"), failed = 1;
  if (attnc_run(kernel, &good) || *attnc_last_error()) printf("%s", attnc_last_error()), failed = 1;

  /* What is handed back is given to the next launch, which then writes the same; what does not fit is refused. */
  static const char *CHOSEN = "level g = mean(2) of k\nselect best = top 2 of dot(q, g.k) per q among tokens within causal\n"
                              "attention of_best {\n  empty = zero\n  attend causal & best\n}\n";
  attnc_module *chosen = NULL;
  attnc_kernel *choosing = NULL;
  attnc_returned *back = NULL;
  if (attnc_compile_text(CHOSEN, strlen(CHOSEN), NULL, &chosen)) return 2;
  if (attnc_module_kernel(chosen, "of_best", 0, 0, &choosing)) return 2;
  const char *names[3] = {"best", "g.k", "far"};
  for (int i = 0; i < 80; i++) data[0][i] = (float)(i % 7), data[1][i] = (float)(i % 5);
  p = good;
  EXPECT(attnc_run_returning(choosing, &p, names, 3, &back), ATTNC_RUN, "no level, score or selection named `far`");
  EXPECT(attnc_run_returning(choosing, &p, names, 2, NULL), ATTNC_ARGUMENT, "`out` is null");
  EXPECT(attnc_run_returning(choosing, &p, NULL, 2, &back), ATTNC_ARGUMENT, "`names` is null");
  if (back || attnc_run_returning(choosing, &p, names, 2, &back)) return 2;
  attnc_supplied given[2] = {{.size = sizeof given[0]}, {.size = sizeof given[0]}}, none_given = {.size = 8};
  if (attnc_returned_get(back, 0, &given[0]) || attnc_returned_get(back, 1, &given[1])) return 2;
  EXPECT(attnc_returned_get(back, 2, &given[0]), ATTNC_ARGUMENT, "`index` is beyond the last name");
  EXPECT(attnc_returned_get(back, 0, &none_given), ATTNC_ARGUMENT, "`out` is too small");
  if (!given[0].slots || given[0].data || given[0].shape[2] != 5 || given[0].shape[3] != 2) failed = 1;
  if (!given[1].data || given[1].shape[2] != 3 || given[1].shape[3] != 8) failed = 1;
  float first[80];
  memcpy(first, data[3], sizeof first);
  p.supplied = given, p.supplied_count = 2;
  if (attnc_run(choosing, &p) || memcmp(first, data[3], sizeof first)) printf("another output\n"), failed = 1;
  int32_t slots[20] = {9};
  given[0].slots = slots;
  EXPECT(attnc_run(choosing, &p), ATTNC_RUN, "there is no slot 9");
  given[0].data = first;
  EXPECT(attnc_run(choosing, &p), ATTNC_ARGUMENT, "`problem.supplied` has both data and slots");
  attnc_returned_free(back);
  attnc_returned_free(back);
  attnc_returned_free((attnc_returned *)kernel);
  EXPECT(attnc_returned_get(back, 0, &given[0]), ATTNC_ARGUMENT, "`returned` is nothing that was handed back");
  attnc_kernel_free(choosing);
  attnc_module_free(chosen);

  /* The kernel outlives its module, and nothing outlives itself. */
  attnc_module_free(module);
  attnc_module_free(module);
  attnc_module_free(NULL);
  if (attnc_run(kernel, &good)) failed = 1;
  EXPECT(attnc_module_kernel(module, NULL, 0, 0, &no_kernel), ATTNC_ARGUMENT, "`module` is no module, or was freed");
  attnc_module_free((attnc_module *)kernel);
  if (attnc_run(kernel, &good)) failed = 1;
  attnc_kernel_free(kernel);
  attnc_kernel_free(kernel);
  EXPECT(attnc_run(kernel, &good), ATTNC_ARGUMENT, "`kernel` is no kernel, or was freed");
  s.queries = 5;
  EXPECT(attnc_count(kernel, &s, NULL, &cost), ATTNC_ARGUMENT, "`kernel` is no kernel, or was freed");
  EXPECT(attnc_workspace_bytes(kernel, &s, &bytes), ATTNC_ARGUMENT, "`kernel` is no kernel, or was freed");
  return failed;
}
