/* What is read off rows of logits, in one call: see kernels/native.py for what the numbers mean.
 *
 * `reduce` takes logits in float32. `screen` takes logits that are known only to within an error,
 * and multiplies again, in double, whatever that error leaves undecided.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
static long thread(void) { return omp_get_thread_num(); }
#else
static long thread(void) { return 0; }
#endif

#define BLOCK 64   /* columns of one maximum */
#define CHUNK 1024 /* columns summed in float before they are added in double */
#define MAX_TOP 64
#define MAX_TARGETS 16
#define DOUBTS 1024 /* columns gathered before they are multiplied again */
#define AHEAD 4     /* columns asked for before they are needed */
/* Half a unit in the last place of bfloat16, and 1 % for the roundings of the comparison itself. */
#define OUT_ERROR (0x1p-8f * 1.01f)

typedef struct {
    int64_t *top_id;
    float *top_log_prob, *log_z, *entropy, *cross, *target_log_prob;
    int64_t *rank;
    float *error;
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

/* The k-th largest block maximum: k numbers at least are no smaller. */
static double threshold(const float *maxima, long n_blocks, long k)
{
    Top top = {.k = k};
    for (long b = 0; b < n_blocks; b++)
        offer(&top, maxima[b], b);
    return top.n < k ? -INFINITY : top.value[k - 1];
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

static inline long until(long at, long step, long end) { return at + step < end ? at + step : end; }

static void store(Cells out, long row, long n_targets, const Top *top, double best, double total,
                  double inner, double with_ref, const double *at_target)
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

typedef struct {
    const uint16_t *z;   /* products less `shift`, in bfloat16, [row, d_vocab] */
    const float *x, *W;  /* what was multiplied, [row, d_model] and [d_vocab, d_model] */
    const float *size;   /* a product errs by at most share[row] * size[column] */
    const float *widest; /* the largest size of every block */
    const float *share;
    const double *shift;
    const int64_t *targets;
    long n_rows, d_vocab, d_model, n_pos, n_targets, k;
} Screened;

typedef struct {
    double best, shift, total, inner;
    Top top;
    double at_target[MAX_TARGETS];
    long above[MAX_TARGETS];
} Sums;

/* What a rough number must be for the exact one to be at least `value`, or surely more. */
static inline float may_reach(float value, float error)
{
    const float over = 1 / (1 + OUT_ERROR), under = 1 / (1 - OUT_ERROR);
    float y = value - error;
    return y * (y >= 0 ? over : under);
}

static inline float must_exceed(float value, float error)
{
    const float over = 1 / (1 + OUT_ERROR), under = 1 / (1 - OUT_ERROR);
    float y = value + error;
    return y * (y >= 0 ? under : over);
}

/* Columns to be multiplied again, in their order; a bit for each target that one is close to. */
typedef struct {
    long n;
    int64_t id[DOUBTS];
    uint16_t close[DOUBTS];
} Doubts;

/* In 32 sums side by side: added one after the other, each addition would wait for the last. */
static double dot(const double *restrict x, const float *restrict w, long n)
{
    double sums[32] = {0}, sum = 0;
    long i = 0;
    for (; i + 32 <= n; i += 32)
#pragma omp simd
        for (long j = 0; j < 32; j++)
            sums[j] += x[i + j] * w[i + j];
    for (; i < n; i++)
        sum += x[i] * w[i];
    for (long j = 0; j < 32; j++)
        sum += sums[j];
    return sum;
}

/* Have a column at hand by the time it is needed. */
static inline void fetch(const float *w, long n)
{
#ifdef __GNUC__
    for (long i = 0; i < n; i += 16)
        __builtin_prefetch(w + i);
#endif
}

/* Multiply again a number that is undecided, and put it in the place of the rough one. */
static void decide(const Screened *in, long row, const double *x, long v, int close, float enough,
                   Sums *sums)
{
    float f = wide(in->z[row * in->d_vocab + v]);
    float error = in->share[row] * in->size[v] + OUT_ERROR * fabsf(f);
    const int64_t *target = in->targets + (row % in->n_pos) * in->n_targets;
    int needed = f + error >= enough, near[MAX_TARGETS];
    for (long t = 0; t < in->n_targets; t++) {
        float than = (float)sums->at_target[t];
        near[t] = (close >> t & 1) && v != target[t] && f + error >= than;
        int surely = near[t] && f - error > than;
        sums->above[t] += surely;
        needed |= near[t] &= !surely;
    }
    if (!needed)
        return;
    double exact = dot(x, in->W + v * in->d_model, in->d_model) - sums->shift;
    offer(&sums->top, exact, v);
    for (long t = 0; t < in->n_targets; t++)
        sums->above[t] += near[t] && exact > sums->at_target[t];
    double rough = f - sums->best, fine = exact - sums->best;
    double p_rough = exp_of((float)rough), p_fine = fine < -87 ? p_rough : exp(fine);
    sums->total += p_fine - p_rough;
    sums->inner += p_fine * fine - p_rough * rough;
}

static void decide_all(const Screened *in, long row, const double *x, float enough, Doubts *doubts,
                       Sums *sums)
{
    for (long i = 0; i < AHEAD && i < doubts->n; i++)
        fetch(in->W + doubts->id[i] * in->d_model, in->d_model);
    for (long i = 0; i < doubts->n; i++) {
        if (i + AHEAD < doubts->n)
            fetch(in->W + doubts->id[i + AHEAD] * in->d_model, in->d_model);
        decide(in, row, x, doubts->id[i], doubts->close[i], enough, sums);
    }
    doubts->n = 0;
}

/* Go once more over a block that may hold one of the largest, or a number near a target. */
static void look(const Screened *in, long row, long b, float least, float most, float enough,
                 Doubts *doubts, Sums *sums)
{
    long at = b * BLOCK, n = until(at, BLOCK, in->d_vocab) - at;
    const uint16_t *restrict z = in->z + row * in->d_vocab + at;
    float error = in->share[row] * in->widest[b], low[MAX_TARGETS], high[MAX_TARGETS];
    float reach = may_reach(enough, error);
    int any = most >= reach;
    for (long t = 0; t < in->n_targets; t++) {
        float from = low[t] = may_reach((float)sums->at_target[t], error);
        float to = high[t] = must_exceed((float)sums->at_target[t], error);
        int above = 0, not_below = 0;
        if (least > to)
            above = not_below = (int)n;
        else if (most >= from)
#pragma omp simd reduction(+ : above, not_below)
            for (long v = 0; v < n; v++) {
                float f = wide(z[v]);
                above += f > to;
                not_below += f >= from;
            }
        sums->above[t] += above;
        any |= not_below > above;
    }
    if (!any)
        return;
    union { uint8_t of[BLOCK]; uint64_t eight[BLOCK / 8]; } doubt = {{0}};
    for (long v = 0; v < n; v++)
        doubt.of[v] = wide(z[v]) >= reach;
    for (long t = 0; t < in->n_targets; t++) {
        float from = low[t], to = high[t];
        for (long v = 0; v < n; v++)
            doubt.of[v] |= (wide(z[v]) >= from) & (wide(z[v]) <= to);
    }
    for (long e = 0; e < BLOCK / 8; e++)
        if (doubt.eight[e])
            for (long v = e * 8; v < e * 8 + 8; v++)
                if (doubt.of[v]) {
                    unsigned close = 0;
                    for (long t = 0; t < in->n_targets; t++)
                        close |= (unsigned)(wide(z[v]) >= low[t] && wide(z[v]) <= high[t]) << t;
                    doubts->close[doubts->n] = (uint16_t)close;
                    doubts->id[doubts->n++] = at + v;
                }
}

static int screen_row(const Screened *in, long row, double *x, float *blocks, Cells out)
{
    const uint16_t *restrict z = in->z + row * in->d_vocab;
    const int64_t *target = in->targets + (row % in->n_pos) * in->n_targets;
    long n_blocks = (in->d_vocab + BLOCK - 1) / BLOCK;
    float *least = blocks, *most = blocks + n_blocks, *surely = most + n_blocks;
    float best = -INFINITY, worst = 0;
    for (long b = 0; b < n_blocks; b++) {
        long at = b * BLOCK, end = until(at, BLOCK, in->d_vocab);
        float low = INFINITY, top = -INFINITY;
#pragma omp simd reduction(max : top) reduction(min : low)
        for (long v = at; v < end; v++) {
            float f = wide(z[v]);
            top = f > top ? f : top;
            low = f < low ? f : low;
        }
        float error = in->share[row] * in->widest[b];
        float far = fabsf(top) > fabsf(low) ? fabsf(top) : fabsf(low);
        least[b] = low, most[b] = top;
        surely[b] = top - error - OUT_ERROR * fabsf(top);
        best = top > best ? top : best;
        worst = error + OUT_ERROR * far > worst ? error + OUT_ERROR * far : worst;
    }
    Sums sums = {.best = best, .shift = in->shift[row], .top = {.k = in->k}};
    for (long at = 0; at < in->d_vocab; at += CHUNK) {
        long end = until(at, CHUNK, in->d_vocab);
        float s = 0, i = 0;
#pragma omp simd reduction(+ : s, i)
        for (long v = at; v < end; v++) {
            float below = wide(z[v]) - best;
            float p = exp_of(below);
            s += p;
            i += p * below;
        }
        sums.total += s, sums.inner += i;
    }
    if (!(isfinite(sums.total + sums.inner) && worst <= 3e38f))
        return 1;
    for (long i = 0; i < in->d_model; i++)
        x[i] = in->x[row * in->d_model + i];
    for (long t = 0; t < in->n_targets; t++)
        sums.at_target[t] = dot(x, in->W + target[t] * in->d_model, in->d_model) - sums.shift;
    float enough = (float)threshold(surely, n_blocks, in->k);
    Doubts doubts = {.n = 0};
    for (long b = 0; b < n_blocks; b++) {
        look(in, row, b, least[b], most[b], enough, &doubts, &sums);
        if (doubts.n > DOUBTS - BLOCK || b == n_blocks - 1)
            decide_all(in, row, x, enough, &doubts, &sums);
    }
    /* No cross-entropy: it is linear in the row, so the caller has it exactly. */
    store(out, row, in->n_targets, &sums.top, best, sums.total, sums.inner, 0, sums.at_target);
    out.log_z[row] = (float)(best + log(sums.total) + sums.shift);
    for (long t = 0; t < in->n_targets; t++)
        out.rank[row * in->n_targets + t] = sums.above[t];
    out.error[row] = worst;
    return 0;
}

/* Returns how many rows hold something undefined; scratch is of each thread: three numbers of every
 * block, and a row in double. */
long screen(const Screened *in, float *blocks, double *x, int n_threads, const Cells *out)
{
    long n_blocks = (in->d_vocab + BLOCK - 1) / BLOCK, undefined = 0;
    /* Rows take as long as they hold doubts, so whoever is done takes the next ones. */
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 4) reduction(+ : undefined)
    for (long r = 0; r < in->n_rows; r++) {
        long me = thread();
        undefined += screen_row(in, r, x + me * in->d_model, blocks + 3 * me * n_blocks, *out);
    }
    return undefined;
}
