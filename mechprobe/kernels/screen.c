/* Rows times an unembedding in bfloat16, read as the products arrive: see kernels/screen.py.
 *
 * A product is known to within share[row] * size[column]. What that leaves undecided, of the k most
 * likely ids and of what lies above a target, is noted and multiplied again in double. Products are
 * never written down: a block of columns stays in the cache while all rows of a part meet it.
 */
#include <stdlib.h>

#include "native.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define ROWS 6       /* multiplied side by side, by BLOCK columns: what 32 registers hold */
#define PART 384     /* rows of a part, at most: they fill a cache that each core has for itself */
#define SOME 16      /* blocks summed in float before they are added in double */
#define DOUBTS 512   /* columns noted before they are multiplied again */
#define AHEAD 4      /* columns asked for before they are needed */

typedef struct {
    const uint16_t *rows;    /* [row, 2 * n_pairs] */
    const uint16_t *columns; /* [block, n_pairs, BLOCK, 2] */
    const float *x, *W;      /* what they were made from, [row, d_model] and [d_vocab, d_model] */
    const float *share, *size;
    const float *widest;     /* the largest size of every block */
    const int64_t *targets;  /* [n_pos, n_targets] */
    long n_rows, n_pos, d_vocab, d_model, n_pairs, n_targets, k;
} Tile;

/* Columns to be multiplied again, in their order; a bit for each target that one is close to. */
typedef struct {
    long n;
    int32_t id[DOUBTS];
    float rough[DOUBTS];
    uint16_t close[DOUBTS];
} Doubts;

/* What is known of a row so far. */
typedef struct {
    const int64_t *target;
    float best, some[LANES], some_inner[LANES];
    double total, inner; /* of exp(z - best), and of that times z - best */
    double at_target[MAX_TARGETS];
    long above[MAX_TARGETS];
    Top surely; /* what its largest are at least */
    Top top;
    Doubts doubts;
} Row;

/* ROWS times BLOCK. Apart from the reading of it, which needs the registers too. */
#ifdef __AVX512BF16__
__attribute__((noinline)) static void multiply(const uint16_t *const *rows, const uint16_t *columns,
                                               long n_pairs, float (*out)[BLOCK])
{
    __m512 sum[ROWS][BLOCK / LANES];
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < BLOCK / LANES; j++)
            sum[r][j] = _mm512_setzero_ps();
    for (long p = 0; p < n_pairs; p++, columns += 2 * BLOCK) {
        __m512bh w[BLOCK / LANES];
#pragma GCC unroll 4
        for (int j = 0; j < BLOCK / LANES; j++)
            w[j] = (__m512bh)_mm512_loadu_si512(columns + 2 * LANES * j);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            int32_t pair;
            memcpy(&pair, rows[r] + 2 * p, sizeof pair);
            __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
            for (int j = 0; j < BLOCK / LANES; j++)
                sum[r][j] = _mm512_dpbf16_ps(sum[r][j], x, w[j]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < BLOCK / LANES; j++)
            _mm512_storeu_ps(out[r] + LANES * j, sum[r][j]);
}
#else
#define HALF (BLOCK / 2)

static void multiply(const uint16_t *const *rows, const uint16_t *columns, long n_pairs,
                     float (*out)[BLOCK])
{
    for (int first = 0; first < BLOCK; first += HALF) {
        float sum[ROWS][HALF] = {{0}};
        for (long p = 0; p < n_pairs; p++) {
            const uint16_t *restrict w = columns + (p * BLOCK + first) * 2;
            float even[HALF], odd[HALF];
#pragma omp simd
            for (int j = 0; j < HALF; j++)
                even[j] = wide(w[2 * j]), odd[j] = wide(w[2 * j + 1]);
#pragma GCC unroll 6
            for (int r = 0; r < ROWS; r++) {
                float x = wide(rows[r][2 * p]), y = wide(rows[r][2 * p + 1]);
#pragma omp simd
                for (int j = 0; j < HALF; j++)
                    sum[r][j] = (sum[r][j] + x * even[j]) + y * odd[j];
            }
        }
        for (int r = 0; r < ROWS; r++)
            memcpy(out[r] + first, sum[r], sizeof sum[r]);
    }
}
#endif

/* Have a column at hand by the time it is needed. */
static inline void fetch(const float *w, long n)
{
#ifdef __GNUC__
    for (long i = 0; i < n; i += 16)
        __builtin_prefetch(w + i);
#endif
}

/* Keep of the doubts what the column's own bound, and all that was read by now, leave undecided. */
static void sift(const Tile *in, long r, Row *row)
{
    Doubts *doubts = &row->doubts;
    double enough = least_of(&row->surely);
    long kept = 0;
    for (long i = 0; i < doubts->n; i++) {
        int32_t v = doubts->id[i];
        double f = doubts->rough[i], error = (double)in->share[r] * in->size[v];
        unsigned close = doubts->close[i];
        for (long t = 0; t < in->n_targets; t++) {
            double than = row->at_target[t];
            int near = (close >> t & 1) && v != row->target[t] && f + error >= than;
            int surely = near && f - error > than;
            row->above[t] += surely;
            close &= ~((unsigned)(!near || surely) << t);
        }
        doubts->id[kept] = v, doubts->rough[kept] = (float)f, doubts->close[kept] = (uint16_t)close;
        kept += close || f + error >= enough;
    }
    doubts->n = kept;
}

/* Multiply doubts again, and put the exact numbers in the place of the rough ones. */
static void decide(const Tile *in, long r, double *x, Row *row)
{
    Doubts *doubts = &row->doubts;
    sift(in, r, row);
    for (long i = 0; i < in->d_model; i++)
        x[i] = in->x[r * in->d_model + i];
    for (long i = 0; i < AHEAD && i < doubts->n; i++)
        fetch(in->W + doubts->id[i] * in->d_model, in->d_model);
    for (long i = 0; i < doubts->n; i++) {
        if (i + AHEAD < doubts->n)
            fetch(in->W + doubts->id[i + AHEAD] * in->d_model, in->d_model);
        double exact = dot(x, in->W + doubts->id[i] * in->d_model, in->d_model);
        offer(&row->top, exact, doubts->id[i]);
        for (long t = 0; t < in->n_targets; t++)
            row->above[t] += (doubts->close[i] >> t & 1) && exact > row->at_target[t];
        double rough = doubts->rough[i] - row->best, fine = exact - row->best;
        double p_rough = exp_of((float)rough), p_fine = fine < -87 ? p_rough : exp(fine);
        row->total += p_fine - p_rough;
        row->inner += p_fine * fine - p_rough * rough;
    }
    doubts->n = 0;
}

/* Note what of a block may be one of the largest, or lies within the bounds of a target. */
static void note(const float *restrict f, long n, long first, float reach, long n_targets,
                 const float *low, const float *high, Doubts *doubts)
{
    union { uint8_t of[BLOCK]; uint64_t eight[BLOCK / 8]; } doubt = {{0}};
    for (long v = 0; v < n; v++)
        doubt.of[v] = f[v] >= reach;
    for (long t = 0; t < n_targets; t++) {
        float from = low[t], to = high[t];
        for (long v = 0; v < n; v++)
            doubt.of[v] |= (f[v] >= from) & (f[v] <= to);
    }
    for (long e = 0; e < BLOCK / 8; e++)
        if (doubt.eight[e])
            for (long v = e * 8; v < e * 8 + 8; v++)
                if (doubt.of[v]) {
                    unsigned close = 0;
                    for (long t = 0; t < n_targets; t++)
                        close |= (unsigned)(f[v] >= low[t] && f[v] <= high[t]) << t;
                    doubts->close[doubts->n] = (uint16_t)close;
                    doubts->rough[doubts->n] = f[v];
                    doubts->id[doubts->n++] = (int32_t)(first + v);
                }
}

static void collect(Row *row)
{
    for (long j = 0; j < LANES; j++) {
        row->total += row->some[j], row->inner += row->some_inner[j];
        row->some[j] = row->some_inner[j] = 0;
    }
}

static inline void add_some(const float *restrict f, long n, Row *row)
{
    float best = row->best;
#pragma omp simd
    for (long j = 0; j < n; j++) {
        float below = f[j] - best;
        float p = exp_of(below);
        row->some[j] += p;
        row->some_inner[j] += p * below;
    }
}

static void add(const float *f, long n, float top, Row *row)
{
    if (top > row->best) {
        collect(row);
        double by = row->total > 0 ? (double)row->best - top : 0, scale = exp(by);
        row->inner = (row->inner + row->total * by) * scale;
        row->total *= scale;
        row->best = top;
    }
    long at = 0;
    for (; at + LANES <= n; at += LANES)
        add_some(f + at, LANES, row);
    add_some(f + at, n - at, row);
}

/* The products of a row with a block of columns. */
static void read(const Tile *in, long r, long b, const float *restrict f, double *x, Row *row)
{
    long first = b * BLOCK, n = until(first, BLOCK, in->d_vocab) - first;
    float top = -INFINITY, error = in->share[r] * in->widest[b];
#pragma omp simd reduction(max : top)
    for (long v = 0; v < n; v++)
        top = f[v] > top ? f[v] : top;
    add(f, n, top, row);
    if (b % SOME == 0)
        collect(row);
    if (b == 0)
        for (long v = 0; v < n; v++)
            offer(&row->surely, f[v] - (double)error, v);
    else
        offer(&row->surely, top - (double)error, first);
    /* Rounded outwards, so that what is not between them is decided. */
    float reach = (float)(least_of(&row->surely) - error), low[MAX_TARGETS], high[MAX_TARGETS];
    reach -= fabsf(reach) * 1e-6f;
    int any = top >= reach;
    for (long t = 0; t < in->n_targets; t++) {
        float than = (float)row->at_target[t], margin = error + fabsf(than) * 1e-6f;
        float from = low[t] = than - margin, to = high[t] = than + margin;
        int above = 0, not_below = 0;
#pragma omp simd reduction(+ : above, not_below)
        for (long v = 0; v < n; v++) {
            above += f[v] > to;
            not_below += f[v] >= from;
        }
        row->above[t] += above;
        any |= not_below > above;
    }
    if (!any)
        return;
    note(f, n, first, reach, in->n_targets, low, high, &row->doubts);
    if (row->doubts.n > DOUBTS - BLOCK)
        decide(in, r, x, row);
}

static void begin(const Tile *in, long r, double *x, Row *row)
{
    memset(row, 0, sizeof *row);
    row->best = -INFINITY;
    row->target = in->targets + r % in->n_pos * in->n_targets;
    row->top.k = row->surely.k = in->k;
    for (long i = 0; i < in->d_model; i++)
        x[i] = in->x[r * in->d_model + i];
    for (long t = 0; t < in->n_targets; t++)
        row->at_target[t] = dot(x, in->W + row->target[t] * in->d_model, in->d_model);
}

/* Returns whether a row holds something undefined. */
static int finish(const Tile *in, long r, double *x, Row *row, Cells out)
{
    collect(row);
    if (!(isfinite(row->total + row->inner) && in->share[r] <= 3e38f))
        return 1;
    decide(in, r, x, row);
    /* No cross-entropy: it is linear in the row, so the caller has it exactly. */
    store(out, r, in->n_targets, &row->top, row->best, row->total, row->inner, 0, row->at_target);
    for (long t = 0; t < in->n_targets; t++)
        out.rank[r * in->n_targets + t] = row->above[t];
    return 0;
}

static long screen_part(const Tile *in, long first, long end, double *x, Row *state, Cells out)
{
    long n_blocks = (in->d_vocab + BLOCK - 1) / BLOCK, width = 2 * in->n_pairs, undefined = 0;
    for (long r = first; r < end; r++)
        begin(in, r, x, state + r - first);
    for (long b = 0; b < n_blocks; b++)
        for (long at = first; at < end; at += ROWS) {
            const uint16_t *rows[ROWS];
            float f[ROWS][BLOCK];
            for (long i = 0; i < ROWS; i++)
                rows[i] = in->rows + until(at, i, end - 1) * width;
            multiply(rows, in->columns + b * width * BLOCK, in->n_pairs, f);
            for (long r = at; r < until(at, ROWS, end); r++)
                read(in, r, b, f[r - at], x, state + r - first);
        }
    for (long r = first; r < end; r++)
        undefined += finish(in, r, x, state + r - first, out);
    return undefined;
}

/* Returns how many rows hold something undefined; -1 where there is no memory. */
long screen(const Tile *in, int n_threads, const Cells *out)
{
    long n_parts = n_threads, undefined = 0, failed = 0;
    while (in->n_rows > n_parts * PART)
        n_parts += n_threads;
    /* Parts take as long as they hold doubts, so whoever is done takes the next one. */
#pragma omp parallel num_threads(n_threads) reduction(+ : undefined, failed)
    {
        Row *state = malloc(PART * sizeof *state);
        double *x = malloc((size_t)in->d_model * sizeof *x);
        failed = !state || !x;
#pragma omp for schedule(dynamic, 1)
        for (long part = 0; part < n_parts; part++)
            if (!failed)
                undefined += screen_part(in, part * in->n_rows / n_parts,
                                         (part + 1) * in->n_rows / n_parts, x, state, *out);
        free(state), free(x);
    }
    return failed ? -1 : undefined;
}
