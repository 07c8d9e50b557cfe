/* A context cache from C: two chunks go into the ring, attention reads them in place, an interrupt takes one back.
 * All keys are alike, so attention is the mean of all values, and the results are known. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <streamchar/streamchar.h>

enum { HEADS = 2, DIM = 64, ROW = HEADS * DIM, MOST = 8 };

static void check(sc_status status) {
  char message[400];
  if (status == SC_OK) return;
  sc_last_error_message(message, sizeof message);
  fprintf(stderr, "%s: %s\n", sc_status_name(status), message);
  exit(1);
}

static sc_tokens tokens_of(int count, float value) {
  static float ones[MOST * ROW], values[MOST * ROW];
  sc_tokens tokens;
  int i;
  for (i = 0; i < count * ROW; ++i) {
    ones[i] = 1.0f;
    values[i] = value;
  }
  sc_tokens_init(&tokens, sizeof tokens);
  tokens.count = count;
  tokens.q.data = tokens.k.data = ones;
  tokens.v.data = values;
  tokens.q.token_stride = tokens.k.token_stride = tokens.v.token_stride = ROW;
  tokens.q.head_stride = tokens.k.head_stride = tokens.v.head_stride = DIM;
  return tokens;
}

static int expect(const char *what, float got, float wanted) {
  const int right = fabsf(got - wanted) < 1e-5f;
  printf("%s: %.4f, %s\n", what, got, right ? "as it should be" : "WRONG");
  return right;
}

int main(void) {
  const sc_segment motion = {"motion", MOST, 2, 1, 1}; /* two chunks live, one more kept: a ring */
  const sc_read both[2] = {{0, 1, NULL}, {0, 0, NULL}};
  sc_context_params params;
  sc_context *context = NULL;
  sc_tokens tokens;
  float out[MOST * ROW];
  int right;

  sc_context_params_init(&params, sizeof params);
  params.layers = 1;
  params.heads = HEADS;
  params.head_dim = DIM;
  params.segments = &motion;
  params.segment_count = 1;
  check(sc_context_create(&params, &context));

  tokens = tokens_of(3, 1.0f); /* three tokens of value 1, then five of value 4 */
  check(sc_context_append(context, 0, 0, &tokens));
  check(sc_context_commit(context, 0, SC_NEXT_LABEL));
  tokens = tokens_of(5, 4.0f);
  check(sc_context_append(context, 0, 0, &tokens));
  check(sc_context_commit(context, 0, SC_NEXT_LABEL));

  tokens = tokens_of(2, 10.0f); /* two new tokens see both chunks and themselves */
  check(sc_context_attend(context, 0, &tokens, both, 2, SC_NO_SEGMENT, out));
  right = expect("mean of all", out[0], (3 * 1.0f + 5 * 4.0f + 2 * 10.0f) / 10);

  check(sc_context_rewind(context, 0, 0)); /* interrupted after chunk 0 */
  check(sc_context_attend(context, 0, &tokens, both + 1, 1, SC_NO_SEGMENT, out));
  right &= expect("after the rewind", out[0], (3 * 1.0f + 2 * 10.0f) / 5);

  sc_context_destroy(context);
  return right ? 0 : 1;
}
