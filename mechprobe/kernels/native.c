/* What is read off rows of logits, in one call: see kernels/native.py for what the numbers mean. */
#include "native.h"

#define CHUNK 1024 /* columns summed in float before they are added in double */

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
        out.rank[row * n_targets + t] = above;
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
