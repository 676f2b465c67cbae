/* What is read off rows of logits, in one call: see kernels/native.py for what the numbers mean. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 64 /* columns of one maximum */
#define MAX_TOP 64
#define MAX_TARGETS 16
#define CHUNK 1024 /* columns summed in float before they are added in double */

/* Where results go, in the order that is told to Python. */
typedef struct {
    int64_t *top_id;
    float *top_log_prob, *log_z, *entropy, *cross, *target_log_prob;
    int64_t *target_rank;
} Cells;

const char fields[] = "top_id top_log_prob log_z entropy cross target_log_prob target_rank";

/* The k largest so far, largest first; of equals the one that came first. */
typedef struct {
    long k, n;
    double value[MAX_TOP];
    int64_t id[MAX_TOP];
} Top;

static inline void offer(Top *top, double value, int64_t id)
{
    if (top->n == top->k && !(value > top->value[top->k - 1]))
        return;
    long at = top->n < top->k ? top->n++ : top->k - 1;
    for (; at > 0 && value > top->value[at - 1]; at--) {
        top->value[at] = top->value[at - 1];
        top->id[at] = top->id[at - 1];
    }
    top->value[at] = value;
    top->id[at] = id;
}

/* No other can be among the k largest. */
static inline double least_of(const Top *top)
{
    return top->n < top->k ? -INFINITY : top->value[top->k - 1];
}

/* exp(x) to 2 units in the last place, x <= 0; of less than -87 that of -87. */
static inline float exp_of(float x)
{
    x = x > -87.0f ? x : -87.0f;
    float n = rintf(x * 1.44269504f);
    float f = fmaf(n, -0.693359375f, x);
    f = fmaf(n, 2.12194440e-4f, f);
    float p = 1.9875691500e-4f;
    p = fmaf(p, f, 1.3981999507e-3f);
    p = fmaf(p, f, 8.3334519073e-3f);
    p = fmaf(p, f, 4.1665795894e-2f);
    p = fmaf(p, f, 1.6666665459e-1f);
    p = fmaf(p, f, 5.0000001201e-1f);
    p = fmaf(p * f, f, f) + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

static inline long until(long at, long step, long end) { return at + step < end ? at + step : end; }

/* Sums are of exp(z - best): `inner` of that times z - best, `with_ref` of the reference times it. */
static inline void store(Cells out, long row, long n_targets, const Top *top, double best,
                         double total, double inner, double with_ref, const double *at_target)
{
    double log_sum = log(total);
    for (long i = 0; i < top->k; i++) {
        out.top_id[row * top->k + i] = top->id[i];
        out.top_log_prob[row * top->k + i] = (float)(top->value[i] - best - log_sum);
    }
    out.log_z[row] = (float)(best + log_sum);
    out.entropy[row] = (float)(log_sum - inner / total);
    out.cross[row] = (float)(log_sum - with_ref);
    for (long t = 0; t < n_targets; t++)
        out.target_log_prob[row * n_targets + t] = (float)(at_target[t] - best - log_sum);
}

/* The k-th largest block maximum: k numbers at least are no smaller. */
static double threshold(const float *maxima, long n_blocks, long k)
{
    Top top = {.k = k};
    for (long b = 0; b < n_blocks; b++)
        offer(&top, maxima[b], b);
    return least_of(&top);
}

static int reduce_row(const float *restrict z, long d_vocab, const float *restrict ref,
                      const int64_t *target, long n_targets, long k, float *restrict maxima,
                      long row, Cells out)
{
    float best = -INFINITY, least = INFINITY;
    long n_blocks = 0;
    for (long at = 0; at < d_vocab; at += BLOCK) {
        long end = until(at, BLOCK, d_vocab);
        float top = -INFINITY, low = INFINITY;
#pragma omp simd reduction(max : top) reduction(min : low)
        for (long v = at; v < end; v++) {
            top = z[v] > top ? z[v] : top;
            low = z[v] < low ? z[v] : low;
        }
        maxima[n_blocks++] = top;
        best = top > best ? top : best;
        least = low < least ? low : least;
    }
    double total = 0, inner = 0, with_ref = 0;
    for (long at = 0; at < d_vocab; at += CHUNK) {
        long end = until(at, CHUNK, d_vocab);
        float s = 0, i = 0, r = 0;
#pragma omp simd reduction(+ : s, i, r)
        for (long v = at; v < end; v++) {
            float below = z[v] - best;
            float p = exp_of(below);
            s += p;
            i += p * below;
            r += ref[v] * below;
        }
        total += s, inner += i, with_ref += r;
    }
    /* NaN and infinities are the caller's, who reads such rows step by step. */
    if (!(least >= -3e38f && best <= 3e38f && isfinite(total + inner + with_ref)))
        return 1;
    double at_target[MAX_TARGETS];
    for (long t = 0; t < n_targets; t++) {
        float than = z[target[t]];
        int above = 0;
#pragma omp simd reduction(+ : above)
        for (long v = 0; v < d_vocab; v++)
            above += z[v] > than;
        at_target[t] = than;
        out.target_rank[row * n_targets + t] = above;
    }
    Top top = {.k = k};
    double enough = threshold(maxima, n_blocks, k);
    for (long b = 0; b < n_blocks; b++)
        if (maxima[b] >= enough)
            for (long v = b * BLOCK, end = until(v, BLOCK, d_vocab); v < end; v++)
                if (z[v] >= enough)
                    offer(&top, z[v], v);
    store(out, row, n_targets, &top, best, total, inner, with_ref, at_target);
    return 0;
}

/* Returns how many rows hold something undefined; `scratch` is [n_threads, blocks]. */
long reduce(const float *z, long n_rows, long d_vocab, const float *ref, long n_pos,
            const int64_t *targets, long n_targets, long k, float *scratch, int n_threads,
            const Cells *out)
{
    long n_blocks = (d_vocab + BLOCK - 1) / BLOCK, undefined = 0;
#pragma omp parallel for num_threads(n_threads) schedule(static) reduction(+ : undefined)
    for (long part = 0; part < n_threads; part++)
        for (long r = part * n_rows / n_threads; r < (part + 1) * n_rows / n_threads; r++)
            undefined += reduce_row(z + r * d_vocab, d_vocab, ref + (r % n_pos) * d_vocab,
                                    targets + (r % n_pos) * n_targets, n_targets, k,
                                    scratch + part * n_blocks, r, *out);
    return undefined;
}
