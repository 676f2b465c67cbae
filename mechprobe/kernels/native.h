/* What the sources share: the largest few, an exponential, products in double, and results. */
#ifndef MECHPROBE_NATIVE_H
#define MECHPROBE_NATIVE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 64 /* columns of one maximum */
#define MAX_TOP 64
#define MAX_TARGETS 16
#define LANES 16 /* numbers side by side in a register */

typedef struct {
    int64_t *top_id;
    float *top_log_prob, *log_z, *entropy, *cross, *target_log_prob;
    int64_t *rank;
} Cells;

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

static inline float wide(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* In many sums side by side: added one after the other, each addition would wait for the last. */
static inline double dot(const double *restrict x, const float *restrict w, long n)
{
    double sums[2 * LANES] = {0}, rest = 0;
    long i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES)
#pragma omp simd
        for (long j = 0; j < 2 * LANES; j++)
            sums[j] += x[i + j] * w[i + j];
    for (; i < n; i++)
        rest += x[i] * w[i];
    for (long half = LANES; half > 0; half /= 2)
        for (long j = 0; j < half; j++)
            sums[j] += sums[j + half];
    return rest + sums[0];
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

#endif
