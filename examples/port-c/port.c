/*
 * Batch normalization in C99, from bnspec's SPEC.md, as a program that bnspec-conformance can put to the test:
 *
 *     make && bnspec-conformance run exec:./port
 *
 * Part 1 says what a call is, part 2 is the port, and part 3 is the plumbing of docs/protocol.md: JSON and base64 on
 * standard input and output. To port to another language or chip, write part 2 anew; part 3 can stay as it is.
 *
 * The port has the profiles core, statistics, running, inference and grad. Arithmetic is in double (W of the text), and
 * each result is rounded once, when it is written. Do not compile with -ffast-math: the mean is a pair of numbers whose
 * second holds what rounding lost, and -ffast-math takes rounding to be of no account.
 */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "-ffast-math reorders what has to be rounded in order; compile without it"
#endif
#if FLT_EVAL_METHOD == 2
#error "double is not double here; compile with -msse2 -mfpmath=sse"
#endif

/* ---- 1. A call and its results --------------------------------------------------------------------------------- */

enum { MAX_RANK = 8 };

typedef enum { ABSENT, FLOAT32, FLOAT64, INT64 } Dtype;

typedef struct {
    Dtype dtype;              /* as it came, or as it is to be written; ABSENT where there is no array */
    int rank;
    size_t shape[MAX_RANK], size;
    double *value;            /* of FLOAT32 too: every float is a double */
    int64_t *integer;         /* of INT64 instead */
} Array;

typedef enum { EXPONENTIAL, CUMULATIVE, POOLED, DEBIASED } Averaging;
typedef enum { RAISE, KEEP, FLOOR } SingleValue;
typedef enum { PROPAGATE, SKIP, REFUSE } NonFinite;

typedef struct {
    Array x, dy;                   /* dy is ABSENT unless gradients are asked for */
    Array gamma, beta;             /* (C,); ABSENT is 1 and 0 */
    Array mean, var, counter;      /* the running state, (C,); the counter only where the averaging counts */
    int center, scale;             /* whether beta and gamma exist, and thus their gradients */
    int inference;                 /* normalize by the running state instead of the batch */
    int advance;                   /* the running state is to be updated */
    double epsilon, decay;
    int correction;
    Averaging averaging;
    SingleValue single_value;
    NonFinite nonfinite;
    size_t outer, channels, inner; /* x as [outer][channels][inner], whichever axis the channels are on */
    size_t count;                  /* elements per channel: outer*inner */
} Call;

typedef struct {
    Array y, count, mean, var, dx, dgamma, dbeta; /* part 2 fills those that are not ABSENT */
    Array new_mean, new_var, new_counter;         /* the running state afterwards */
} Results;

#if defined(__GNUC__)
__attribute__((noreturn, format(printf, 2, 3)))
#endif
static void reply(const char *kind, const char *text, ...); /* the answer "refused", "unsupported" or "error" */

/* ---- 2. The port ----------------------------------------------------------------------------------------------- */

static const char HELLO[] =
    "{\"protocol\": 1, \"name\": \"port-c\", \"version\": \"1\","
    " \"profiles\": [\"core\", \"statistics\", \"running\", \"inference\", \"grad\"],"
    " \"dtypes\": [\"float32\", \"float64\"], \"ndims\": [2, 3, 4, 5], \"axes\": \"any\","
    " \"refuses\": [\"BN-SHAPE-1\", \"BN-SHAPE-2\", \"BN-SHAPE-6\"],"
    " \"arithmetic\": \"float64\", \"bound\": \"strict\"}";

/* What normalizes a channel: mean is hi + lo, two numbers that are never added up [BN-MOM-2]. */
typedef struct {
    double hi, lo, var;
} Statistics;

/* Element e of channel c of an array of x's shape. */
static inline double *at(const Array *array, const Call *call, size_t c, size_t e)
{
    return &array->value[(e / call->inner * call->channels + c) * call->inner + e % call->inner];
}

static inline double gamma_of(const Call *call, size_t c)
{
    return call->gamma.dtype == ABSENT ? 1.0 : call->gamma.value[c];
}

static inline double beta_of(const Call *call, size_t c)
{
    return call->beta.dtype == ABSENT ? 0.0 : call->beta.value[c];
}

/* SPEC.md, Moments. Sums run over differences from an element K, so that no digit is lost where the mean is far from
 * zero, and a constant channel has exactly its value as mean and exactly 0 as variance. lo is what hi misses. */
static Statistics moments(const Call *call, size_t c)
{
    Statistics s = {0.0, 0.0, 0.0};
    double n = (double)call->count, k, sum = 0.0;
    size_t e;

    if (call->count == 0)
        return s;
    k = *at(&call->x, call, c, 0);
    for (e = 1; e < call->count; e++)
        if (*at(&call->x, call, c, e) > k)
            k = *at(&call->x, call, c, e);
    for (e = 0; e < call->count; e++)
        sum += *at(&call->x, call, c, e) - k;
    s.hi = k + sum / n;
    for (sum = 0.0, e = 0; e < call->count; e++)
        sum += *at(&call->x, call, c, e) - s.hi;
    s.lo = sum / n;
    for (sum = 0.0, e = 0; e < call->count; e++) {
        double d = (*at(&call->x, call, c, e) - s.hi) - s.lo;
        sum += d * d;
    }
    s.var = sum / n; /* the population variance, whatever the correction [BN-MOM-3] */
    return s;
}

/* SPEC.md, Running statistics, used(): what inference normalizes by. */
static Statistics running(const Call *call, size_t c)
{
    Statistics s = {0.0, 0.0, 1.0};
    double grown = 1.0;

    if (call->averaging == DEBIASED) {
        if (call->counter.integer[c] == 0)
            return s;
        if (call->decay > 0.0) /* 1 - decay^t without losing the digits of a decay close to 1 */
            grown = -expm1((double)call->counter.integer[c] * log(call->decay));
    }
    s.hi = call->mean.value[c] / grown;
    s.var = call->var.value[c] / grown;
    return s;
}

/* SPEC.md, Normalization. The subtraction comes first: x*scale + shift would lose the digits again. */
static void normalize(const Call *call, size_t c, Statistics s, Array *y)
{
    double istd = 1.0 / sqrt(s.var + call->epsilon);
    double scale = gamma_of(call, c) * istd;
    double shift = beta_of(call, c) - s.lo * scale;
    size_t e;

    for (e = 0; e < call->count; e++)
        *at(y, call, c, e) = (*at(&call->x, call, c, e) - s.hi) * scale + shift;
}

/* SPEC.md, Gradients: vjp(); and, by running statistics, which are constants, frozen_vjp() of Inference and frozen. */
static void gradients(const Call *call, size_t c, Statistics s, Results *results)
{
    double n = (double)call->count, istd = 1.0 / sqrt(s.var + call->epsilon);
    double a = gamma_of(call, c) * istd, sum = 0.0, product = 0.0;
    size_t e;

    for (e = 0; e < call->count; e++) {
        double g = *at(&call->dy, call, c, e);
        sum += g;
        product += g * ((*at(&call->x, call, c, e) - s.hi) - s.lo);
    }
    for (e = 0; e < call->count; e++) {
        double g = *at(&call->dy, call, c, e), d = (*at(&call->x, call, c, e) - s.hi) - s.lo;
        *at(&results->dx, call, c, e) =
            call->inference ? a * g : a * g - (a * sum + a * istd * istd * product * d) / n;
    }
    if (call->scale)
        results->dgamma.value[c] = call->count ? product * istd : 0.0; /* of nothing 0, whatever istd is [BN-INF-3] */
    if (call->center)
        results->dbeta.value[c] = sum;
}

/* Weights 0 and 1 take one side to the bit, whatever the other is [BN-RUN-11]. */
static double blend(double old, double new, double weight)
{
    return weight == 0.0 ? old : weight == 1.0 ? new : old + weight * (new - old);
}

/* Whether an array of this dtype can hold the value [BN-RUN-10]. */
static int holds(const Array *array, double value)
{
    return isfinite(value) && (array->dtype == FLOAT64 || fabs(value) <= FLT_MAX);
}

/* SPEC.md, Running statistics, update(). The order of the decisions is that of the text. */
static void update(const Call *call, size_t c, Statistics s, Results *results)
{
    int counts = call->averaging != EXPONENTIAL, pooled = call->averaging == POOLED;
    double n = (double)call->count, seen = counts ? (double)call->counter.integer[c] : 0.0;
    double mean = call->mean.value[c], var = call->var.value[c];
    double mu = s.hi + s.lo, m2 = s.var * n, weight, updated;
    double divisor = (pooled ? seen + n : n) - call->correction;

    results->new_mean.value[c] = mean;
    results->new_var.value[c] = var;
    if (counts)
        results->new_counter.integer[c] = call->counter.integer[c];
    if (call->count == 0) /* [BN-RUN-9] */
        return;
    if (divisor <= 0.0 && call->single_value == RAISE)
        reply("refused",
              "a batch with %lu value per channel (%lu channels); expected more than %d for correction=%d [BN-RUN-4]. "
              "Use a larger batch, correction=0, or single_value keep or floor.",
              (unsigned long)call->count, (unsigned long)call->channels, call->correction, call->correction);
    if (!holds(&call->mean, mu) || !holds(&call->var, m2 / fmax(n - call->correction, 1.0))) {
        if (call->nonfinite == REFUSE)
            reply("refused",
                  "statistics that are not finite in channel %lu; expected finite statistics [BN-RUN-10]. "
                  "Look for NaN or overflow in x, or choose nonfinite skip.",
                  (unsigned long)c);
        if (call->nonfinite == SKIP)
            return;
    }
    if (pooled) { /* all elements seen and those of the batch as one set */
        double old_m2 = seen > call->correction ? var * (seen - call->correction) : 0.0;
        double apart = seen > 0.0 ? (mu - mean) * (mu - mean) * (seen * n / (seen + n)) : 0.0;

        weight = n / (seen + n);
        updated = (old_m2 + m2 + apart) / fmax(divisor, 1.0);
    } else {
        weight = call->averaging == CUMULATIVE ? 1.0 / (seen + 1.0) : 1.0 - call->decay;
        updated = blend(var, m2 / fmax(divisor, 1.0), weight);
    }
    results->new_mean.value[c] = blend(mean, mu, weight);
    if (divisor > 0.0 || call->single_value == FLOOR) /* else KEEP */
        results->new_var.value[c] = updated;
    if (counts) { /* stops at the largest count, never wraps [BN-RUN-13] */
        int64_t step = pooled ? (int64_t)call->count : 1, old = call->counter.integer[c];
        results->new_counter.integer[c] = old > INT64_MAX - step ? INT64_MAX : old + step;
    }
}

/* Everything a call asks for. Channels never meet [BN-MOM-9], so each is done on its own. */
static void batch_norm(const Call *call, Results *results)
{
    size_t c;

    if (!call->inference)
        results->count.integer[0] = (int64_t)call->count;
    for (c = 0; c < call->channels; c++) {
        Statistics s = call->inference ? running(call, c) : moments(call, c);

        if (!call->inference) {
            results->mean.value[c] = s.hi + s.lo;
            results->var.value[c] = s.var;
        }
        normalize(call, c, s, &results->y);
        if (call->dy.dtype != ABSENT)
            gradients(call, c, s, results);
        if (call->advance)
            update(call, c, s, results);
    }
}

/* ---- 3. The plumbing: answers and memory ----------------------------------------------------------------------- */

typedef struct Block {
    struct Block *next;
    double memory[1]; /* aligned for every type used here */
} Block;

static Block *blocks;    /* of the request at hand, released after its answer */
static jmp_buf answered; /* the way back to main from wherever a request ends */

static void reply(const char *kind, const char *text, ...)
{
    char buffer[512], *c;
    va_list arguments;

    va_start(arguments, text);
    vsnprintf(buffer, sizeof buffer, text, arguments);
    va_end(arguments);
    for (c = buffer; *c != '\0'; c++) /* what was quoted from the request must not end the string */
        if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\')
            *c = '?';
    printf("{\"%s\": \"%s\"}\n", kind, buffer);
    longjmp(answered, 1);
}

/* Zeroed memory that lasts until the request is answered. */
static void *allocate(size_t number, size_t size)
{
    Block *block = number < SIZE_MAX / 2 / size ? calloc(1, sizeof *block + number * size) : NULL;

    if (block == NULL)
        reply("error", "no memory for %lu numbers", (unsigned long)number);
    block->next = blocks;
    blocks = block;
    return block->memory;
}

static void release(void)
{
    while (blocks != NULL) {
        Block *next = blocks->next;

        free(blocks);
        blocks = next;
    }
}

/* ---- 3. The plumbing: JSON, read where it stands; a value is a pointer to its first character ------------------ */

static const char *space(const char *at)
{
    return at + strspn(at, " \t\r\n");
}

/* What follows a value; anything that is no JSON ends the request. */
static const char *skip(const char *at, int depth)
{
    static const char *const words[] = {"true", "false", "null"};
    int i;

    if (depth > 32)
        reply("error", "the request has more than 32 levels");
    if (*at == '"') {
        for (at++; *at != '"'; at++)
            if (*at == '\0' || (*at == '\\' && *++at == '\0'))
                reply("error", "the request ends within a string");
        return at + 1;
    }
    if (*at == '{' || *at == '[') {
        char end = *at == '{' ? '}' : ']';

        for (at = space(at + 1); *at != end; at = *at == ',' ? space(at + 1) : at) {
            if (end == '}') {
                at = *at == '"' ? space(skip(at, depth + 1)) : at;
                if (*at != ':')
                    reply("error", "expected a key and a colon, not %.20s", at);
                at = space(at + 1);
            }
            at = space(skip(at, depth + 1));
            if (*at != ',' && *at != end)
                reply("error", "expected a comma or %c, not %.20s", end, at);
        }
        return at + 1;
    }
    if (*at == '-' || (*at >= '0' && *at <= '9'))
        return at + strspn(at, "+-.0123456789eE");
    for (i = 0; i < 3; i++)
        if (strncmp(at, words[i], strlen(words[i])) == 0)
            return at + strlen(words[i]);
    reply("error", "expected a value, not %.20s", *at ? at : "the end of the line");
}

/* A member of an object. Keys are compared as they stand: those of the protocol have no escapes. */
static const char *get(const char *object, const char *key)
{
    const char *at;

    if (*object != '{')
        reply("error", "expected an object with the key %s, not %.20s", key, object);
    for (at = space(object + 1); *at != '}'; at = *at == ',' ? space(at + 1) : at) {
        const char *name = at + 1, *value = space(space(skip(at, 0)) + 1);

        if (strncmp(name, key, strlen(key)) == 0 && name[strlen(key)] == '"')
            return value;
        at = space(skip(value, 0));
    }
    reply("error", "the key %s is missing", key);
}

static int is_null(const char *value)
{
    return *value == 'n';
}

static double get_number(const char *object, const char *key)
{
    const char *value = get(object, key);
    char *end;
    double number = strtod(value, &end);

    if (end != skip(value, 0))
        reply("error", "%s is %.20s; expected a number", key, value);
    return number;
}

static int get_boolean(const char *object, const char *key)
{
    const char *value = get(object, key);

    if (*value != 't' && *value != 'f')
        reply("error", "%s is %.20s; expected true or false", key, value);
    return *value == 't';
}

/* The position of a string in a list that ends with NULL. */
static int get_word(const char *object, const char *key, const char *const *words)
{
    const char *value = get(object, key);
    int i;

    for (i = 0; words[i] != NULL; i++)
        if (*value == '"' && strncmp(value + 1, words[i], strlen(words[i])) == 0 && value[strlen(words[i]) + 1] == '"')
            return i;
    reply(*value == '"' ? "unsupported" : "error", "this port does not know the %s in %.20s", key, value);
}

/* ---- 3. The plumbing: arrays ----------------------------------------------------------------------------------- */

static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char *const DTYPES[] = {"", "float32", "float64", "int64", NULL};

static size_t width(Dtype dtype)
{
    return dtype == FLOAT32 ? 4 : 8;
}

static size_t numbers(int rank, const size_t *shape)
{
    size_t size = 1;
    int i;

    for (i = 0; i < rank; i++) {
        if (shape[i] > 0 && size > SIZE_MAX / 64 / shape[i])
            reply("error", "an array has more numbers than there are addresses");
        size *= shape[i];
    }
    return size;
}

static Array make(Dtype dtype, int rank, const size_t *shape)
{
    Array array;

    memset(&array, 0, sizeof array);
    array.dtype = dtype;
    array.rank = rank;
    array.size = numbers(rank, shape);
    memcpy(array.shape, shape, (size_t)rank * sizeof *shape);
    if (dtype == INT64)
        array.integer = allocate(array.size, sizeof *array.integer);
    else
        array.value = allocate(array.size, sizeof *array.value);
    return array;
}

/* A number as it is written. Here, and nowhere else, results are rounded to their dtype. */
static uint64_t get_bits(const Array *array, size_t i)
{
    float single = array->dtype == FLOAT32 ? (float)array->value[i] : 0.0F;
    uint64_t bits = 0;
    uint32_t half;

    if (array->dtype == FLOAT64)
        memcpy(&bits, &array->value[i], sizeof bits);
    if (array->dtype == INT64)
        memcpy(&bits, &array->integer[i], sizeof bits);
    memcpy(&half, &single, sizeof half);
    return array->dtype == FLOAT32 ? half : bits;
}

static void set_bits(Array *array, size_t i, uint64_t bits)
{
    uint32_t half = (uint32_t)bits;
    float single;

    memcpy(&single, &half, sizeof single);
    if (array->dtype == FLOAT32)
        array->value[i] = single;
    if (array->dtype == FLOAT64)
        memcpy(&array->value[i], &bits, sizeof bits);
    if (array->dtype == INT64)
        memcpy(&array->integer[i], &bits, sizeof bits);
}

/* An array of the request, ABSENT for null. Its bytes are little-endian, whatever this machine is. */
static Array read_array(const char *object, const char *key)
{
    const char *value = get(object, key), *at, *text;
    size_t shape[MAX_RANK], length, digits, i, k;
    unsigned char *bytes;
    int rank = 0;
    Dtype dtype;
    Array array;

    memset(&array, 0, sizeof array);
    if (is_null(value))
        return array;
    at = get(value, "shape");
    for (at = space(at + 1); *at != ']'; at = *at == ',' ? space(at + 1) : at) {
        if (rank == MAX_RANK || *at < '0' || *at > '9')
            reply("error", "the shape of %s is not a list of at most %d extents", key, MAX_RANK);
        shape[rank++] = (size_t)strtoul(at, NULL, 10);
        at = space(skip(at, 0));
    }
    dtype = (Dtype)get_word(value, "dtype", DTYPES);
    text = get(value, "data") + 1;
    length = strcspn(text, "\"");
    digits = (8 * numbers(rank, shape) * width(dtype) + 5) / 6;
    if (length != (digits + 3) / 4 * 4) /* before there is memory for what the shape claims */
        reply("error", "the data of %s has %lu characters; expected %lu of base64", key, (unsigned long)length,
              (unsigned long)((digits + 3) / 4 * 4));
    array = make(dtype, rank, shape);
    bytes = allocate(length + 1, 1);
    for (i = 0; i < length; i++) {
        const char *digit = i < digits ? strchr(DIGITS, text[i]) : text[i] == '=' ? DIGITS : NULL;

        if (digit == NULL)
            reply("error", "the data of %s is no base64", key);
        k = (size_t)(digit - DIGITS) << (10 - 6 * i % 8); /* six bits somewhere in two bytes */
        bytes[6 * i / 8] |= (unsigned char)(k >> 8);
        bytes[6 * i / 8 + 1] |= (unsigned char)k;
    }
    for (i = 0; i < array.size; i++) {
        uint64_t bits = 0;

        for (k = width(dtype); k-- > 0;)
            bits = bits << 8 | bytes[i * width(dtype) + k];
        set_bits(&array, i, bits);
    }
    return array;
}

/* A member of an object with what comes before it; nothing for an absent array. */
static void print_array(const char *before, const char *key, const Array *array)
{
    size_t w = width(array->dtype), bytes = array->size * w, i, k;

    if (array->dtype == ABSENT)
        return;
    printf("%s\"%s\": {\"dtype\": \"%s\", \"shape\": [", before, key, DTYPES[array->dtype]);
    for (k = 0; k < (size_t)array->rank; k++)
        printf("%s%lu", k ? ", " : "", (unsigned long)array->shape[k]);
    printf("], \"data\": \"");
    for (i = 0; i < bytes; i += 3) {
        uint32_t group = 0;

        for (k = i; k < i + 3; k++)
            group = group << 8 | (uint32_t)(k < bytes ? get_bits(array, k / w) >> 8 * (k % w) & 255 : 0);
        for (k = 0; k < 4; k++)
            putchar(i + k > bytes ? '=' : DIGITS[group >> (18 - 6 * k) & 63]);
    }
    printf("\"}");
}

/* ---- 3. The plumbing: requests --------------------------------------------------------------------------------- */

static void require_shape(const Array *array, const char *name, int rank, const size_t *shape)
{
    if (array->dtype != ABSENT && (array->rank != rank || memcmp(array->shape, shape, (size_t)rank * sizeof *shape)))
        reply("refused",
              "%s has %lu numbers on %d axes; expected one number per channel, or x's shape for dy [BN-SHAPE-6]. "
              "Reshape it.",
              name, (unsigned long)array->size, array->rank);
}

static Call read_call(const char *json)
{
    static const char *const averagings[] = {"exponential", "cumulative", "pooled", "debiased", NULL};
    static const char *const single_values[] = {"raise", "keep", "floor", NULL};
    static const char *const nonfinites[] = {"propagate", "skip", "raise", NULL};
    static const char *const modes[] = {"batch", "inference", NULL};
    static const char *const not_here[] = {"gamma_dot", "beta_dot", "dmean", "dvar"};
    const char *config = get(json, "config"), *state = get(json, "state"), *rank = space(get(json, "ranks") + 1);
    double axis = get_number(config, "axis");
    Call call;
    int i;

    memset(&call, 0, sizeof call);
    call.inference = get_word(json, "mode", modes);
    if (*space(skip(rank, 0)) == ',' || !is_null(get(rank, "mask")) || !is_null(get(rank, "xdot")))
        reply("unsupported", "this port has one rank and neither masks nor tangents");
    for (i = 0; i < 4; i++)
        if (!is_null(get(json, not_here[i])))
            reply("unsupported", "this port has no %s", not_here[i]);
    if (!is_null(get(config, "renorm")) || !(call.inference || is_null(get(config, "virtual_batch_size"))))
        reply("unsupported", "this port has neither renorm nor ghost batches");
    call.epsilon = get_number(config, "epsilon");
    call.decay = get_number(config, "decay");
    call.correction = get_number(config, "correction") != 0.0;
    call.center = get_boolean(config, "center");
    call.scale = get_boolean(config, "scale");
    call.averaging = (Averaging)get_word(config, "averaging", averagings);
    call.single_value = (SingleValue)get_word(config, "single_value", single_values);
    call.nonfinite = (NonFinite)get_word(config, "nonfinite", nonfinites);

    call.x = read_array(rank, "x");
    if (call.x.value == NULL || call.x.rank < 2)
        reply("refused", "x has rank %d, or integers; expected floats of rank 2 or more [BN-SHAPE-1]. Reshape it.",
              call.x.rank);
    axis += axis < 0 ? call.x.rank : 0;
    if (axis != floor(axis) || axis < 0 || axis >= call.x.rank)
        reply("refused", "axis is %g for x of rank %d; expected one of its axes [BN-SHAPE-2]. Name one.",
              get_number(config, "axis"), call.x.rank);
    call.channels = call.x.shape[(int)axis];
    for (call.outer = call.inner = 1, i = 0; i < call.x.rank; i++)
        if (i != (int)axis)
            *(i < axis ? &call.outer : &call.inner) *= call.x.shape[i];
    call.count = call.outer * call.inner;

    call.dy = read_array(rank, "dy");
    require_shape(&call.dy, "dy", call.x.rank, call.x.shape);
    if (call.scale)
        call.gamma = read_array(json, "gamma");
    if (call.center)
        call.beta = read_array(json, "beta");
    require_shape(&call.gamma, "gamma", 1, &call.channels);
    require_shape(&call.beta, "beta", 1, &call.channels);
    if (!is_null(state)) {
        call.advance = !call.inference && get_boolean(json, "update");
        call.mean = read_array(state, "mean");
        call.var = read_array(state, "var");
        if (call.averaging != EXPONENTIAL)
            call.counter = read_array(state, "count");
        require_shape(&call.mean, "state.mean", 1, &call.channels);
        require_shape(&call.var, "state.var", 1, &call.channels);
        require_shape(&call.counter, "state.count", 1, &call.channels);
    }
    if ((call.inference || call.advance) && (call.mean.value == NULL || call.var.value == NULL ||
                                            (call.averaging != EXPONENTIAL && call.counter.integer == NULL)))
        reply("error", "the state lacks mean or var, as floats, or count, as integers");
    if (call.dy.integer != NULL || call.gamma.integer != NULL || call.beta.integer != NULL)
        reply("error", "dy, gamma and beta are integers; expected floats");
    return call;
}

/* Room for what the call asks for. */
static Results make_results(const Call *call)
{
    size_t groups[2] = {1, 0}, *channels = groups + 1;
    Results results;

    memset(&results, 0, sizeof results);
    *channels = call->channels;
    results.y = make(call->x.dtype, call->x.rank, call->x.shape);
    if (!call->inference) {
        results.count = make(INT64, 1, groups);
        results.mean = make(FLOAT64, 2, groups);
        results.var = make(FLOAT64, 2, groups);
    }
    if (call->dy.dtype != ABSENT) {
        results.dx = make(call->x.dtype, call->x.rank, call->x.shape);
        if (call->scale)
            results.dgamma = make(call->gamma.dtype != ABSENT ? call->gamma.dtype : call->x.dtype, 1, channels);
        if (call->center)
            results.dbeta = make(call->beta.dtype != ABSENT ? call->beta.dtype : call->x.dtype, 1, channels);
    }
    if (call->advance) {
        results.new_mean = make(call->mean.dtype, 1, channels);
        results.new_var = make(call->var.dtype, 1, channels);
        if (call->counter.dtype != ABSENT)
            results.new_counter = make(INT64, 1, channels);
    }
    return results;
}

static void answer(const char *line)
{
    static const char *const operations[] = {"hello", "run", NULL};
    const char *request = space(line);
    Results r;
    Call call;

    if (*space(skip(request, 0)) != '\0')
        reply("error", "expected one value on the line, and then its end");
    if (get_word(request, "op", operations) == 0) {
        puts(HELLO);
        return;
    }
    call = read_call(get(request, "case"));
    r = make_results(&call);
    batch_norm(&call, &r);
    printf("{\"outcome\": {\"ranks\": [{");
    print_array("", "y", &r.y);
    print_array(", ", "count", &r.count);
    print_array(", ", "mean", &r.mean);
    print_array(", ", "var", &r.var);
    print_array(", ", "dx", &r.dx);
    print_array(", ", "dgamma", &r.dgamma);
    print_array(", ", "dbeta", &r.dbeta);
    print_array(", \"state\": {", "mean", &r.new_mean);
    print_array(", ", "var", &r.new_var);
    print_array(", ", "count", &r.new_counter);
    puts(call.advance ? "}}]}}" : "}]}}");
}

static char *line; /* the request, without its line end */

static int read_line(void)
{
    static size_t room;
    size_t length = 0;
    int c = 0;

    do {
        if (length + 1 >= room && (line = realloc(line, room = 2 * room + 4096)) == NULL)
            return 0;
        c = getchar();
        line[length++] = c == EOF || c == '\n' ? '\0' : c != '\0' ? (char)c : '?';
    } while (c != EOF && c != '\n');
    return c != EOF;
}

int main(void)
{
    while (read_line()) {
        if (setjmp(answered) == 0)
            answer(line);
        release();
        fflush(stdout);
    }
    return EXIT_SUCCESS;
}
