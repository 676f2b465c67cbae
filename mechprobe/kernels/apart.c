/* Vectors rounded to bfloat16, their part in a few directions in two numbers: see kernels/screen.py. */
#include <stdlib.h>

#include "native.h"

/* Norms of a vector, in this order: see `Norms` in kernels/screen.py. */
enum { ALONG, ACROSS, ACROSS_ALONG, HIGH, LOW, LOSS, LOSS_ONCE, LOSS_TWICE, FIRST, PARTS, N_NORMS };

typedef struct {
    const float *x;  /* [vector, d_model] */
    const float *Q;  /* [direction, d_model] */
    uint16_t *parts; /* [vector, 2 * n_pairs]; of columns [block, pair, BLOCK, 2] */
    double *norms;   /* [vector, norm] */
    long n, d_model, n_directions, n_pairs;
    int as_columns;  /* what a row's high part meets, and its low part, change places */
} Apart;

/* To the nearest, of two as near to the even one. */
static inline uint16_t narrow(double value)
{
    float x = (float)value;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(isnan(x) ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void round_all(const double *restrict x, uint16_t *restrict half, long n, double *square)
{
    double kept = 0, lost = 0;
#pragma omp simd reduction(+ : kept, lost)
    for (long i = 0; i < n; i++) {
        half[i] = narrow(x[i]);
        double rounded = wide(half[i]);
        kept += rounded * rounded;
        lost += (x[i] - rounded) * (x[i] - rounded);
    }
    square[FIRST] = kept, square[LOSS] = lost;
}

static double square_of(const double *x, long n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

static void take_apart(const Apart *in, long v, double *restrict x, double *restrict across,
                       uint16_t *half)
{
    long d = in->d_model, n = in->n_directions;
    uint16_t *high = half + d, *low = high + (in->as_columns ? n : 2 * n);
    uint16_t *again = high + (in->as_columns ? 2 * n : n);
    double square[N_NORMS] = {0};
    for (long i = 0; i < d; i++)
        across[i] = x[i] = in->x[v * d + i];
    for (long j = 0; j < n; j++) {
        const float *restrict q = in->Q + j * d;
        double along = dot(x, q, d);
        again[j] = high[j] = narrow(along);
        double once = along - wide(high[j]);
        low[j] = narrow(once);
        double first = wide(high[j]), second = wide(low[j]), twice = once - second;
        for (long i = 0; i < d; i++)
            across[i] -= (first + second) * q[i];
        square[ALONG] += along * along, square[HIGH] += first * first, square[LOW] += second * second;
        square[LOSS_ONCE] += once * once, square[LOSS_TWICE] += twice * twice;
    }
    for (long j = 0; j < n && !in->as_columns; j++) {
        double still = dot(across, in->Q + j * d, d);
        square[ACROSS_ALONG] += still * still;
    }
    round_all(across, half, d, square);
    square[ACROSS] = square_of(across, d);
    square[PARTS] = square[FIRST] + 2 * square[HIGH] + square[LOW];
    for (long i = 0; i < N_NORMS; i++)
        in->norms[v * N_NORMS + i] = sqrt(square[i]);
}

/* A column's pairs lie between those of its neighbours. */
static void spread(const Apart *in, long v, const uint16_t *half)
{
    uint16_t *to = in->parts + (v / BLOCK * in->n_pairs * BLOCK + v % BLOCK) * 2;
    for (long p = 0; p < in->n_pairs; p++)
        memcpy(to + p * 2 * BLOCK, half + 2 * p, 2 * sizeof *to);
}

/* Returns whether there was no memory. */
int apart(const Apart *in, int n_threads)
{
    int failed = 0;
    long width = 2 * in->n_pairs;
#pragma omp parallel num_threads(n_threads) reduction(| : failed)
    {
        double *x = malloc(2 * (size_t)in->d_model * sizeof *x);
        uint16_t *half = calloc((size_t)width, sizeof *half);
        failed = !x || !half;
#pragma omp for schedule(static)
        for (long v = 0; v < in->n; v++) {
            if (failed)
                continue;
            take_apart(in, v, x, x + in->d_model, half);
            if (in->as_columns)
                spread(in, v, half);
            else
                memcpy(in->parts + v * width, half, (size_t)width * sizeof *half);
        }
        free(x), free(half);
    }
    return failed;
}
